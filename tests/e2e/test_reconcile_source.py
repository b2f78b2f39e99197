"""Members and a source's export drift apart; `loyalty reconcile source` finds each difference, says why, and mends it by events alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import Codec, R
from schemas.contract import Command, member_key
from schemas.records import Account, Enrolment, MemberStatus, ProfileChange, SyncAudit, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.ingress.commands import TOPIC_OF
from streams.settings import PREFIX, Settings
from streams.tables import app_id, changelog_name
from tests.e2e import oracle
from tests.e2e.processes import Pipeline
from tests.engine import log
from tests.waiting import wait_until

TIMEOUT_S = 60
MASTERING = '[programs.grand.mastering]\nemail = "salesforce"\nsegments = "salesforce"\nstatus = "salesforce"\n'
COLUMNS = ("--id", "Loyalty_Id__c", "--version", "Version", "--map", "Email=email", "--map", "Tags=segments", "--map", "State=status",
           "--status", "Active=ACTIVE", "--status", "Terminated=SUSPENDED")  # fmt: skip
HEADER = "Loyalty_Id__c,Version,Email,Tags,State\n"


@dataclass(slots=True)
class World:
    settings: Settings
    worker: Pipeline
    folder: Path
    sent: int = 0

    def send(self, *commands: Command) -> None:
        """Send, and wait until the worker has answered all that was sent so far."""
        codec, producer = Codec(LocalRegistry()), kafka.producer(self.settings)
        for command in commands:
            producer.produce(TOPIC_OF[type(command)].name(self.settings.topic_prefix), codec.encode(command),
                             member_key(command.program_id, command.member_id))  # fmt: skip
        assert producer.flush(30) == 0
        self.sent += len(commands)
        self.wait_answered()

    def wait_answered(self) -> None:
        """End offsets are an upper bound of the answers: the topic is read only when it can hold them all."""
        topic = topics.SYNC_AUDIT.name(self.settings.topic_prefix)
        wait_until(lambda: log.end_offsets(self.settings.kafka_bootstrap_servers, topic) >= self.sent and len(self.audits()) >= self.sent, TIMEOUT_S)

    def audits(self) -> list[SyncAudit]:
        found = self.records(topics.SYNC_AUDIT.name(self.settings.topic_prefix), SyncAudit)
        return [audit for audit in found if audit.stream != topics.PROGRAMS.stream]

    def repairs(self) -> list[SyncAudit]:
        """Answers to the events that `reconcile` sent."""
        return [audit for audit in self.audits() if audit.command_id.startswith("reconcile:")]

    def accounts(self) -> dict[str, Account]:
        return {account.member_id: account for account in self.records(changelog_name(app_id(self.settings), "accounts"), Account)}

    def records(self, topic: str, record: type[R]) -> list[R]:
        """All committed records of a topic."""
        codec = Codec(LocalRegistry())
        return [codec.decode(one.value, record) for one in log.read(self.settings.kafka_bootstrap_servers, topic)]

    def export(self, text: str, name: str = "export.csv") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    @contextmanager
    def running(self, export: Path | str, *options: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "streams.cli", "reconcile", "source", "--program", "grand", "--source", "salesforce", str(export), "--json",
                   *options]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | self.settings.environment()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def reconcile(self, export: Path | str, *options: str) -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, differences, and what it said beside them."""
        with self.running(export, *options) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, [json.loads(line) for line in out.splitlines()], err


@pytest.fixture
def settings(make_settings: Any, request: pytest.FixtureRequest) -> Settings:
    history = {} if getattr(request, "param", "") == "history" else {"clickhouse_url": "http://127.0.0.1:1"}
    settings: Settings = make_settings(redis_url="redis://unused", **history)
    return settings


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> Iterator[World]:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML + MASTERING)
    settings = replace(settings, config_file=str(config_file))
    worker = Pipeline(settings, "worker")
    try:
        yield World(settings, worker.wait_ready(), tmp_path)
    finally:
        worker.kill()


def enrolment(member_id: str, version: int = 5, **changes: Any) -> Enrolment:
    fields: dict[str, Any] = {"attributes": {"email": f"{member_id.lower()}@example.org"}, "segments": ("spa",)}
    fields |= {"event_id": f"sf:{member_id}:{version}", "source_system": "salesforce"}
    return Enrolment(program_id="grand", member_id=member_id, occurred_at_ms=version, source_version=version, **(fields | changes))


def change(member_id: str, version: int | None, *, source: str = "salesforce", event_id: str = "", **changes: Any) -> ProfileChange:
    event_id = event_id or f"{source}:{member_id}:{version}"
    return ProfileChange(program_id="grand", member_id=member_id, event_id=event_id, source_system=source, occurred_at_ms=version or 1,
                         source_version=version, **changes)  # fmt: skip


def row(member_id: str, version: int = 5, *, email: str | None = None, tags: str = "spa", state: str = "Active") -> str:
    return f"{member_id},{version},{f'{member_id.lower()}@example.org' if email is None else email},{tags},{state}\n"


EXPORT = HEADER + "".join([
    row("M-SAME"), row("M-EMAIL", 9, email="new@example.org"), row("M-TAGS", 9, tags="golf;spa"), row("M-STATUS", 9, state="Terminated"),
    row("M-NEW", 3), row("M-WAITS", 4, state="Terminated"), row("M-BEHIND", 8), row("M-AHEAD", 6),
])  # fmt: skip


def drift(world: World) -> None:
    """What came, and what did not."""
    world.send(*(enrolment(name) for name in ("M-SAME", "M-EMAIL", "M-TAGS", "M-STATUS", "M-BEHIND", "M-AHEAD", "M-GONE")))
    world.send(
        change("M-AHEAD", 7, attributes={"email": "m-ahead@example.org"}),
        Transaction(program_id="grand", member_id="M-WAITS", transaction_id="pos:1", source_system="pos", occurred_at_ms=1,
                    kind=TransactionKind.EARN, points=50),
    )  # fmt: skip


def test_each_difference_is_found_explained_and_repaired(world: World) -> None:
    drift(world)
    export = world.export(EXPORT)
    code, found, said = world.reconcile(export, *COLUMNS, "--absent", "SUSPENDED")
    by_member = {one["member_id"]: one for one in found}
    assert code == 1, said
    assert {name: (one["kind"], one["part"]) for name, one in by_member.items()} == {
        "M-AHEAD": ("version_ahead", ""), "M-BEHIND": ("version_behind", ""), "M-EMAIL": ("attribute", "email"), "M-GONE": ("missing_there", ""),
        "M-NEW": ("missing_here", ""), "M-STATUS": ("status", "status"), "M-TAGS": ("attribute", "segments"), "M-WAITS": ("missing_here", ""),
    }  # fmt: skip
    assert (by_member["M-EMAIL"]["ours"], by_member["M-EMAIL"]["theirs"]) == ("m***", "n***"), "personal data is masked"
    assert by_member["M-EMAIL"]["explanation"].startswith("never arrived: the newest event of salesforce for this member is version 5, the export has 9")
    assert "1 command for them waits for the enrolment since" in by_member["M-WAITS"]["explanation"]
    assert by_member["M-AHEAD"]["repair"].startswith("none: ")
    assert "8 events would be sent" in said and "The audit was not asked" in said
    before = world.accounts()
    assert len(world.audits()) == world.sent, "a dry run sends nothing"

    code, repaired, said = world.reconcile(export, *COLUMNS, "--absent", "SUSPENDED", "--repair")
    assert code == 1 and [one["repair"] for one in repaired] == [one["repair"] for one in found], "it sends what it said it would"
    assert "8 events were sent" in said
    world.sent += 8 + 1  # The command that waited has a second answer.
    world.wait_answered()
    after = world.accounts()
    assert after["M-EMAIL"].attributes["email"] == "new@example.org" and after["M-TAGS"].segments == ("golf", "spa")
    assert {name: after[name].status for name in ("M-STATUS", "M-GONE", "M-WAITS", "M-NEW", "M-SAME")} == {
        "M-STATUS": MemberStatus.SUSPENDED, "M-GONE": MemberStatus.SUSPENDED, "M-WAITS": MemberStatus.SUSPENDED, "M-NEW": MemberStatus.ACTIVE,
        "M-SAME": MemberStatus.ACTIVE,
    }  # fmt: skip
    assert (before["M-SAME"], before["M-AHEAD"]) == (after["M-SAME"], after["M-AHEAD"]), "what is not repaired is not touched"
    audits = world.repairs()
    assert {audit.result for audit in audits} <= {"APPLIED", "WAITING"} and {audit.actor for audit in audits} == {"loyalty reconcile"}
    assert {audit.source_system for audit in audits} == {"salesforce"}
    assert all((audit.correlation_id or "").startswith("reconcile:") for audit in audits)

    newer = world.export(EXPORT.replace(row("M-AHEAD", 6), row("M-AHEAD", 7)))
    code, found, said = world.reconcile(newer, *COLUMNS, "--absent", "SUSPENDED")
    assert (code, found) == (0, []), said
    assert "No difference: 8 rows compared, 9 members in all" in said


def test_a_repair_that_was_killed_and_is_repeated_changes_nothing_twice(world: World) -> None:
    """The worker stands still meanwhile: what the killed run sent and what the next one sends are in the topic beside each other."""
    count = 3_000
    world.send(*(enrolment(f"M-{number:04}") for number in range(count)))
    export = world.export(HEADER + "".join(row(f"M-{number:04}", 9, tags="golf") for number in range(count)))
    world.worker.process.send_signal(signal.SIGSTOP)
    try:
        topic = topics.PROFILE_CHANGES.name(world.settings.topic_prefix)
        with world.running(export, *COLUMNS, "--repair") as process:
            assert process.stdout is not None and process.stdout.readline(), "it tells what it has sent"
            process.kill()
        sent = len(world.records(topic, ProfileChange))
        assert 0 < sent < count, "it was killed on its way"
        code, found, _ = world.reconcile(export, *COLUMNS, "--repair")
        assert (code, len(found)) == (1, count)
    finally:
        world.worker.process.send_signal(signal.SIGCONT)
    world.sent += sent + count
    world.wait_answered()
    accounts = world.accounts()
    assert {account.segments for account in accounts.values()} == {("golf",)}
    assert {(account.profile_version, account.event_sequence) for account in accounts.values()} == {(2, 2)}, "one change each"
    audits = world.repairs()
    assert sum(not audit.replayed for audit in audits) == count and {audit.result for audit in audits} == {"APPLIED"}
    assert world.reconcile(export, *COLUMNS)[:2] == (0, [])


@pytest.mark.parametrize("settings", ["history"], indirect=True)
def test_the_audit_names_the_event_that_was_refused_or_superseded(world: World) -> None:
    sink = Pipeline(world.settings, "sink", "clickhouse")
    try:
        sink.wait_ready()
        world.send(enrolment("M-OLD"), enrolment("M-CONFLICT"), enrolment("M-LOST"))
        world.send(change("M-OLD", 12, attributes={"email": "twelve@example.org"}), change("M-CONFLICT", 6, event_id="sf:again", segments=("spa",)))
        world.send(change("M-OLD", 9, attributes={"email": "nine@example.org"}), change("M-CONFLICT", 7, event_id="sf:again", segments=("golf",)))
        world.send(change("M-LOCAL", 1, source="app", event_id="app:1", attributes={"nickname": "A"}),
                   enrolment("M-LOCAL", source_system="app", event_id="app:2"))  # fmt: skip
        export = world.export(HEADER + row("M-OLD", 9, email="nine@example.org") + row("M-CONFLICT", 7, tags="golf") + row("M-LOST", 9, tags="")
                              + row("M-LOCAL", 3))  # fmt: skip

        def explanations() -> dict[str, str]:
            code, found, said = world.reconcile(export, *COLUMNS)
            assert code == 1 and "The audit was not asked" not in said
            return {one["member_id"]: one["explanation"] for one in found}

        wait_until(lambda: "was superseded" in explanations()["M-OLD"] and "a conflict" in explanations()["M-CONFLICT"], TIMEOUT_S)
        found = explanations()
        assert found["M-OLD"].startswith("event salesforce:M-OLD:9 ") and ", by event salesforce:M-OLD:12 of salesforce version 12" in found["M-OLD"]
        assert found["M-CONFLICT"].startswith("event sf:again ") and found["M-CONFLICT"].endswith(": ID_REUSED")
        assert found["M-LOST"].startswith("never arrived: the newest event of salesforce for this member is version 5")
        assert "1 command for them waits for the enrolment" in found["M-LOCAL"], "an app's enrolment was refused: only salesforce enrols"
    finally:
        sink.kill()


def test_by_an_external_id_and_in_other_forms(world: World) -> None:
    world.send(enrolment("M-1", external_ids={"crm": "003A"}), enrolment("M-2", external_ids={"crm": "003B"}))
    lines = [{"Id": "003A", "Email": "m-1@example.org"}, {"Id": "003B", "Email": "other@example.org"}, {"Id": "003C", "Email": "c@example.org"}]
    export = world.export("".join(json.dumps(line) + "\n" for line in lines), "export.jsonl")
    mapping = world.export('[external_id]\ncrm = "Id"\n[columns]\nEmail = "email"\n', "mapping.toml")
    code, found, _ = world.reconcile(export, "--mapping", str(mapping), "--show")
    assert code == 1
    assert [(one["kind"], one["member_id"], one["ours"], one["theirs"]) for one in found] == [
        ("missing_here", "", None, None), ("attribute", "M-2", "m-2@example.org", "other@example.org"),
    ]  # fmt: skip
    assert found[0]["repair"] == "none: the export has no member id: --id names the column with the one to enrol under"


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        (HEADER + row("M-1") + row("M-2") + row("M-1", 6), COLUMNS, "export.csv line 4: is a second row for the member of line 2."),
        (HEADER + "M-1,x,,,Active\n" + "M-2,5,,,Gone\n", COLUMNS, "export.csv line 2: 'Version' must be a whole number"),
        (HEADER, COLUMNS[:2], "columns (--map) must name one column at least"),
        (HEADER + row("M-1"), ("--id", "Loyalty_Id__c", "--map", "Email=nickname"), "Nothing of nickname is mastered by salesforce in version 1"),
    ],
)
def test_what_must_be_mended_is_told_before_anything_is_compared(world: World, text: str, options: tuple[str, ...], why: str) -> None:
    code, found, said = world.reconcile(world.export(text), *options, "--repair")
    assert (code, found) == (2, []) and why in said
    assert len(world.audits()) == 0

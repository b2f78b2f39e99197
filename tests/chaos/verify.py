"""The independent verdict: every partition is recounted from its inputs, in a process of its own, then ClickHouse is asked.

All that concerns a member is in one partition of every topic, so memory is bounded by the largest partition of those at work.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streams.settings import Settings
from tests.chaos import compare, history, ledger, records
from tests.chaos.findings import Findings

PROCESSES = 2
IN_PROCESS_INPUTS_MAX = 100_000  # Below it, starting processes takes longer than they save.
STREAMS = ("enrolments.v1", "transactions.v1", "events.v1", "ledger-entries.v1", "profiles.v1", "dead-letters.v1", "sync-audit.v1")
TABLES = {"accounts": "account", "outcomes": "outcome", "waiting": "waiting_commands"}


@dataclass(slots=True)
class Verdict:
    """What one partition, or all of them, came to."""

    findings: Findings = field(default_factory=Findings)
    wanted: history.History = field(default_factory=history.History)
    inputs: int = 0
    records: int = 0
    """Compared, in topics and tables."""


def verify(settings: Settings, folders: list[Path], *, inputs: int, on_partition: Callable[[int], None] = lambda _: None) -> Verdict:
    """The pipeline must have stopped; broker and ClickHouse run. `folders`: those of the workers' states. `inputs`: how many were sent."""
    whole = Verdict()
    whole.findings.looked_for("inputs lost by the broker")
    for done, part in enumerate(_parts(settings, folders, inputs), 1):
        whole.findings.merge([part.findings])
        whole.wanted.merge(part.wanted)
        whole.inputs += part.inputs
        whole.records += part.records
        on_partition(done)
    if whole.inputs != inputs:
        whole.findings.add("inputs lost by the broker", "all", "inbound topics", inputs, whole.inputs, abs(inputs - whole.inputs))
    client = history.connect(settings)
    try:
        history.check_history(client, whole.wanted, whole.findings)
    finally:
        client.close()
    return whole


def _parts(settings: Settings, folders: list[Path], inputs: int) -> Iterator[Verdict]:
    """Of every partition, as they come."""
    partitions = range(settings.kafka_partitions)
    if inputs <= IN_PROCESS_INPUTS_MAX:
        with _log(settings) as log:
            yield from (_verify_log(settings, folders, partition, log) for partition in partitions)
        return
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(verify_partition, settings, folders, partition) for partition in partitions]
        yield from (job.result() for job in as_completed(jobs))


def verify_partition(settings: Settings, folders: list[Path], partition: int) -> Verdict:
    """Everything that one partition holds."""
    with _log(settings) as log:
        return _verify_log(settings, folders, partition, log)


def _log(settings: Settings) -> records.Log:
    names = (*STREAMS, *(f"worker-{table}-changelog" for table in TABLES))
    return records.Log(settings.kafka_bootstrap_servers, [f"{settings.topic_prefix}.{name}" for name in names])


def _verify_log(settings: Settings, folders: list[Path], partition: int, log: records.Log) -> Verdict:
    verdict = Verdict()
    read = _Reader(settings, partition, verdict, log)
    findings = verdict.findings
    expected = ledger.expect(read.lines("enrolments.v1", "enrolment"), read.lines("transactions.v1", "transaction"))
    verdict.inputs = verdict.records
    members = expected.members
    place = read.name
    compare.check_sequence(
        "events", place("events.v1"), read.lines("events.v1", "loyalty_event"),
        {key: member.events for key, member in members.items()}, compare.event_view, findings,
    )  # fmt: skip
    compare.check_sequence(
        "entries", place("ledger-entries.v1"), read.lines("ledger-entries.v1", "ledger_entry"),
        {key: member.entries for key, member in members.items()}, compare.entry_view, findings,
    )  # fmt: skip
    compare.check_versions(place("profiles.v1"), read.lines("profiles.v1", "member_profile"), members, findings)
    compare.check_dead_letters(place("dead-letters.v1"), read.lines("dead-letters.v1", "dead_letter"), findings)
    # The rules' own publication is audited as well, and answers no command.
    audits = [line for line in read.lines("sync-audit.v1", "sync_audit") if line.value is None or line.value["stream"] != "programs"]
    audited = compare.check_audits(place("sync-audit.v1"), audits, expected, findings)
    _check_tables(settings, folders, partition, members, verdict, log)
    verdict.wanted.add(members, audited.records, audited.refusals)
    return verdict


class _Reader:
    """Topics of one partition; counts what it reads."""

    def __init__(self, settings: Settings, partition: int, verdict: Verdict, log: records.Log) -> None:
        self._settings, self._partition, self._verdict, self._log = settings, partition, verdict, log

    def name(self, stream: str) -> str:
        return f"{self._settings.topic_prefix}.{stream}[{self._partition}]"

    def lines(self, stream: str, record: str) -> Any:
        topic = f"{self._settings.topic_prefix}.{stream}"
        for line in self._log.lines(topic, self._partition, record):
            self._verdict.records += 1
            yield line


def _check_tables(
    settings: Settings, folders: list[Path], partition: int, members: dict[str, ledger.Member], verdict: Verdict, log: records.Log
) -> None:
    findings = verdict.findings
    findings.looked_for("waiting rows left", "partitions without a state")
    state = records.freshest(folders, partition)
    if state is None:
        findings.add("partitions without a state", str(partition), ", ".join(map(str, folders)), "a folder", "none")
    try:
        for table in TABLES:
            topic = f"{settings.topic_prefix}.worker-{table}-changelog"
            place = f"{topic}[{partition}]"
            changelog = log.table(topic, partition)
            verdict.records += len(changelog)
            if state is not None:
                compare.check_state(f"{state.folder} {table}", changelog, state.rows(table), findings)
            rows = {key.decode(): records.decode(value, TABLES[table]) for key, value in changelog.items()}
            if table == "waiting":
                for key in rows:
                    findings.add("waiting rows left", key, place, "no row", "a row")
            elif table == "accounts":
                found = {key: compare.account_row(value) for key, value in rows.items()}
                compare.check_rows("accounts", place, compare.wanted_accounts(members), found, findings)
            else:
                found = {key: compare.outcome_row(value) for key, value in rows.items()}
                compare.check_rows("outcomes", place, compare.wanted_outcomes(members), found, findings)
    finally:
        if state is not None:
            state.close()

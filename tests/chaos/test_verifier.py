"""A test of the test: whatever of the pipeline's results is changed by one thing, the verifier finds, and names what it is."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from schemas.records import Enrolment
from tests.chaos import compare, history, ledger
from tests.chaos.findings import Findings
from tests.chaos.ledger import Expected, Line
from tests.e2e import oracle, traffic

SEED, MEMBERS, TRANSACTIONS = 20261125, 12, 600
ALL_KINDS = {
    *compare.sequence_kinds("events"), *compare.sequence_kinds("entries"), *compare.sequence_kinds("profile versions"), *compare.AUDIT_KINDS,
    *compare.TABLE_KINDS, *compare.STATE_KINDS, *history.KINDS, "dead letters",
}  # fmt: skip


def inputs() -> tuple[list[Line], list[Line]]:
    """Enrolments and transactions as one partition would hold them."""
    enrolments: list[Line] = []
    transactions: list[Line] = []
    for command in traffic.commands(SEED, MEMBERS, TRANSACTIONS):
        lines = enrolments if isinstance(command, Enrolment) else transactions
        lines.append(Line(len(lines), f"grand/{command.member_id}", command.to_avro()))
    return enrolments, transactions


@dataclass
class Results:
    """What a faultless pipeline leaves behind, in the form in which it is read."""

    expected: Expected
    events: list[Line]
    entries: list[Line]
    profiles: list[Line]
    audits: list[Line]
    dead: list[Line]
    accounts: dict[str, tuple[Any, ...]]
    outcomes: dict[str, tuple[Any, ...]]
    changelog: dict[bytes, bytes]
    state: dict[bytes, bytes]
    tables: dict[str, list[tuple[Any, ...]]]
    """Of ClickHouse, by view or table."""

    def query(self, query: str) -> Any:
        """As a ClickHouse client does."""
        (name,) = [name for name, text in (history.QUERIES | history.TOTALS).items() if text == query]
        return type("Answer", (), {"result_rows": self.tables[name]})

    def verify(self) -> Findings:
        findings, members = Findings(), self.expected.members
        events = {key: member.events for key, member in members.items()}
        entries = {key: member.entries for key, member in members.items()}
        compare.check_sequence("events", "events[0]", self.events, events, compare.event_view, findings)
        compare.check_sequence("entries", "entries[0]", self.entries, entries, compare.entry_view, findings)
        compare.check_versions("profiles[0]", self.profiles, members, findings)
        compare.check_dead_letters("dead[0]", self.dead, findings)
        audited = compare.check_audits("audit[0]", self.audits, self.expected, findings)
        compare.check_rows("accounts", "accounts[0]", compare.wanted_accounts(members), self.accounts, findings)
        compare.check_rows("outcomes", "outcomes[0]", compare.wanted_outcomes(members), self.outcomes, findings)
        compare.check_state("folder", self.changelog, self.state, findings)
        wanted = history.History()
        # The audit topic is compared above; ClickHouse is compared with a faultless one here.
        whole = Counter(line.key for line in faultless().audits) if self.audits != faultless().audits else audited.records
        wanted.add(members, whole, sum(_is_refusal(line) for line in faultless().audits))
        history.check_history(self, wanted, findings)
        return findings


def _is_refusal(line: Line) -> bool:
    return bool(line.value["result"] == "REFUSED" and not line.value["replayed"])


def faultless() -> Results:
    expected = ledger.expect(*inputs())
    members = expected.members
    events: list[Line] = []
    entries: list[Line] = []
    profiles: list[Line] = []
    audits: list[Line] = []
    for key, member in members.items():
        for number, event in enumerate(member.events, 1):
            account = {"available_points": event.available, "qualifying_points": event.qualifying, "tier": event.tier}
            value = {"sequence": number, "kind": event.kind, "cause": {"command_id": event.command_id}, "points_delta": event.points_delta,
                     "account": account}  # fmt: skip
            events.append(Line(len(events), key, value))
        for number, entry in enumerate(member.entries, 1):
            entries.append(Line(len(entries), key, {"entry_sequence": number, **entry._asdict()}))
        profiles += [Line(version, key, {"version": version}) for version in range(1, member.versions + 1)]
    keys = {"enrolments": [line.key for line in inputs()[0]], "transactions": [line.key for line in inputs()[1]]}
    for stream, answers in expected.answers.items():
        for offset, answer in answers.items():
            value = {"audit_id": f"{stream}-0-{offset}", "stream": stream, "offset": offset, "result": answer.result, "replayed": answer.replayed,
                     "points_delta": answer.points_delta, "sequence": answer.sequence, "available_points": answer.available}  # fmt: skip
            if stream == "transactions" and offset < 5:  # These came before their enrolment.
                audits.append(Line(len(audits), keys[stream][offset], value | {"result": "WAITING", "replayed": False}))
                value = value | {"audit_id": f"{value['audit_id']}-released"}
            audits.append(Line(len(audits), keys[stream][offset], value))
    wanted = history.History()
    wanted.add(members, Counter(line.key for line in audits), sum(map(_is_refusal, audits)))
    tables = {name: [(member, *row) for member, row in rows.items()] for name, rows in wanted.rows.items()}
    return Results(
        expected=expected, events=events, entries=entries, profiles=profiles, audits=audits, dead=[],
        accounts=compare.wanted_accounts(members), outcomes=compare.wanted_outcomes(members),
        changelog={b"a": b"1", b"b": b"2"}, state={b"a": b"1", b"b": b"2"},
        tables=tables | {name: [(total,)] for name, total in wanted.totals.items()},
    )  # fmt: skip


def test_a_faultless_pipeline_passes_and_everything_was_looked_for() -> None:
    findings = faultless().verify()
    assert findings.counts == dict.fromkeys(ALL_KINDS, 0)


def test_the_naive_ledger_agrees_with_the_other_oracle() -> None:
    """Two recounts, written apart, of the same inputs."""
    enrolments, transactions = inputs()
    expected = ledger.expect(enrolments, transactions)
    lines = [oracle.Line(0, line.offset, line.key, line.value) for line in transactions]
    others = oracle.recompute(lines, {line.key for line in enrolments})
    assert expected.members.keys() == others.keys()
    for key, member in expected.members.items():
        assert (member.available, member.qualifying, len(member.entries)) == (others[key].available, others[key].qualifying, others[key].postings)
        answers = {name[2:]: (outcome.result, outcome.points_delta) for name, outcome in member.outcomes.items() if name.startswith("t:")}
        assert answers == others[key].answers
    assert {answer.result for answer in expected.answers["transactions"].values()} == {"APPLIED", "REFUSED", "CONFLICT"}
    assert any(answer.replayed for answer in expected.answers["transactions"].values())
    assert any(event.kind == "TIER_CHANGED" for member in expected.members.values() for event in member.events)


Tamper = Callable[[Results], object]


def changed(lines: list[Line], number: int, **values: Any) -> None:
    lines[number] = lines[number]._replace(value=lines[number].value | values)


def swapped(lines: list[Line]) -> None:
    """Two records of one member that follow each other change places."""
    first = next(n for n in range(len(lines) - 1) if lines[n].key == lines[n + 1].key)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]


def answered_again(results: Results) -> None:
    results.audits.append(results.audits[-1]._replace(offset=len(results.audits)))


def first_of(rows: dict[Any, Any]) -> Any:
    return next(iter(rows))


TAMPERS: dict[str, list[Tamper]] = {
    "events missing": [lambda r: r.events.pop(), lambda r: r.events.pop(3)],
    "events doubled": [lambda r: r.events.insert(5, r.events[4])],
    "events out of order": [lambda r: swapped(r.events)],
    "events that differ": [lambda r: changed(r.events, 7, points_delta=1_000_000), lambda r: changed(r.events, 7, cause={"command_id": "other"})],
    "events too many": [lambda r: r.events.append(Line(99_999, "grand/M-999", r.events[0].value))],
    "entries missing": [lambda r: r.entries.pop()],
    "entries doubled": [lambda r: r.entries.insert(5, r.entries[4])],
    "entries out of order": [lambda r: swapped(r.entries)],
    "entries that differ": [lambda r: changed(r.entries, 7, balance_after=-1)],
    "entries too many": [lambda r: r.entries.append(r.entries[-1]._replace(value=r.entries[-1].value | {"entry_sequence": 10_000}))],
    "profile versions missing": [lambda r: r.profiles.pop()],
    "profile versions doubled": [lambda r: r.profiles.append(r.profiles[-1])],
    "inputs without an answer": [
        lambda r: r.audits.pop(),
        lambda r: r.audits.remove(next(line for line in r.audits if line.value["audit_id"].endswith("-released"))),
        lambda r: r.expected.answers["transactions"].update({10_000: ledger.Answer("APPLIED", False, 1, 1, 1)}),
    ],
    "inputs answered twice": [answered_again],
    "answers that differ": [lambda r: changed(r.audits, -1, points_delta=-77), lambda r: changed(r.audits, -1, replayed=None)],
    "answers out of order": [lambda r: r.audits.insert(-5, r.audits.pop())],
    "answers to no input": [lambda r: r.audits.append(r.audits[-1]._replace(value=r.audits[-1].value | {"offset": 10_000}))],
    "dead letters": [lambda r: r.dead.append(Line(0, "grand/M-1", {"reason": "BUG", "topic": "t", "offset": 1}))],
    "accounts missing": [lambda r: r.accounts.pop(first_of(r.accounts))],
    "accounts that differ": [lambda r: r.accounts.update({"grand/M-1": (1, 2, "GOLD", 3, 4, 5)})],
    "accounts too many": [lambda r: r.accounts.update({"grand/M-999": (0, 0, "MEMBER", 1, 0, 1)})],
    "outcomes missing": [lambda r: r.outcomes.pop(first_of(r.outcomes))],
    "outcomes that differ": [lambda r: r.outcomes.update({first_of(r.outcomes): ("APPLIED", 0, 1, 1, 0, "MEMBER")})],
    "outcomes too many": [lambda r: r.outcomes.update({"grand/M-1\0t:none": ("APPLIED", 0, 0, 1, 0, "MEMBER")})],
    "state rows missing": [lambda r: r.state.pop(b"a")],
    "state rows that differ from the changelog": [lambda r: r.state.update({b"a": b"0"})],
    "state rows too many": [lambda r: r.state.update({b"c": b"3"})],
    **{f"ClickHouse: {name} that differ": [lambda r, name=name: r.tables[name].pop()] for name in history.QUERIES},  # type: ignore[misc]
    **{f"ClickHouse: {name} that differ": [lambda r, name=name: r.tables.update({name: [(-1,)]})] for name in history.TOTALS},  # type: ignore[misc]
}


@pytest.mark.parametrize(("kind", "tamper"), [(kind, tamper) for kind, tampers in TAMPERS.items() for tamper in tampers])
def test_one_thing_that_is_wrong_is_found_and_named(kind: str, tamper: Tamper) -> None:
    results = faultless()
    tamper(results)
    findings = results.verify()
    assert findings.counts[kind] == 1
    assert [sample.kind for sample in findings.samples].count(kind) == 1
    assert findings.total == 1


def test_nothing_that_is_compared_goes_untampered() -> None:
    # Of the profiles, whose content is their number, these cannot come about by one change alone.
    derived = {"profile versions out of order", "profile versions that differ", "profile versions too many"}
    assert TAMPERS.keys() == ALL_KINDS - derived

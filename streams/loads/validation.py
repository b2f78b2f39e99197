"""All rows of an input -> a plan of what is to be sent, the rows that are not, and a report. Nothing is sent before all was read."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from schemas.codec import Codec
from schemas.contract import Command, command_id, member_key
from schemas.records import Transaction, TransactionKind
from streams.domain.identity import payload_hash
from streams.domain.periods import expires_at
from streams.domain.program import Program
from streams.errors import ConfigurationError
from streams.loads import plan, sources
from streams.loads.commands import Converter, Reject
from streams.loads.mapping import LoadMapping
from streams.loads.rejects import Rejects, as_json
from streams.loads.sources import Part
from streams.rows import Problem

EXAMPLES_MAX = 3
FUTURE_MS = 5 * 60_000
"""Clocks of source systems may be that much ahead."""
GIVES = (TransactionKind.EARN, TransactionKind.ADJUST)
SPENDS = (TransactionKind.REDEEM, TransactionKind.HOLD, TransactionKind.TRANSFER)
ROW_INVALID, ID_TWICE = "ROW_INVALID", "ID_TWICE"


@dataclass(slots=True)
class Rejected:
    """Rows that were rejected for one reason."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found in an input. Points are sums by kind; amounts, in minor units, by currency."""

    files: list[str]
    rows: int = 0
    to_send: int = 0
    rejected_rows: int = 0
    rejected: dict[str, Rejected] = field(default_factory=dict)
    repeated: int = 0
    """Rows whose id came before in the input with the same content: sent once."""
    members: int = 0
    rows_of_one_member_max: int = 0
    out_of_order: int = 0
    """Rows that are older than the one before of the same member."""
    first_ms: int | None = None
    last_ms: int | None = None
    future_rows: int = 0
    expired_rows: int = 0
    """Rows that give points whose expiry, by the row or the programme's rule, has passed: they expire as they arrive."""
    spending_rows: int = 0
    """Rows that take points."""
    kinds: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    amounts_minor: Counter[str] = field(default_factory=Counter)
    unused_columns: list[str] = field(default_factory=list)

    def reject(self, where: str, found: list[Reject]) -> None:
        """One row, counted under the first of its reasons."""
        self.rejected_rows += 1
        rejected = self.rejected.setdefault(found[0].reason, Rejected())
        rejected.rows += 1
        if len(rejected.examples) < EXAMPLES_MAX:
            rejected.examples.append(f"{where}: {'; '.join(one.detail for one in found)}")

    def take(self, command: Command, program: Program | None, now_ms: int) -> None:
        """A row that is a command. Without the programme's rules nothing is said of what they make of it."""
        at_ms = command.occurred_at_ms
        self.first_ms = at_ms if self.first_ms is None else min(self.first_ms, at_ms)
        self.last_ms = at_ms if self.last_ms is None else max(self.last_ms, at_ms)
        self.future_rows += at_ms > now_ms + FUTURE_MS
        if isinstance(command, Transaction):
            kind = command.kind.value
            self.kinds[kind] += 1
            self.points[kind] += command.points or 0
            if command.amount_minor is not None and command.currency is not None:
                self.amounts_minor[command.currency] += command.amount_minor
            if command.kind in SPENDS or (command.points or 0) < 0:
                self.spending_rows += 1
            elif command.kind in GIVES:
                by_rule_ms = expires_at(program.expiry, program.time_zone, at_ms) if program is not None else None
                expires_ms = command.expires_at_ms or by_rule_ms
                self.expired_rows += expires_ms is not None and expires_ms <= now_ms

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "files": self.files, "rows": self.rows, "to_send": self.to_send, "rejected_rows": self.rejected_rows,
            "rejected": {reason: {"rows": one.rows, "examples": one.examples} for reason, one in self.rejected.items()},
            "repeated": self.repeated, "members": self.members, "rows_of_one_member_max": self.rows_of_one_member_max,
            "out_of_order": self.out_of_order, "first": rfc_3339(self.first_ms), "last": rfc_3339(self.last_ms), "future_rows": self.future_rows,
            "expired_rows": self.expired_rows, "spending_rows": self.spending_rows,
            "kinds": dict(self.kinds), "points": {kind: points for kind, points in self.points.items() if points},
            "amounts_minor": dict(self.amounts_minor), "unused_columns": self.unused_columns,
        }  # fmt: skip


def rfc_3339(at_ms: int | None) -> str | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an input is to be checked for."""

    program_id: str
    source_system: str
    mapping: LoadMapping
    program: Program | None
    """None: its rules are not known here."""
    sorts: bool
    now_ms: int


def validate(
    question: Question, parts: list[Part], codec: Codec, rejects: Rejects, folder: Path, advance: Callable[[int, int], None] = lambda *_: None
) -> tuple[Report, str]:
    """The report and the hash of `folder`/plan.bin, which is made here. `advance` is told bytes that were read, and rows.

    Raises ConfigurationError when a file cannot be read whole, or lacks a column that is mapped: then nothing can be said of the rows.
    """
    convert = Converter(question.mapping, question.program_id, question.source_system)
    report = Report(files=[part.name for part in parts])
    draft, sorter = plan.Writer(folder / "draft.bin"), plan.Sorter(folder / "members")
    before = 0
    for number, part in enumerate(parts):
        read = _Advance(advance, report, before)
        for one in sources.rows(part, question.mapping.layout, advance=read, on_header=partial(_check_header, question.mapping, part)):
            if isinstance(one, Problem) and one.is_fatal:
                raise ConfigurationError(f"{part.name} {one} Nothing was sent.")
            report.rows += 1
            if isinstance(one, Problem):
                report.reject(f"{part.name} line {one.line}", [Reject(ROW_INVALID, one.what)])
                rejects.add(number, one.line, f"{ROW_INVALID}: {one.what}", as_json(one.raw))
                continue
            line, row = one
            made = convert(row)
            if isinstance(made, list):
                report.reject(f"{part.name} line {line}", made)
                rejects.add(number, line, "; ".join(map(str, made)), as_json(row))
                continue
            report.take(made, question.program, question.now_ms)
            key = member_key(made.program_id, made.member_id)
            sorter.add(draft.rows, key, command_id(made), payload_hash(made), made.occurred_at_ms)
            draft.add(plan.Entry(number, line, made.occurred_at_ms, key, codec.encode(made), as_json(row)))
        before += part.size_bytes
    if convert.missing and report.rows:
        raise ConfigurationError(f"No row has {', '.join(map(repr, sorted(convert.missing)))}, which --mapping names. Nothing was sent.")
    report.unused_columns = sorted(convert.unused)
    return report, _conclude(question, report, rejects, draft, sorter, folder)


def _check_header(mapping: LoadMapping, part: Part, header: list[str]) -> None:
    """Said at once, not after a long file was read."""
    missing = [name for name in mapping.named if name not in header]
    if missing:
        raise ConfigurationError(f"{part.name} has no column {', '.join(map(repr, missing))}, which --mapping names. Nothing was sent.")


class _Advance:
    def __init__(self, advance: Callable[[int, int], None], report: Report, before: int) -> None:
        self._advance, self._report, self._before = advance, report, before

    def __call__(self, read: int) -> None:
        self._advance(self._before + read, self._report.rows)


def _conclude(question: Question, report: Report, rejects: Rejects, draft: plan.Writer, sorter: plan.Sorter, folder: Path) -> str:
    """What only all rows together tell; and the plan."""
    drafted, target = folder / "draft.bin", folder / "plan.bin"
    digest, members = draft.close(), sorter.look_through()
    report.members, report.rows_of_one_member_max, report.out_of_order = members.members, members.rows_of_one_max, members.out_of_order
    report.repeated, report.to_send = members.repeated.count, draft.rows - members.repeated.count - members.conflicting.count
    if members.conflicting.count:
        reader = plan.Reader(drafted)
        for row, entry in reader.entries():
            if row in members.conflicting:
                found = Reject(ID_TWICE, "its id came before in this input, with other content")
                report.reject(f"{report.files[entry.part]} line {entry.line}", [found])
                rejects.add(entry.part, entry.line, str(found), entry.source)
        reader.close()
    if question.sorts or report.to_send < draft.rows:
        digest, _ = plan.rewritten(
            drafted, target, dropped=lambda row: row in members.repeated or row in members.conflicting, sorts=question.sorts
        )  # fmt: skip
        drafted.unlink()
        plan.index_of(drafted).unlink()
    else:
        plan.index_of(drafted).replace(plan.index_of(target))
        drafted.replace(target)
    return digest

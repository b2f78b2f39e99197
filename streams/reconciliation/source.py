"""`loyalty reconcile source`: rules, accounts and export -> differences with their explanations, and, if asked for, the events that repair them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.contract import Command, member_key
from schemas.records import Account, WaitingCommands
from streams import kafka, programs, publishing
from streams.codec import open_codec
from streams.domain.program import Program
from streams.engine.state import StateFailed
from streams.errors import ConfigurationError, LoyaltyError, UnavailableError
from streams.ingress.commands import TOPIC_OF
from streams.reconciliation import exports
from streams.reconciliation.comparison import NO_EVIDENCE, Answer, Difference, Evidence, Policy, compare, explained
from streams.reconciliation.evidence import MEMBERS_MAX, Audit
from streams.reconciliation.exports import Row
from streams.reconciliation.mapping import ExportMapping
from streams.reconciliation.members import Advance, Members
from streams.reconciliation.repair import plan
from streams.settings import Settings

PROBLEMS_MAX = 100  # Of a file, told at once.
ACKNOWLEDGED_S = 60.0

Finding = tuple[Account | None, Row | None, WaitingCommands | None, list[Difference]]


@dataclass(slots=True)
class Tally:
    """What a comparison came to."""

    members: int = 0
    """Pairs that were looked at."""
    rows: int = 0
    found: Counter[str] = field(default_factory=Counter)
    """Kind of difference -> how many."""
    repairs: int = 0
    """Events that would repair them."""
    sent: int = 0
    unexplained: str = ""
    """Why the audit could not be asked; empty: it was, or there was nothing to ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is compared with what."""

    program_id: str
    source: str
    export: str
    """A file, or a callable `module:attribute`."""
    export_format: str = ""
    mapping: ExportMapping
    all_attributes: bool = False
    ignore_versions: bool = False


class Comparison:
    """One run. `folder` is its own, and can be removed after `close`."""

    def __init__(self, settings: Settings, question: Question, folder: Path, *, sends: bool, correlation_id: str) -> None:
        self._settings = settings
        self._question = question
        self._codec = open_codec(settings)
        self._sends = sends
        self._correlation_id = correlation_id
        self._members = Members(folder, self._codec, question.program_id)
        self._audit = Audit(settings, question.program_id, question.source)
        self._producer = kafka.producer(settings) if sends else None
        self.tally = Tally()
        self.policy = Policy(
            source=question.source, versions=_rules(settings, question.program_id), now_ms=time.time_ns() // 1_000_000,
            all_attributes=question.all_attributes, ignore_versions=question.ignore_versions, absent=question.mapping.absent,
        )  # fmt: skip
        self._check_mapping()

    def _check_mapping(self) -> None:
        """Raises ConfigurationError when the policy leaves nothing to compare."""
        parts = list(self._question.mapping.parts.values())
        if not any(self.policy.compares(part) for part in parts):
            program, source = self.policy.program, self.policy.source
            raise ConfigurationError(
                f"Nothing of {', '.join(parts)} is mastered by {source} in version {program.version} of {program.program_id}'s rules"
                f" (programs.{program.program_id}.mastering). --all-attributes compares all the same."
            )

    def load(self, advance: Callable[[str], Advance]) -> None:
        """Accounts and export. `advance(step)` gives what is told how far a step is.

        Raises ConfigurationError with the lines of rows that cannot be compared, UnavailableError, LoyaltyError.
        """
        question, mapping = self._question, self._question.mapping
        try:
            self._members.load(self._settings, advance("accounts"))
            if mapping.external_id:
                self._members.index(mapping.external_id_type, advance("external ids"))
            path = Path(question.export)
            total, tell = path.stat().st_size if path.exists() else 0, advance("export")
            rows = exports.rows(question.export, mapping, question.export_format, lambda done: tell(done, total or done))
            self.tally.rows, problems = self._members.add(rows, PROBLEMS_MAX)
        except StateFailed as error:
            raise LoyaltyError(f"the disk for the comparison fails: {error}") from error
        if problems:
            more = ["There may be more."] if len(problems) >= PROBLEMS_MAX else []
            raise ConfigurationError(*(f"{question.export} {problem}" for problem in problems), *more)

    def differences(self, advance: Advance) -> Iterator[Difference]:
        """Each difference, explained, in the order of the members; its repair is sent by then, if the run sends. Raises UnavailableError."""
        batch: list[Finding] = []
        expected = self._members.accounts
        try:
            for account, row, waiting in self._members.pairs():
                self.tally.members += 1
                if self.tally.members % 1000 == 0:
                    advance(self.tally.members, max(expected, self.tally.members))
                if found := compare(self.policy, account, row):
                    batch.append((account, row, waiting, found))
                if len(batch) >= MEMBERS_MAX:
                    yield from self._settled(batch)
                    batch = []
        except StateFailed as error:
            raise LoyaltyError(f"the disk for the comparison fails: {error}") from error
        yield from self._settled(batch)
        advance(self.tally.members, self.tally.members)

    def _settled(self, batch: Sequence[Finding]) -> list[Difference]:
        answers = self._answers([found[0].member_id for _, _, _, found in batch if found[0].member_id])
        settled: list[Difference] = []
        commands: list[Command] = []
        for account, row, waiting, found in batch:
            evidence = _evidence(answers.get(found[0].member_id, []), waiting)
            planned = plan(self.policy, account, row, [explained(self.policy, account, one, evidence) for one in found])
            settled += planned.differences
            commands += planned.commands
        self.tally.found.update(one.kind.value for one in settled)
        self.tally.repairs += len(commands)
        if self._sends:
            self._send(commands)
        return settled

    def _answers(self, member_ids: Sequence[str]) -> dict[str, list[Answer]]:
        if not member_ids or self.tally.unexplained:
            return {}
        try:
            return dict(self._audit.answers(member_ids))
        except UnavailableError as error:
            self.tally.unexplained = str(error)
            return {}

    def _send(self, commands: Sequence[Command]) -> None:
        producer = self._producer
        assert producer is not None
        failures: list[str] = []
        for command in commands:
            producer.produce(
                TOPIC_OF[type(command)].name(self._settings.topic_prefix), self._codec.encode(command), member_key(command.program_id, command.member_id),
                headers=[("correlation_id", self._correlation_id.encode())],
                on_delivery=lambda error, _: failures.append(error.str()) if error is not None else None,
            )  # fmt: skip
        left = producer.flush(ACKNOWLEDGED_S)
        if failures or left:
            raise UnavailableError(
                f"{len(failures) + left} of {len(commands)} events were not acknowledged at"
                f" LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}: {failures[0] if failures else 'no answer'}. Run it"
                " again: what was sent all the same changes nothing a second time."
            )
        self.tally.sent += len(commands)

    def close(self) -> None:
        self._audit.close()
        self._members.close()


def _rules(settings: Settings, program_id: str) -> tuple[Program, ...]:
    """All versions of a programme, from the log. Raises ConfigurationError."""
    published = publishing.read_published(settings)
    if program_id not in published:
        known = ", ".join(sorted(published)) or "none"
        raise ConfigurationError(f"--program {program_id} is not published under LOYALTY_TOPIC_PREFIX={settings.topic_prefix}; known: {known}.")
    return tuple(programs.from_record(record, settings.voucher_key.encode()) for record in published[program_id])


def _evidence(answers: Sequence[Answer], waiting: WaitingCommands | None) -> Evidence:
    if waiting is None or not waiting.commands:
        return Evidence(answers=answers) if answers else NO_EVIDENCE
    return Evidence(answers=answers, waiting=len(waiting.commands), waiting_since_ms=min(one.ingested_at_ms for one in waiting.commands))

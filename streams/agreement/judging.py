"""The copies of one member beside each other -> differences with their causes."""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message

from schemas.codec import Codec
from schemas.records import ProfileOperation
from streams.agreement import folds, history
from streams.agreement.deliveries import Owed, Taken
from streams.agreement.history import History, Mirrored, Row, Sum
from streams.agreement.log import Log
from streams.agreement.model import BALANCES, SHOWN, SNAPSHOT, Cause, Difference, Standing, Store
from streams.errors import ContractError

DETAILS_MAX = 5_000
"""Members of whom rows and records are compared one by one; the others are the next run's."""
RESTATED = "restatement"
"""Word of a repair that publishes the record again."""
REPLAYED = "replay"
FROM_CHANGELOG = "operator: stop the worker, remove its folder of local state (LOYALTY_WORKER_DATA_DIR), start it: the state is filled from the changelog"
FROM_JOURNAL = "operator: the changelog cannot be trusted for this member; restore it from a backup, or adjust by a transaction to what the journal adds up to"
OUT_OF_LOG = "operator: the log no longer has the record; compare with a backup of ClickHouse, and re-insert the row from there"
JOURNAL_LOST = "operator: the log itself has lost or changed the record; ClickHouse has what was written, and a correction is a transaction"
EXTRA_ROW = "operator: no record of the log has this row: remove it with ALTER TABLE ... DELETE, nothing published replaces it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member, and the account by the changelog."""

    program_id: str
    member_id: str
    account: Standing | None

    @classmethod
    def of(cls, key: bytes, account: Standing | None) -> "Member":
        program_id, _, member_id = key.decode(errors="backslashreplace").partition("/")
        return cls(program_id=program_id, member_id=member_id, account=account)

    def differs(self, store: str, cause: Cause, **what: Any) -> Difference:
        return Difference(program_id=self.program_id, member_id=self.member_id, store=store, cause=cause, **what)


def rows(who: Member, row: Standing | None, journal: list[Any] | None) -> Iterator[Difference]:
    """Of the worker's table and the changelog: they must be the same; where they are not, the journal says which one is right."""
    account = who.account
    if row == account:
        return
    if account is None:
        assert row is not None, "the member is known by one of them"
        yield who.differs(
            Store.CHANGELOG, Cause.MISSING, sequence=row.event_sequence, there=f"event sequence {row.event_sequence}",
            detail="the worker's table has the account, the changelog has not", repair=FROM_JOURNAL,
        )  # fmt: skip
    elif row is None:
        yield who.differs(
            Store.TABLE, Cause.MISSING, sequence=account.event_sequence, there=f"event sequence {account.event_sequence}",
            detail="the changelog has the account, the worker's table has not", repair=FROM_CHANGELOG,
        )  # fmt: skip
    else:
        ours, theirs = _unlike(row, account)
        wrong = Store.CHANGELOG if _agrees(row, journal) and not _agrees(account, journal) else Store.TABLE
        cause = Cause.DRIFT if row.event_sequence == account.event_sequence else Cause.ALTERED
        for name in ours:
            here, there = (ours[name], theirs[name]) if wrong is Store.TABLE else (theirs[name], ours[name])
            yield who.differs(
                wrong, cause, field=name, here=str(here), there=str(there), sequence=account.event_sequence,
                repair=FROM_CHANGELOG if wrong is Store.TABLE else FROM_JOURNAL,
            )  # fmt: skip


def _unlike(row: Standing, account: Standing) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that differ; if none that is shown does, something else of the account."""
    names = [name for name in SHOWN if getattr(row, name) != getattr(account, name)] or ["check"]
    return {name: getattr(row, name) for name in names}, {name: getattr(account, name) for name in names}


def _agrees(account: Standing, fold: list[Any] | None) -> bool:
    """Whether the journal adds up to this account."""
    if fold is None:
        return account.entry_sequence == 0 and not any(_balances(account))
    if fold[folds.THEN] is None:
        return False
    return fold[folds.THEN_HASH] == account.entry_hash and all(
        known is None or known == has for known, has in zip(fold[folds.THEN], _balances(account), strict=True)
    )


def _balances(account: Standing) -> tuple[int, ...]:
    return account.available_points, account.pending_points, account.held_points, -account.debt_points


def _faults(who: Member, store: Store, fold: list[Any] | None, expected: int, is_whole: bool, one: str, many: str) -> Iterator[Difference]:
    """What is wrong with a topic's records of a member by themselves, of which there must be `expected`. `is_whole`: retention has taken nothing of
    the topic yet."""
    if fold is None:
        if expected and is_whole:
            yield who.differs(store, Cause.MISSING, sequence=1, there=f"{expected} {many}", detail="it has none of them", repair=JOURNAL_LOST)
    elif (fault := fold[folds.FAULT]) is not None:
        yield who.differs(store, Cause(fault[0]), sequence=fault[1], record_id=fault[2], detail=fault[3], repair=JOURNAL_LOST)
    elif is_whole and fold[folds.FIRST] != 1:
        yield who.differs(store, Cause.MISSING, sequence=1, detail=f"its first {one} is number {fold[folds.FIRST]}", repair=JOURNAL_LOST)


def journal(who: Member, fold: list[Any] | None, is_whole: bool) -> Iterator[Difference]:
    """Of the ledger-entries topic."""
    account = who.account
    yield from _faults(who, Store.JOURNAL, fold, account.entry_sequence if account is not None else 0, is_whole, "entry", "entries")
    if fold is None:
        return
    if account is None:
        yield who.differs(
            Store.CHANGELOG, Cause.MISSING, sequence=fold[folds.LAST], there=f"{fold[folds.LAST]} entries",
            detail="the journal has entries of a member who has no account", repair=FROM_JOURNAL,
        )  # fmt: skip
    elif fold[folds.LAST] < account.entry_sequence:
        yield who.differs(
            Store.JOURNAL, Cause.MISSING, sequence=fold[folds.LAST] + 1, here=f"{fold[folds.LAST]} entries", there=f"{account.entry_sequence} entries",
            detail="the account has more entries", repair=JOURNAL_LOST,
        )  # fmt: skip
    elif fold[folds.FAULT] is None and account.entry_sequence and not _agrees(account, fold):
        yield from _bugs(who, account, fold)


def _bugs(who: Member, account: Standing, fold: list[Any]) -> Iterator[Difference]:
    for name, known, has in zip(BALANCES, fold[folds.THEN] or (), _balances(account), strict=False):
        if known is not None and known != has:
            yield who.differs(
                Store.CHANGELOG, Cause.BUG, field=f"{name}_points", here=str(abs(has)), there=str(abs(known)), sequence=account.entry_sequence,
                detail="the journal adds up to something else than the account has", repair=FROM_JOURNAL,
            )  # fmt: skip
    if fold[folds.THEN_HASH] != account.entry_hash:
        yield who.differs(
            Store.CHANGELOG, Cause.ALTERED, field="entry_hash", here=account.entry_hash, there=fold[folds.THEN_HASH],
            sequence=account.entry_sequence, repair=FROM_JOURNAL,
        )  # fmt: skip


def events(who: Member, fold: list[Any] | None, is_whole: bool) -> Iterator[Difference]:
    """Of the events topic: gapless, and its absolute values those of the account."""
    account = who.account
    yield from _faults(who, Store.EVENTS, fold, account.event_sequence if account is not None else 0, is_whole, "event", "events")
    if fold is None or account is None:
        return
    if fold[folds.LAST] < account.event_sequence:
        yield who.differs(
            Store.EVENTS, Cause.MISSING, sequence=fold[folds.LAST] + 1, detail=f"the account has {account.event_sequence} events", repair=JOURNAL_LOST
        )
    elif fold[folds.VALUES] is not None:
        number, values, event_id = fold[folds.VALUES]
        for name, value in zip(SNAPSHOT, values, strict=True):
            # Qualifying points change without an event, too.
            if value != getattr(account, name) and name != "qualifying_points":
                yield who.differs(
                    Store.EVENTS, Cause.BUG, field=name, here=str(value), there=str(getattr(account, name)), sequence=number, record_id=event_id,
                    detail="the newest event says something else than the account", repair=FROM_JOURNAL,
                )  # fmt: skip


def profile(who: Member, seen: list[Any] | None) -> Iterator[Difference]:
    """Of the profiles topic, which is compacted: its newest version is the account's."""
    account = who.account
    if account is None or not account.profile_version:
        return
    newest = seen[0] if seen is not None else 0
    if newest < account.profile_version:
        yield who.differs(
            Store.PROFILES, Cause.MISSING, sequence=newest + 1, here=f"version {newest}", there=f"version {account.profile_version}",
            repair="a change of the profile writes it whole",
        )  # fmt: skip


def lag(who: Member, table: Mirrored, fold: list[Any] | None) -> Iterator[Difference]:
    """What the mirror need not have yet."""
    if fold is None:
        return
    since_ms, number = (fold[5], fold[0]) if table is history.PROFILES else (fold[folds.WAITING_SINCE], fold[folds.WAITING_SEQUENCE])
    if since_ms:
        yield who.differs(
            table.store, Cause.LAG, sequence=number, age_s=_age_s(since_ms), detail="the mirror has not come to it", repair="none: it waits"
        )


def _age_s(since_ms: int) -> float:
    return max(0.0, time.time() - since_ms / 1000)


def is_suspect(table: Mirrored, who: Member, fold: list[Any] | None, found: Sum | None) -> bool:
    """Whether the rows of a member must be looked at one by one."""
    account = who.account
    if table is history.PROFILES:
        version, digest = (fold[3], fold[4]) if fold is not None else (0, 0)
        if found is None:
            return version > 0
        return bool(found.is_broken) or found.last < version or (found.last == version > 0 and found.last_value != str(digest))
    rows, digest = (fold[folds.ROWS], fold[folds.DIGEST]) if fold is not None else (0, 0)
    if found is None:
        return rows > 0 or (fold is None and account is not None and _last_number(table, account) > 0)
    if (found.mark_rows, found.mark_digest) != (rows, digest) or found.rows != found.last - found.first + 1 or found.ids != found.rows:
        return True
    if found.is_broken or account is None or found.last != _last_number(table, account):
        return bool(found.is_broken)
    # All of it may be older than what the log still has.
    return found.last_value != (account.entry_hash if table is history.LEDGER else str(account.available_points))


def _last_number(table: Mirrored, account: Standing) -> int:
    return account.entry_sequence if table is history.LEDGER else account.event_sequence


def cached(who: Member, fold: list[Any] | None, balance: list[Any] | None) -> Iterator[Difference]:
    """Of Redis, beside the newest event that it must have; if the log has none any more, beside the account."""
    account = who.account
    if fold is not None and fold[folds.KEPT_VALUES] is not None:
        sequence, values = fold[folds.KEPT_SEQUENCE], fold[folds.KEPT_VALUES]
        is_known = True
    elif fold is None and account is not None:
        sequence, values, is_known = account.event_sequence, [getattr(account, name) for name in SNAPSHOT], False
    else:
        return
    what = {"sequence": sequence, "repair": RESTATED if is_known else OUT_OF_LOG}
    if balance is None:
        if sequence:
            yield who.differs(Store.REDIS, Cause.MISSING, there=f"sequence {sequence}", **what)
    elif balance[0] < 0:
        yield who.differs(Store.REDIS, Cause.ALTERED, detail="the key holds no balance", **(what | {"repair": f"operator: delete the key; then {RESTATED}"}))
    elif balance[0] != sequence:
        cause = Cause.MISSING if balance[0] < sequence else Cause.DRIFT
        detail = "an event that the sink has passed is not in it" if balance[0] < sequence else "no event has this sequence and these values"
        if balance[0] > sequence:
            what["repair"] = f"operator: delete the key; then {RESTATED}"
        yield who.differs(Store.REDIS, cause, field="sequence", here=str(balance[0]), there=str(sequence), detail=detail, **what)
    else:
        for name, here, there in zip(SNAPSHOT, balance[1], values, strict=True):
            if here != there and (is_known or name != "qualifying_points"):
                yield who.differs(Store.REDIS, Cause.DRIFT, field=name, here=str(here), there=str(there), **what)


def unrecorded(owed: Owed, event_id: str, appended_at_ms: int) -> Difference:
    destination, key, sequence = owed
    return Member.of(key, None).differs(
        f"destination:{destination}", Cause.MISSING, sequence=sequence, record_id=event_id,
        detail=f"the deliveries are past the event of {appended_at_ms}, and no record says what became of it", repair=REPLAYED,
    )  # fmt: skip


def given_up(destination: str, key: bytes, taken: Taken) -> Iterator[Difference]:
    """What the destination has not, by the audit, and nothing newer either: an event says all that those before it said of the account."""
    if taken.ended > taken.delivered:
        yield Member.of(key, None).differs(
            f"destination:{destination}", taken.cause, here=f"sequence {taken.delivered}", there=f"sequence {taken.ended}", sequence=taken.ended,
            record_id=taken.event_id, detail=taken.reason, repair=REPLAYED,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A record of the log, as far as rows are compared with it."""

    digest: int
    record_id: str
    partition: int
    offset: int
    is_mirrored: bool


class Details:
    """Rows of a table and records of its topic, one by one, of members who are suspect."""

    def __init__(self, log: Log, of_history: History, codec: Codec, topic: str, marks: Any, table: Mirrored) -> None:
        self._log, self._history, self._codec, self._topic, self._table = log, of_history, codec, topic, table
        self._ranges = marks.log[table.topic.stream]
        self._marks = marks.mirrored[table.topic.stream]
        self._originals: dict[bytes, dict[int, Original]] = {}

    def of(self, suspects: Collection[bytes]) -> Iterator[Difference]:
        chosen = sorted(suspects)[:DETAILS_MAX]
        for key in chosen:
            self._originals[key] = {}
        self._log.read(self._topic, self._ranges, self._take)
        rows = self._history.rows(self._table, [key.decode() for key in chosen])
        absent = [
            (one.partition, one.offset)
            for key, records in self._originals.items()
            for number, one in records.items() if one.is_mirrored and number not in rows.get(key, {})
        ]  # fmt: skip
        letters = self._history.dead_letters(self._topic, absent[:DETAILS_MAX]) if absent else {}
        for key in chosen:
            yield from self._member(Member.of(key, None), self._originals[key], rows.get(key, {}), letters)
        for key in sorted(suspects)[DETAILS_MAX:]:
            yield Member.of(key, None).differs(
                self._table.store, Cause.DRIFT, detail=f"not looked at closely: {DETAILS_MAX} members before it differ, too", repair="the next run"
            )

    def _take(self, message: Message) -> None:
        key = message.key()
        if key not in self._originals:
            return
        try:
            record: Any = self._codec.decode(message.value() or b"", self._table.topic.record)
        except ContractError:
            return
        number = getattr(record, self._table.number)
        record_id = getattr(record, self._table.record_id, str(number))
        partition, offset = message.partition() or 0, message.offset() or 0
        is_mirrored = offset < self._marks[partition][1]
        if self._table is history.PROFILES and record.operation is ProfileOperation.ERASE:
            self._originals[key].clear()
        self._originals[key][number] = Original(
            digest=self._table.digest.of(record), record_id=record_id, partition=partition, offset=offset, is_mirrored=is_mirrored
        )

    def _member(self, who: Member, records: Mapping[int, Original], rows: Mapping[int, Row], letters: Mapping[tuple[int, int], str]) -> Iterator[Difference]:
        store, ids = self._table.store, {one.record_id for one in records.values()}
        found = 0
        for number, one in sorted(records.items()):
            row = rows.get(number)
            if row is None and one.is_mirrored:
                reason = letters.get((one.partition, one.offset))
                cause = Cause.MISSING if reason is None else Cause.DEAD_LETTER
                found += 1
                yield who.differs(
                    store, cause, sequence=number, record_id=one.record_id, detail=reason or "the mirror is past the record, and the row is not there",
                    repair=RESTATED,
                )  # fmt: skip
            elif row is not None and row.digest != one.digest:
                found += 1
                yield who.differs(
                    store, Cause.ALTERED, sequence=number, record_id=one.record_id, detail="the row is not what the log has", repair=RESTATED
                )
        for number, row in sorted(rows.items()):
            low, high = self._ranges.get(row.partition, (0, 0))
            if number not in records and row.offset >= low and (row.offset < high or row.record_id in ids):
                found += 1
                yield who.differs(
                    store, Cause.DOUBLED, sequence=number, record_id=row.record_id, detail="no record of the log has this number", repair=EXTRA_ROW
                )
        yield from self._older(who, records, rows, found)

    def _older(self, who: Member, records: Mapping[int, Original], rows: Mapping[int, Row], found: int) -> Iterator[Difference]:
        """Of rows whose records are not in the log any more."""
        numbers = sorted(rows.keys() | records.keys())
        gaps = [before + 1 for before, after in zip(numbers, numbers[1:], strict=False) if after != before + 1]
        for number in gaps:
            yield who.differs(self._table.store, Cause.MISSING, sequence=number, detail="neither a row nor a record is there", repair=OUT_OF_LOG)
        broken = [number for number, row in sorted(rows.items()) if not row.is_linked and number - 1 in rows] if not gaps and not found else []
        for number in broken[:1]:
            yield who.differs(
                self._table.store, Cause.ALTERED, sequence=number, record_id=rows[number].record_id,
                detail="its previous_hash is not the hash of the row before", repair=OUT_OF_LOG,
            )  # fmt: skip
        if not gaps and not found and not broken:
            yield who.differs(
                self._table.store, Cause.DRIFT, detail="its rows do not add up to what the account has, and the log no longer has them",
                repair=OUT_OF_LOG,
            )  # fmt: skip

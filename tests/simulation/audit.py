"""What must hold: an auditor who sees every record's inputs, writes and outputs, keeps books of its own, and compares.

It shares no arithmetic with the domain: balances are folded from ledger entries, due times are looked for anew. The numbers are those of
the ledger's specification (I-1 to I-31).
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from schemas.contract import Command, command_id, member_key
from schemas.records import (
    Account,
    CommandResult,
    DeadLetter,
    EntryKind,
    LedgerEntry,
    Lot,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberProfile,
    MemberStatus,
    OfferActivation,
    Outcome,
    ProfileChange,
    Relay,
    RelayKind,
    SyncAudit,
    Transaction,
    TransactionKind,
    VoucherState,
)
from streams import topics
from streams.domain.audit_chain import hash_of
from streams.domain.suspension import BARRED
from tests.simulation import rules
from tests.simulation.world import NAMES, RELAYS, TICKS, Effects, Partition, World, as_bytes

OWN = ("available", "pending", "held", "debt")
CARRYING = (RelayKind.TRANSFER_IN, RelayKind.TRANSFER_BACK, RelayKind.MERGE_IN, RelayKind.MERGE_BACK)
SPENDING = (EntryKind.REDEEM, EntryKind.TRANSFER_OUT, EntryKind.HOLD, EntryKind.CAPTURE)
VOUCHER_ENDS = (LoyaltyEventKind.VOUCHER_REDEEMED, LoyaltyEventKind.VOUCHER_CANCELLED, LoyaltyEventKind.VOUCHER_EXPIRED)
WINDOW_MS = rules.IDEMPOTENCY_DAYS * 24 * 3600 * 1000
CERTAIN_MS = 5 * 24 * 3600 * 1000
NEVER_MS = 2**63 - 1
POINTS_LIMIT = 2**62
PERSONAL = re.compile(rb"pii\d+x")
OUTBOUND = {NAMES[topic.stream]: topic.record for topic in (*topics.OUTBOUND, topics.RELAYS)}
COMMANDS = frozenset(NAMES[topic.stream] for topic in topics.INBOUND)
REMEMBERED_LINES = 40


class Violation(AssertionError):
    """Something does not hold."""

    def __init__(self, rule: str, text: str, key: bytes = b"") -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.key = key


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command."""

    key: bytes
    """Who decided."""
    content: Command
    answer: tuple[Any, ...]
    at_ms: int


@dataclass(slots=True)
class Member:
    """What the auditor knows of a member, from outbound records alone."""

    sequence: int = 0
    version: int = 0
    entries: int = 0
    chain: str = ""
    tier: str | None = None
    balances: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OWN, 0))
    lines: list[Effects] = field(default_factory=list)
    """The last records that did something to it, for the report of a failure."""


def order(lot: Lot) -> tuple[int, int, str]:
    return (NEVER_MS if lot.expires_at_ms is None else lot.expires_at_ms, lot.earned_at_ms, lot.lot_id)


def next_due_ms(account: Account) -> int | None:
    times = [account.scheduled_at_ms, account.tier_valid_until_ms]
    times += [lot.expires_at_ms for lot in account.lots if lot.remaining]
    times += [lot.available_from_ms for lot in account.lots if lot.remaining and lot.pending]
    times += [hold.expires_at_ms for hold in account.holds]
    times += [voucher.expires_at_ms for voucher in account.vouchers]
    return min((at_ms for at_ms in times if at_ms is not None), default=None)


def points_carried(relay: Relay) -> int:
    """What is under way with a relay: to the other member, or back."""
    if relay.kind not in CARRYING:
        return 0
    return sum(lot.remaining for lot in relay.lots) - (relay.account.debt_points if relay.account is not None else 0)


class Auditor:
    """`record` looks at one decided record; `survey` at everything; `end` at what has to be so once nothing is under way."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.members: defaultdict[bytes, Member] = defaultdict(Member)
        self.sums: defaultdict[tuple[str, str], int] = defaultdict(int)
        """Programme and account -> points, of all members and of the programme itself."""
        self.under_way: defaultdict[str, int] = defaultdict(int)
        self.bonuses: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.codes: set[str] = set()
        self.ended_codes: set[str] = set()
        self.voucher_owners: dict[str, bytes] = {}
        self.answers: dict[tuple[bytes, bool, str], Answer] = {}
        """The first answer to each command: by the member it was sent to, whether it is a transaction, and its id."""
        self.unanswered: set[tuple[str, int, int]] = set()
        self.answered: set[str] = set()
        self.chains: defaultdict[int, tuple[int, str]] = defaultdict(lambda: (0, ""))
        """Number and hash of the last audit record of each partition."""
        self.waiting: set[tuple[str, int, int]] = set()
        self.holders: defaultdict[str, set[bytes]] = defaultdict(set)
        self.personal: defaultdict[bytes, set[str]] = defaultdict(set)
        self.erased: set[str] = set()
        """Personal data that must not be seen again."""
        self.counts: defaultdict[str, int] = defaultdict(int)
        self._erased_now: set[str] = set()
        self._surveyed_erased = 0

    # One record.

    def record(self, partition: Partition, effects: Effects) -> None:
        one = effects.one
        found: dict[type, list[Any]] = {record_type: [] for record_type in OUTBOUND.values()}
        for out in effects.outputs:
            record_type = OUTBOUND[out.topic]
            found[record_type].append(self._world.codec.decode(out.value, record_type))
        entries, events, audits, relays = found[LedgerEntry], found[LoyaltyEvent], found[SyncAudit], found[Relay]
        touched = {member_key(event.program_id, event.member_id) for event in (*entries, *events)} | ({one.key} if one.key else set())
        for key in touched:
            lines = self.members[key].lines
            lines.append(effects)
            del lines[:-REMEMBERED_LINES]
        before = {change.key: change.before for change in reversed(effects.changes) if change.table == "accounts"}
        after = {change.key: change.after for change in effects.changes if change.table == "accounts"}
        self.counts["records"] += 1
        self._isolated(effects)
        erased = self._erased_now = set()
        for entry in entries:
            self._entry(entry, before, after)
        for event in events:
            self._event(event)
        for profile in found[MemberProfile]:
            self._profile(profile)
        for relay in relays:
            self.under_way[relay.program_id] += points_carried(relay)
            self.counts[f"relay {relay.kind}"] += 1
        if one.topic == RELAYS:
            self.under_way[one.record.program_id] -= points_carried(one.record)
        for program_id in {record.program_id for record in (*entries, *relays)} | ({one.record.program_id} if one.topic == RELAYS else set()):
            if self.sums[program_id, "in_transit"] != self.under_way[program_id]:
                in_transit = self.sums[program_id, "in_transit"]
                raise Violation("I-17", f"{program_id}: {in_transit} points in transit, but relays carry {self.under_way[program_id]}", one.key or b"")
        for key, account in after.items():
            self._account(partition, key, before[key], account, events)
        self._rows(partition, effects, entries, before)
        if one.topic in COMMANDS:
            self.unanswered.add((one.topic, one.partition, one.offset))
        for letter in found[DeadLetter]:
            self._letter(one, letter)
        self._chain(partition, audits, one.key or b"")
        answers = [audit for audit in audits if audit.topic in COMMANDS]
        for audit in audits:
            if audit.audit_id in self.answered:
                raise Violation("I-7", f"{audit.audit_id} ({audit.command_id}) is answered twice", one.key or b"")
        for audit in answers:
            self._audit(partition, effects, audit, before, entries, alone=len(answers) == 1)
        self.answered |= {audit.audit_id for audit in audits if audit.topic not in COMMANDS}
        if self.erased:
            self._secrets(effects, found[MemberProfile])
        self.erased |= erased  # What was due before the erasure happened before it, in the same record.

    def _isolated(self, effects: Effects) -> None:
        one = effects.one
        if one.topic == TICKS:
            return
        for change in effects.changes:
            if change.table in ("accounts", "waiting", "budgets") and change.key != one.key:
                raise Violation("I-31", f"a record of {one.key!r} changes {change.table} of {change.key!r}", one.key or b"")
            if change.table in ("outcomes", "vouchers") and not change.key.startswith((one.key or b"") + b"\x00"):
                raise Violation("I-31", f"a record of {one.key!r} changes {change.table} {change.key!r}", one.key or b"")

    def _entry(self, entry: LedgerEntry, before: dict[bytes, Account | None], after: dict[bytes, Account]) -> None:
        key = member_key(entry.program_id, entry.member_id)
        member = self.members[key]
        self.counts[f"entry {entry.kind}"] += 1
        if entry.entry_sequence != member.entries + 1:
            raise Violation("I-29", f"entry {entry.entry_sequence} follows entry {member.entries}", key)
        member.entries += 1
        if not isinstance(entry.points_delta, int) or not 0 < abs(entry.points_delta) < POINTS_LIMIT:
            raise Violation("I-6", f"an entry of {entry.points_delta!r} points", key)
        for account, delta in ((entry.account, entry.points_delta), (entry.counter_account, -entry.points_delta)):
            if account in OWN:
                member.balances[account] += delta
            self.sums[entry.program_id, account] += delta
        balances = member.balances
        if (entry.balance_after, entry.available_after) != (balances[entry.account], balances["available"]):
            raise Violation("I-2", f"entry {entry.entry_sequence} tells {entry.balance_after} and {entry.available_after}, the fold {balances}", key)
        if entry.rule_id.startswith("offer:"):
            self.bonuses[entry.program_id, entry.rule_id.removeprefix("offer:")] += entry.points_delta
        content = (
            member.chain, entry.entry_sequence, entry.transaction_id, entry.source_system, entry.occurred_at_ms, entry.ingested_at_ms, entry.kind,
            entry.account, entry.points_delta, entry.counter_account, entry.rule_id, entry.rule_version, entry.balance_after, entry.counter_member_id,
            [(part.lot_id, part.points, part.expires_at_ms) for part in entry.lots],
        )  # fmt: skip
        chain = sha256("\x00".join(map(str, content)).encode()).hexdigest()[:32]
        if entry.previous_hash != member.chain or entry.entry_hash != chain:
            raise Violation("hash chain", f"entry {entry.entry_sequence} is not chained to the one before", key)
        member.chain = chain
        if entry.points_delta < 0 and entry.account == "available" and entry.kind in SPENDING:
            self._in_order(entry, key, after.get(key))
        was = before.get(key)
        if was is not None and was.merged_into is not None and entry.kind not in (EntryKind.MERGE_IN, EntryKind.DEBT_PAYMENT, EntryKind.EXPIRY):
            now = after.get(key)
            if now is None or now.merged_into is not None:
                raise Violation("I-20", f"{entry.kind} at a member who was merged into {was.merged_into}", key)

    def _in_order(self, entry: LedgerEntry, key: bytes, account: Account | None) -> None:
        """I-15: nothing is spent of a lot while one that expires sooner has points left, and nothing of one that has expired."""
        if account is None or account.entry_sequence != entry.entry_sequence or any(lot.extended_by_activity for lot in account.lots):
            return
        times = [NEVER_MS if part.expires_at_ms is None else part.expires_at_ms for part in entry.lots if part.lot_id]
        if times != sorted(times):
            raise Violation("I-15", f"parts of {entry.transaction_id} in the order {times}", key)
        left_ms = min((order(lot)[0] for lot in account.lots if lot.remaining and not lot.pending), default=NEVER_MS)
        if times and times[-1] > left_ms:
            raise Violation("I-15", f"{entry.transaction_id} took of a lot that expires at {times[-1]}, and one that does at {left_ms} has points left", key)
        if times and times[0] <= account.clock_ms:
            raise Violation("I-15", f"{entry.transaction_id} took of a lot that had expired at {times[0]}", key)

    def _event(self, event: LoyaltyEvent) -> None:
        key = member_key(event.program_id, event.member_id)
        member = self.members[key]
        self.counts[f"event {event.kind}"] += 1
        if event.refusal:
            self.counts[f"refusal {event.refusal}"] += 1
        if event.sequence != member.sequence + 1:
            raise Violation("I-29", f"event {event.sequence} follows event {member.sequence}", key)
        member.sequence += 1
        snapshot = event.account
        if event.kind is LoyaltyEventKind.TIER_CHANGED:
            if event.previous_tier != member.tier or snapshot.tier == member.tier:
                raise Violation("I-25", f"TIER_CHANGED from {event.previous_tier} to {snapshot.tier}, but the tier was {member.tier}", key)
        elif member.tier is not None and snapshot.tier != member.tier:
            raise Violation("I-25", f"{event.kind} tells the tier {snapshot.tier}, which was {member.tier}, and no event said so", key)
        member.tier = snapshot.tier
        if event.kind is LoyaltyEventKind.BALANCE_CHANGED and snapshot.status in BARRED and event.movement in SPENDING:
            if not (event.movement is EntryKind.CAPTURE and event.program_id == "alpine"):
                raise Violation("I-14", f"{event.movement} while suspended", key)
        if event.kind is LoyaltyEventKind.VOUCHER_ISSUED:
            if event.voucher_code in self.codes:
                raise Violation("I-27", f"voucher {event.voucher_code} is issued again", key)
            self.codes.add(event.voucher_code or "")
        elif event.kind in VOUCHER_ENDS:
            if event.voucher_code in self.ended_codes or event.voucher_code not in self.codes:
                raise Violation("I-27", f"{event.kind}: {event.voucher_code} had ended before, or was never issued", key)
            self.ended_codes.add(event.voucher_code or "")

    def _profile(self, profile: MemberProfile) -> None:
        key = member_key(profile.program_id, profile.member_id)
        member = self.members[key]
        if profile.version != member.version + 1:
            raise Violation("I-29", f"version {profile.version} of the profile follows {member.version}", key)
        member.version += 1

    def _account(self, partition: Partition, key: bytes, before: Account | None, account: Account, events: list[LoyaltyEvent]) -> None:
        member = self.members[key]
        mine = (account.available_points, account.pending_points, account.held_points, -account.debt_points)
        if mine != tuple(member.balances[name] for name in OWN):
            raise Violation("I-2", f"the table has {mine}, the journal {member.balances}", key)
        if (account.event_sequence, account.entry_sequence, account.profile_version) != (member.sequence, member.entries, member.version):
            counted = (account.event_sequence, account.entry_sequence, account.profile_version)
            raise Violation("I-29", f"the account counts events, entries and profiles {counted}: {member}", key)
        if account.entry_hash != member.chain:
            raise Violation("hash chain", "the account's hash is not that of its last entry", key)
        if account.tier != member.tier:
            raise Violation("I-25", f"the account's tier is {account.tier}, the events lead to {member.tier}", key)
        if before is not None and before.status is not account.status and not any(event.account.status is account.status for event in events):
            raise Violation("I-29", f"the status became {account.status} without an event", key)
        if before is None or account.lots is not before.lots or account.holds is not before.holds:
            self._lots(account, key)
        if account.available_points < 0 or account.pending_points < 0 or account.held_points < 0 or account.debt_points < 0:
            raise Violation("I-4", f"below 0: {mine}", key)
        if account.debt_points and (account.available_points or account.program_id != "grand"):
            raise Violation("I-5", f"a debt of {account.debt_points} and {account.available_points} points", key)
        if account.merged_into is not None and (any(mine) or account.lots or account.holds or account.vouchers):
            raise Violation("I-20", f"a merged member has {mine}, {account.lots}, {account.vouchers}", key)
        if account.merged_into is not None and account.status not in (MemberStatus.MERGED, MemberStatus.ERASED):
            raise Violation("I-20", f"a merged member is {account.status}", key)
        due_ms = next_due_ms(account)
        if due_ms is not None:
            if due_ms <= account.clock_ms:
                raise Violation("I-16", f"something was due at {due_ms} and has not happened at {account.clock_ms}", key)
            self._due_row(partition, key, account, due_ms)
        self._offers(account, key)
        if before is None or account.attributes is not before.attributes:
            for value in account.attributes.values():
                if value.startswith("pii"):
                    self.holders[value].add(key)
                    self.personal[key].add(value)
        if account.status is MemberStatus.ERASED and before is not None and before.status is not MemberStatus.ERASED:
            mine_alone = {value for value in self.personal[key] if self.holders[value] == {key}}
            self._erased_now |= mine_alone
            self.counts["erased texts"] += len(mine_alone)

    def _lots(self, account: Account, key: bytes) -> None:
        held: defaultdict[str, int] = defaultdict(int)
        for hold in account.holds:
            for part in hold.parts:
                held[part.lot_id] += part.points
        lots = account.lots
        available = pending = 0
        for lot in lots:
            self._lot(lot, key)
            if lot.remaining + lot.held == 0:
                raise Violation("I-3", f"an open lot of which nothing is left: {lot}", key)
            if lot.held != held.pop(lot.lot_id, 0):
                raise Violation("I-4", f"{lot} holds another number than its holds", key)
            if lot.pending:
                pending += lot.remaining
            else:
                available += lot.remaining
        if held:
            raise Violation("I-4", f"holds of lots that are not open: {dict(held)}", key)
        if (available, pending) != (account.available_points, account.pending_points):
            theirs = (account.available_points, account.pending_points)
            raise Violation("I-4", f"lots have {available} and {pending} pending, the account {theirs}", key)
        if sum(lot.held for lot in lots) != account.held_points:
            raise Violation("I-4", f"lots hold another number than {account.held_points}", key)
        if len({lot.lot_id for lot in lots}) != len(lots) or len({hold.hold_id for hold in account.holds}) != len(account.holds):
            raise Violation("I-3", "two open lots or holds of one id", key)
        orders = [order(lot) for lot in lots]
        if orders != sorted(orders):
            raise Violation("I-15", "lots are not in the order in which they are spent", key)

    def _lot(self, lot: Lot, key: bytes) -> None:
        parts = (lot.remaining, lot.held, lot.spent, lot.expired, lot.clawed, lot.settled)
        if lot.points != sum(parts) or min(parts) < 0:
            raise Violation("I-3", f"{lot}", key)
        if not 0 <= lot.claw_when_released <= lot.held or not 0 <= lot.reversed <= lot.points:
            raise Violation("I-10", f"more is taken back than there is: {lot}", key)

    def _due_row(self, partition: Partition, key: bytes, account: Account, due_ms: int) -> None:
        at_ms = account.due_at_ms
        if at_ms is None or at_ms > due_ms:
            raise Violation("due index", f"something is due at {due_ms}, and the index says {at_ms}", key)
        row_key = at_ms.to_bytes(8, "big") + key
        if row_key not in partition.tables["due"].rows:
            raise Violation("due index", f"no row for {at_ms}", key)
        clock = partition.tables["clock"].rows.get(b"now")
        if clock is not None and clock.due_cursor is not None and row_key < clock.due_cursor:
            raise Violation("due index", f"the row for {at_ms} lies before the cursor and is never found", key)

    def _offers(self, account: Account, key: bytes) -> None:
        names = [(use.offer_id, use.period_starts_at_ms) for use in account.offer_uses]
        if len(set(names)) != len(names):
            raise Violation("I-26", f"two activations of one offer in one period: {names}", key)
        for use in account.offer_uses:
            offer = rules.OFFERS[use.offer_id]
            if use.points > offer.get("cap_points", NEVER_MS) or use.uses > offer.get("uses_max", NEVER_MS):
                raise Violation("I-26", f"more than the offer's cap: {use}", key)
        for used in account.rule_uses:
            cap = next(rule["cap_points"] for rule in rules.FIRST[account.program_id]["earn"]["rules"] if rule["id"] == used.rule_id)
            if not 0 < used.points <= cap:
                raise Violation("I-26", f"more than the rule's cap of {cap}: {used}", key)

    def _rows(self, partition: Partition, effects: Effects, entries: list[LedgerEntry], accounts_before: dict[bytes, Account | None]) -> None:
        one = effects.one
        for change in effects.changes:
            if change.table == "outcomes":
                if change.after is None:
                    if change.before.ingested_at_ms + WINDOW_MS > partition.clock_ms:
                        raise Violation("I-7", f"an answer of {change.before.ingested_at_ms} is forgotten at {partition.clock_ms}", one.key or b"")
                else:
                    self._outcome(change.before, change.after, effects, entries)
            elif change.table == "vouchers" and change.before is not None:
                if change.before.state is not VoucherState.ISSUED and change.after.state is not change.before.state:
                    raise Violation("I-27", f"a voucher goes from {change.before.state} to {change.after.state}", one.key or b"")
            elif change.table == "budgets":
                offer = rules.OFFERS[change.key.rpartition(b":")[2].decode()]
                if change.after.reserved_points > offer["budget_points"] or change.after.grants * offer["cap_points"] != change.after.reserved_points:
                    raise Violation("I-26", f"a budget of {offer['budget_points']}: {change.after}", one.key or b"")

    def _outcome(self, before: Outcome | None, after: Outcome, effects: Effects, entries: list[LedgerEntry]) -> None:
        one = effects.one
        if after.lot is not None:
            self._lot(after.lot, one.key or b"")
            if after.lot.remaining or after.lot.held:
                raise Violation("I-3", f"a closed lot of which something is left: {after.lot}", one.key or b"")
        total = sum(part.points for part in after.parts)
        if total and after.reversed_points > total:
            raise Violation("I-11", f"{after.reversed_points} of {total} points are given back", one.key or b"")
        if before is not None and before.ingested_at_ms != after.ingested_at_ms:
            before = None  # Its id was forgotten and is used again.
        given_back = after.reversed_points - (before.reversed_points if before is not None else 0)
        if before is None or not given_back:
            return
        if given_back < 0:
            raise Violation("I-11", f"{before} becomes {after}", one.key or b"")
        if total and isinstance(one.record, Transaction):
            posted = sum(entry.points_delta for entry in entries if entry.kind is EntryKind.REFUND and entry.transaction_id == one.record.transaction_id)
            if posted != given_back:
                raise Violation("I-12", f"a refund of {given_back} posts {posted}", one.key or b"")
            if one.record.kind is TransactionKind.REVERSE and one.record.points not in (None, given_back):
                raise Violation("I-12", f"{one.record.points} were asked for, {given_back} are given back", one.key or b"")

    def _letter(self, one: Any, letter: DeadLetter) -> None:
        self.counts[f"dead letter {letter.reason}"] += 1
        if letter.stage.value == "HANDLER" or one.topic not in COMMANDS:
            raise Violation("I-31", f"{one.topic}: {letter.reason} {letter.detail}", one.key or b"")
        self.unanswered.discard((one.topic, one.partition, one.offset))

    def _chain(self, partition: Partition, audits: Iterable[SyncAudit], key: bytes) -> None:
        """Each record of the audit is the next link of its partition's chain, and of no other."""
        for audit in audits:
            number, last_hash = self.chains[partition.number]
            right = hash_of(audit, number + 1, last_hash)
            if (audit.chain_number, audit.previous_hash, audit.record_hash) != (number + 1, last_hash, right):
                raise Violation("audit", f"{audit} does not follow link {number} with {last_hash}", key)
            self.chains[partition.number] = (number + 1, right)

    def _audit(
        self, partition: Partition, effects: Effects, audit: SyncAudit, before: dict[bytes, Account | None], entries: list[LedgerEntry], *, alone: bool
    ) -> None:
        key = member_key(audit.program_id, audit.member_id)
        place = (audit.topic, audit.partition, audit.offset)
        self.counts[f"result {audit.result}{' replayed' if audit.replayed else ''}"] += 1
        if audit.result is CommandResult.WAITING and not audit.replayed:
            self.waiting.add(place)
            return
        self.answered.add(audit.audit_id)
        self.unanswered.discard(place)
        self.waiting.discard(place)
        changes = [change for change in effects.changes if change.table != "clock"]  # There the audit's chain goes on.
        if alone and (audit.replayed or audit.result is CommandResult.CONFLICT) and (len(effects.outputs) > 1 or changes):
            raise Violation("I-7", f"a repetition of {audit.command_id} does something: {effects.outputs} {changes}", key)
        if audit.result is CommandResult.WAITING:
            return  # The budget was asked, and the command came again.
        if audit.sequence is None and (audit.reason == "MEMBER_ERASED" or audit.result is CommandResult.APPLIED):
            return  # Somebody was erased before the enrolment, and what waited is answered: nothing is remembered of either.
        sent: Command = self._one(place).record
        name = (member_key(sent.program_id, sent.member_id), isinstance(sent, Transaction), command_id(sent))
        content = replace(sent, occurred_at_ms=0)
        answer = (audit.result, audit.reason, audit.sequence, audit.points_delta, audit.available_points, audit.tier, audit.voucher_code)
        account = before[key] if key in before else partition.tables["accounts"].rows.get(key)
        clocks = (audit.ingested_at_ms, effects.one.timestamp_ms if alone else 0, partition.clock_ms, account.clock_ms if account is not None else 0)
        now_ms = max(clocks)
        known = self.answers.get(name)
        # Who was merged is answered by another, in whose partition it may be another time by months.
        is_here = known is not None and known.key == key
        is_known = known is not None and (now_ms - known.at_ms < WINDOW_MS if is_here else self._world.now_ms - known.at_ms < CERTAIN_MS)
        if known is not None and is_known:
            if audit.replayed and known.content == content and answer == known.answer:
                return
            if audit.result is CommandResult.CONFLICT and known.content != content:
                return
            if "MEMBER_ERASED" in (audit.reason, known.answer[1]) and isinstance(sent, ProfileChange) and not is_here:
                return  # Twice on both sides of an erasure: one was passed on to who took over, the other is not any more.
            # Two that came before the budget's answer, or before the enrolment: the first of them counts.
            if alone and not isinstance(sent, OfferActivation):
                rule = "I-7" if known.content == content else "I-8"
                raise Violation(rule, f"{sent} was answered {known}, and now {answer}, replayed: {audit.replayed}", key)
        if audit.replayed or audit.result is CommandResult.CONFLICT:
            return
        self.answers[name] = Answer(key, content, answer, now_ms)
        if audit.result is not CommandResult.APPLIED and any(entry.transaction_id == audit.command_id for entry in entries):
            raise Violation("I-9", f"{audit.command_id} is {audit.result} {audit.reason} and moves points", key)

    def _secrets(self, effects: Effects, profiles: Iterable[MemberProfile]) -> None:
        for profile in profiles:
            if self.erased.intersection(profile.attributes.values()):
                raise Violation("I-22", "a profile tells what was erased", effects.one.key or b"")
        for out in effects.outputs:
            if isinstance(out.value, bytes) and out.topic not in (RELAYS, NAMES[topics.DEAD_LETTERS.stream]):
                self._search(out.value, out.topic, out.key or b"")

    def _search(self, data: bytes, where: str, key: bytes) -> None:
        for text in PERSONAL.findall(data):
            if text.decode() in self.erased:
                raise Violation("I-22", f"{where} has {text.decode()}, which was erased", key)

    # Everything.

    def survey(self) -> None:
        """At any moment between two units."""
        mine: defaultdict[tuple[str, str], int] = defaultdict(int)
        for partition in self._world.partitions:
            clock = partition.tables["clock"].rows.get(b"now")
            cursor = clock.due_cursor if clock is not None else None
            drained = clock is not None and cursor == (clock.now_ms + 1).to_bytes(8, "big")
            for key, account in partition.tables["accounts"].rows.items():
                for name, points in zip(OWN, (account.available_points, account.pending_points, account.held_points, -account.debt_points), strict=True):
                    mine[account.program_id, name] += points
                due_ms = next_due_ms(account)
                if due_ms is not None:
                    self._due_row(partition, key, account, due_ms)
                    if drained and due_ms <= clock.now_ms:
                        raise Violation("I-16", f"something was due at {due_ms}, and the ticks have passed {clock.now_ms}", key)
        for program_id in rules.FIRST:
            for name in OWN:
                if mine[program_id, name] != self.sums[program_id, name]:
                    raise Violation("I-1", f"{program_id}: members have {mine[program_id, name]} {name}, the journal {self.sums[program_id, name]}")
            members = sum(mine[program_id, name] for name in OWN)
            if members + sum(points for (program, name), points in self.sums.items() if program == program_id and name not in OWN):
                raise Violation("I-1", f"{program_id}: the sum of all accounts is not 0")
            spent = self.bonuses[program_id, "scarce"]
            if spent > rules.OFFERS["scarce"]["budget_points"]:
                raise Violation("I-26", f"{program_id}: {spent} points of an offer with a budget of {rules.OFFERS['scarce']['budget_points']}")
        if len(self.erased) != self._surveyed_erased:
            self._surveyed_erased = len(self.erased)
            self.search_tables()

    def search_tables(self) -> None:
        """I-22 in every row, as bytes."""
        for partition in self._world.partitions:
            for table in partition.tables.values():
                for key, row in table.rows.items():
                    self._search(as_bytes(row), table.name, key)

    def end(self) -> None:
        """When every relay has arrived and every command has been decided."""
        for (program_id, name), points in self.sums.items():
            if name == "in_transit" and points:
                raise Violation("I-1", f"{program_id}: {points} points are in transit for ever")
        parked = {
            (one.topic, one.partition, one.offset)
            for partition in self._world.partitions
            for row in partition.tables["waiting"].rows.values()
            for one in row.commands
        }
        if lost := self.unanswered - parked:
            one = self._one(min(lost))
            raise Violation("I-9", f"{len(lost)} commands were never answered, for example {min(lost)}: {one.record}", one.key or b"")
        if parked - self.waiting:
            raise Violation("I-9", f"commands wait and their senders do not know: {parked - self.waiting}")
        for partition in self._world.partitions:
            for key, account in partition.tables["accounts"].rows.items():
                if account.merged_into is None and any(use.asked for use in account.offer_uses):
                    raise Violation("I-26", f"a budget has not answered: {account.offer_uses}", key)
        self.search_tables()

    def _one(self, place: tuple[str, int, int]) -> Any:
        topic, partition, offset = place
        return self._world.logs[topic, partition][offset]

    def story(self, key: bytes) -> list[str]:
        """The last that happened to a member, for people."""
        lines = []
        for effects in self.members[key].lines[-16:] if key in self.members else ():
            one = effects.one
            lines.append(f"  {one.topic}[{one.partition}]@{one.offset} at {one.timestamp_ms}: {_short(one.record)}")
            for out in effects.outputs:
                record = self._world.codec.decode(out.value, OUTBOUND[out.topic])
                if isinstance(record, LedgerEntry):
                    lines.append(f"      {record.kind} {record.account} {record.points_delta:+} from {record.counter_account} ({record.transaction_id})")
                elif isinstance(record, SyncAudit):
                    again = "replayed" if record.replayed else ""
                    lines.append(f"      -> {record.result} {record.reason or ''} {again} for {record.member_id} {record.command_id}")
                elif isinstance(record, Relay):
                    lines.append(f"      relay {record.kind} {record.relay_id} {record.from_member_id} -> {record.member_id} by {record.path}")
                elif isinstance(record, LoyaltyEvent):
                    lines.append(f"      event {record.sequence} {record.kind} {record.refusal or record.counter_member_id or ''}")
        return lines


def _short(record: Any) -> str:
    """A record without the fields that say nothing."""
    if not isinstance(record, Command | Relay):
        return type(record).__name__
    fields = {name: value for name, value in record.to_avro().items() if value and name not in ("program_id", "source_system", "origin")}
    return f"{type(record).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

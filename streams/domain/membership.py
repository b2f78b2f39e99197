"""Member operations -> decisions: merge, erase, pools. A merge moves everything to another member's key, and an alias stays behind."""

from collections.abc import Iterable
from dataclasses import replace

from schemas.records import (
    EntryKind,
    Lot,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    OpenVoucher,
    ProfileOperation,
    Relay,
    RelayKind,
    Voucher,
    VoucherState,
)
from streams.domain import ledger, profiles, tiers
from streams.domain.book import Book
from streams.domain.facts import (
    AVAILABLE,
    DEBT,
    IN_TRANSIT,
    PENDING,
    MemberAbsorbed,
    MemberErased,
    MemberMerged,
    PoolChanged,
    ProfileVersioned,
    QualifyingCounted,
)
from streams.domain.identity import derived_id
from streams.domain.lots import POINTS_LIMIT, Movement, part_of, total_points
from streams.domain.refusals import Refusal
from streams.domain.relays import origin_of


def decide(book: Book, command: MemberOperation) -> Refusal | None:
    match command.kind:
        case MemberOperationKind.MERGE:
            return _merge(book, command)
        case MemberOperationKind.ERASE:
            _erase(book)
        case MemberOperationKind.SET_TIER:
            return tiers.decide_manual(book, command)
        case MemberOperationKind.JOIN_POOL:
            if command.target_member_id == book.account.member_id:
                return Refusal.SAME_MEMBER
            _set_pool(book, command.target_member_id)
        case MemberOperationKind.LEAVE_POOL:
            _set_pool(book, None)
        case MemberOperationKind.UNKNOWN:
            raise ValueError("an operation of unknown kind breaks the contract and is not to reach the domain")
    return None


def _set_pool(book: Book, pool_member_id: str | None) -> None:
    if book.account.pool_member_id != pool_member_id:
        book.record(PoolChanged(pool_member_id=pool_member_id))


def _erase(book: Book) -> None:
    """Nothing personal is left. Points stay until they expire: a ledger does not forget what it owes."""
    for kind, value in book.account.external_ids.items():
        profiles.tell_identity(book, RelayKind.IDENTITY_RELEASE, kind, value)
    book.record(MemberErased())
    book.record(ProfileVersioned(operation=ProfileOperation.ERASE, changed=("attributes", "segments", "external_ids", "status")))


def _merge(book: Book, command: MemberOperation) -> Refusal | None:
    """The source's half: from now on its commands are the target's, and all it has is on its way."""
    account, target = book.account, command.target_member_id or ""
    if target == account.member_id:
        return Refusal.SAME_MEMBER
    if account.holds:
        return Refusal.HOLDS_OPEN
    whole = replace(account, attributes={}, segments=(), external_ids={}, origins=())  # Nothing personal leaves the member's own partition.
    rows = [book.voucher(opened.voucher_code) for opened in account.vouchers]
    if account.qualifying:
        book.record(QualifyingCounted(buckets=(), points=0))
    moved = Movement(book)
    moved.empty(EntryKind.MERGE_OUT, "merge")
    moved.commit(EntryKind.MERGE_OUT, counter_member_id=target)
    book.record(MemberMerged(into=target, status=MemberStatus.MERGED, vouchers=(), tier_valid_until_ms=None))
    book.record(ProfileVersioned(operation=ProfileOperation.MERGE, changed=("status",)))
    book.relays.append(
        Relay(
            program_id=account.program_id,
            member_id=target,
            relay_id=derived_id("rly", account.program_id, account.member_id, f"merge:{command.event_id}:{book.account.event_sequence}"),
            kind=RelayKind.MERGE_IN,
            from_member_id=account.member_id,
            lots=account.lots,
            account=whole,
            vouchers=tuple(row for row in rows if row is not None),
            origin=origin_of(book.cause),
        )
    )
    return None


def moved_id(source_member_id: str, identifier: str) -> str:
    """How a transaction or a lot of a merged member is known at the one who took over: two members may have used the same id."""
    return f"{source_member_id}/{identifier}"


def moved(path: Iterable[str], identifier: str) -> str:
    """How it is known after it was moved from each of these members, in turn."""
    for member_id in path:
        identifier = moved_id(member_id, identifier)
    return identifier


def fits(book: Book, relay: Relay) -> bool:
    """Whether the target can take over what is on its way."""
    source = relay.account
    return source is not None and total_points(book.account) + total_points(source) <= POINTS_LIMIT


def absorb(book: Book, relay: Relay) -> None:
    """MERGE_IN: the target's half. Points keep their lots, expiry and state; a debt is the target's; the higher tier stays."""
    source = relay.account
    assert source is not None, "a merge carries the account"
    name, way = relay.from_member_id, (relay.from_member_id, *relay.path)
    for bucket in source.qualifying:
        tiers.count(book, bucket.points, bucket.starts_at_ms or book.now_ms)
    _arrive(book, [replace(lot, lot_id=moved(way, lot.lot_id)) for lot in relay.lots], source.debt_points, EntryKind.MERGE_IN, name)
    account = book.account
    known = {(use.offer_id, use.period_starts_at_ms) for use in account.offer_uses}
    new_uses = [use for use in source.offer_uses if (use.offer_id, use.period_starts_at_ms) not in known and not use.asked]
    uses = tuple(sorted((*account.offer_uses, *new_uses), key=lambda use: (use.offer_id, use.period_starts_at_ms)))
    for voucher in relay.vouchers:
        book.store_voucher(replace(voucher, issued_by=moved(way, voucher.issued_by)))
    offers = tuple(sorted({*account.active_offers, *(use.offer_id for use in new_uses)}))
    opened = (*account.vouchers, *map(_opened, relay.vouchers))
    book.record(MemberAbsorbed(source=name, sources=(name, *source.moved_from), vouchers=opened, offer_uses=uses, active_offers=offers))
    tiers.promote(book)
    program = book.program
    if tiers.rank_of(program, source.tier) > tiers.rank_of(program, book.account.tier):
        tier = program.tiers[tiers.rank_of(program, source.tier)]
        tiers.change(book, tier, source.tier_valid_until_ms, reward=False)
    ledger.unpark(book)


def _opened(voucher: Voucher) -> OpenVoucher:
    return OpenVoucher(voucher_code=voucher.voucher_code, reward_code=voucher.reward_code, expires_at_ms=voucher.expires_at_ms)


def restore(book: Book, relay: Relay) -> None:
    """MERGE_BACK: there is no such target. The source is what it was."""
    source = relay.account
    assert source is not None, "a merge carries the account"
    if source.qualifying:
        counting = tiers.points_at(book.program, source.enrolled_at_ms, source.qualifying, book.now_ms)
        book.record(QualifyingCounted(buckets=source.qualifying, points=counting))
    _arrive(book, list(relay.lots), source.debt_points, EntryKind.MERGE_IN, relay.from_member_id)
    opened = tuple(_opened(voucher) for voucher in relay.vouchers if _is_issued(book, voucher))
    status = book.account.status if book.account.status is MemberStatus.ERASED else source.status
    book.record(MemberMerged(into=None, status=status, vouchers=opened, tier_valid_until_ms=source.tier_valid_until_ms))
    book.record(ProfileVersioned(operation=ProfileOperation.MERGE, changed=("status",)))


def _is_issued(book: Book, voucher: Voucher) -> bool:
    row = book.voucher(voucher.voucher_code)
    return row is not None and row.state is VoucherState.ISSUED


def _arrive(book: Book, lots: list[Lot], debt_points: int, movement: EntryKind, other: str) -> None:
    moved = Movement(book)
    for lot in lots:
        moved.put(lot)
        part = part_of(lot, lot.remaining)
        moved.post(movement, lot.remaining, IN_TRANSIT, "merge", PENDING if lot.pending else AVAILABLE, [part])
    moved.post(movement, -debt_points, IN_TRANSIT, "merge", DEBT)
    moved.pay_debt()
    moved.commit(movement, counter_member_id=other)

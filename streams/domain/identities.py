"""The identity map: which member an external id leads to. One row per id, in the partition of its address; the first claim there counts.

A member's partition tells the id's partition what it claims and what it lets go of, in order; the id's partition answers a claim that is
refused. Where an id is shown or kept, it is a pseudonym.
"""

from dataclasses import dataclass, replace

from schemas.contract import ADDRESS_MARK, Command, member_key
from schemas.records import Account, CommandResult, Identity, Outcome, ProfileOperation, Relay, RelayKind
from streams.domain import profiles
from streams.domain.book import Book, Received
from streams.domain.desk import cause_of_command
from streams.domain.facts import IdentityRefused, ProfileVersioned
from streams.domain.identity import SEPARATOR, address, derived_id, pseudonym, transaction_key
from streams.domain.mastering import EXTERNAL_IDS
from streams.domain.origins import by_name
from streams.domain.program import Program
from streams.domain.relays import origin_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What follows from a claim or a release."""

    row: Identity | None
    """Of the identities table; None: the id leads to nobody."""
    refusal: Relay | None = None
    """For the claimant, when the id leads to another member already."""


def is_address(member_id: str) -> bool:
    """Whether it names a member by an external id."""
    return member_id.startswith(ADDRESS_MARK)


def parts_of(address_text: str) -> tuple[str, str]:
    """Type and value of an address."""
    kind, _, value = address_text.removeprefix(ADDRESS_MARK).partition(":")
    return kind, value


def shown(program: Program, member_id: str) -> str:
    """How a member_id may be shown and kept for long: an address with the id's pseudonym, a member's own number as it is."""
    if not is_address(member_id):
        return member_id
    kind, value = parts_of(member_id)
    return address(kind, pseudonym(program.voucher_key, program.program_id, kind, value))


def identity_key(program: Program, address_text: str) -> bytes:
    """Key in the identities table."""
    return member_key(program.program_id, f"{SEPARATOR}i:{shown(program, address_text).removeprefix(ADDRESS_MARK)}")


def relay_key(program: Program, relay: Relay) -> bytes:
    """Key in the outcomes table under which a claim or release is remembered: a second time it is no news."""
    return transaction_key(program.program_id, shown(program, relay.member_id), SEPARATOR + relay.relay_id)


def noted(now_ms: int) -> Outcome:
    """What is remembered of a claim or release: that it came."""
    return Outcome(payload_hash="", result=CommandResult.APPLIED, sequence=0, available_points=0, tier="", ingested_at_ms=now_ms)


def take(row: Identity | None, relay: Relay, now_ms: int) -> Claimed:
    """IDENTITY_CLAIM, IDENTITY_RELEASE: what the id's row is after it. `row` is what it was, `now_ms` the log's time.

    A member may take over what leads to a number that was merged into it, and lets go of nothing but its own.
    """
    claimant = relay.from_member_id
    if relay.kind is RelayKind.IDENTITY_RELEASE:
        return Claimed(row=None if row is not None and row.member_id == claimant else row)
    if row is None or row.member_id in relay.path:
        return Claimed(row=Identity(member_id=claimant, claimed_at_ms=now_ms))
    if row.member_id == claimant:
        return Claimed(row=row)
    refusal = Relay(
        program_id=relay.program_id,
        member_id=claimant,
        relay_id=derived_id("rly", relay.program_id, claimant, f"refused:{relay.relay_id}"),
        kind=RelayKind.IDENTITY_REFUSED,
        from_member_id=row.member_id,
        identity=relay.member_id.removeprefix(ADDRESS_MARK),
        origin=relay.origin,
    )
    return Claimed(row=row, refusal=refusal)


def holds(account: Account, relay: Relay) -> bool:
    """Whether the member still has the id that an IDENTITY_REFUSED is about."""
    kind, value = parts_of(relay.identity or "")
    return account.external_ids.get(kind) == value


def refuse(book: Book, relay: Relay) -> None:
    """IDENTITY_REFUSED, at a claimant who holds the id: it is not the member's. Where the value came from stays: what is older is still no
    news."""
    kind, value = parts_of(relay.identity or "")
    account = book.account
    last = by_name(account).get(EXTERNAL_IDS + kind)
    if last is not None and last.event_id != relay.origin.command_id:
        # Somebody has said it again since, and it may have become free: that word is asked for, and its own answer counts.
        profiles.tell_identity(book, RelayKind.IDENTITY_CLAIM, kind, value)
        claim = book.relays.pop()
        again = derived_id("rly", account.program_id, account.member_id, f"again:{relay.relay_id}:{last.event_id}")
        book.relays.append(replace(claim, relay_id=again, origin=replace(claim.origin, command_id=last.event_id)))
        return
    left = {name: one for name, one in account.external_ids.items() if name != kind}
    book.record(IdentityRefused(identity_type=kind, owner=relay.from_member_id, external_ids=left))
    book.record(ProfileVersioned(operation=ProfileOperation.CHANGE, changed=(EXTERNAL_IDS + kind,)))
    # A claim that was made after the one that is refused may have been granted meanwhile.
    profiles.tell_identity(book, RelayKind.IDENTITY_RELEASE, kind, value)


def addressed(row: Identity, received: Received, value: bytes) -> Relay:
    """ADDRESSED: a command that named its member by an external id, on its way to that member. `value` is the record as it came."""
    command = received.command
    assert command is not None, "a command is addressed"
    cause = cause_of_command(received, command)
    origin = origin_of(cause, topic=received.topic, partition=received.partition, offset=received.offset, value=value)
    return Relay(
        program_id=command.program_id,
        member_id=row.member_id,
        relay_id=f"adr_{received.topic}-{received.partition}-{received.offset}",
        kind=RelayKind.ADDRESSED,
        from_member_id="",
        origin=replace(origin, released=received.released),
    )


def under_number(received: Received, member_id: str) -> Received:
    """The command of an address as one of the member's own: sent by number again, it is a repetition."""
    command = received.command
    if command is None or not is_address(command.member_id):
        return received
    own: Command = replace(command, member_id=member_id)
    return replace(received, command=own)

"""The rules that Avro cannot say: which values a command must have. The ingress answers 422 by them, the worker dead-letters by them.

`problems(record)` is pure. A rule here is about the record alone; what depends on an account is the domain's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from operator import attrgetter

from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import (
    Enrolment,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    OfferActivation,
    ProfileChange,
    Transaction,
    TransactionKind,
)

PROGRAM_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ID_CHARACTERS_MAX = 128
ADDRESS_MARK = "@"
"""First character of a member_id that is an address: @type:value, an external id in place of the member's own."""
ADDRESS = re.compile(r"@[a-z][a-z0-9_]{0,31}:.+", re.DOTALL)
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)  # ISO 8601 has other forms, and Python reads some of them.
EXTERNAL_ID_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")
EXTERNAL_ID_CHARACTERS_MAX = 94  # An address has room for it.
EXTERNAL_IDS_MAX = 32
ATTRIBUTES_MAX = 64
ATTRIBUTE_NAME = re.compile(r"[a-z][a-z0-9_.]{0,62}")
ATTRIBUTE_CHARACTERS_MAX = 1024
# Names that stand for other things in audit records and in lists of changes.
ATTRIBUTES_RESERVED = frozenset({"status", "tier", "segments", "available_points", "qualifying_points", "active_offers", "external_ids"})
EXTERNAL_IDS_PREFIX = "external_ids."
SEGMENTS_MAX = 256
TEXT_CHARACTERS_MAX = 512
POINTS_MAX = 10**15  # Far above any balance, far below int64: sums cannot overflow on the way.
AMOUNT_MINOR_MAX = 10**15
NIGHTS_MAX = 3660
LINE_ITEMS_MAX = 1000
TIME_MS_MAX = 253_402_300_799_999  # The last millisecond of the year 9999: beyond it no calendar of Python's, nor RFC 3339, has a name for it.

STATUSES_SETTABLE = (MemberStatus.ACTIVE, MemberStatus.SUSPENDED, MemberStatus.LEFT)
"""What a client may set; the others are what operations leave behind."""

KINDS_OF_FIELD: Mapping[str, frozenset[TransactionKind]] = {
    "related_transaction_id": frozenset({TransactionKind.CAPTURE, TransactionKind.VOID, TransactionKind.ACTIVATE}),
    "to_member_id": frozenset({TransactionKind.TRANSFER}),
    "voucher_code": frozenset({TransactionKind.REDEEM_VOUCHER, TransactionKind.CANCEL_VOUCHER}),
    "expires_at_ms": frozenset({TransactionKind.EARN, TransactionKind.ADJUST, TransactionKind.HOLD}),
    "available_from_ms": frozenset({TransactionKind.EARN}),
    "pending": frozenset({TransactionKind.EARN}),
}
"""Fields of a transaction that only some kinds have, with these kinds, in the order of the fields."""
_OF_SOME_KINDS, _NONE_GIVEN = attrgetter(*KINDS_OF_FIELD), (None,) * len(KINDS_OF_FIELD)

KINDS_WITHOUT_POINTS = frozenset(
    {TransactionKind.VOID, TransactionKind.ACTIVATE, TransactionKind.REDEEM_VOUCHER, TransactionKind.CANCEL_VOUCHER}
)
KINDS_WITH_TARGET = frozenset({MemberOperationKind.MERGE, MemberOperationKind.JOIN_POOL})

Command = Enrolment | Transaction | ProfileChange | OfferActivation | MemberOperation


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule. `reason` is stable, `field` names the place, `detail` is for people and holds no personal data."""

    reason: str
    field: str
    detail: str


def member_key(program_id: str, member_id: str) -> bytes:
    """Key of every record about a member. A programme is a slug without '/', so the first '/' separates the two."""
    return f"{program_id}/{member_id}".encode()


def command_id(command: Command) -> str:
    """The id the client made: the transaction_id of a transaction, the event_id of the others."""
    return command.transaction_id if isinstance(command, Transaction) else command.event_id


def problems(command: Command) -> tuple[Problem, ...]:
    """Every broken rule of the command, in the order of its fields; empty if there is none."""
    found: list[Problem] = []
    if not PROGRAM_ID.fullmatch(command.program_id):
        found.append(Problem("PROGRAM_ID_INVALID", "program_id", "must be a slug of a-z, 0-9 and '-', 63 characters at most"))
    id_field = "transaction_id" if isinstance(command, Transaction) else "event_id"
    for name, value in (("member_id", command.member_id), (id_field, command_id(command)), ("source_system", command.source_system)):
        found += _identifier(name, value)
    if command.member_id.startswith(ADDRESS_MARK) and not ADDRESS.fullmatch(command.member_id):
        found.append(Problem("ADDRESS_INVALID", "member_id", "an address has the form @type:value"))
    if not 0 < command.occurred_at_ms <= TIME_MS_MAX:
        found.append(Problem("OCCURRED_AT_INVALID", "occurred_at_ms", "must be milliseconds since 1970, above 0 and before the year 10000"))
    if isinstance(command, Transaction):
        found += _transaction(command)
    elif isinstance(command, OfferActivation):
        found += _identifier("offer_id", command.offer_id)
    elif isinstance(command, MemberOperation):
        found += _operation(command)
    else:
        found += _profile(command)
    return tuple(found)


def _member(name: str, value: str) -> list[Problem]:
    """Another member, who must be named by their own id: what is under way to them has to arrive."""
    if value.startswith(ADDRESS_MARK):
        return [Problem("ADDRESS_NOT_HERE", name, "must be a member's own id, not an external one")]
    return _identifier(name, value)


def _identifier(name: str, value: str) -> list[Problem]:
    if 1 <= len(value) <= ID_CHARACTERS_MAX and value.isprintable():
        return []
    return [Problem("ID_INVALID", name, f"must have 1 to {ID_CHARACTERS_MAX} printable characters")]


def _time(name: str, at_ms: int | None) -> list[Problem]:
    if at_ms is None or 0 < at_ms <= TIME_MS_MAX:
        return []
    return [Problem("TIME_INVALID", name, "must be milliseconds since 1970, above 0 and before the year 10000")]


def _not_for(kind: str, name: str) -> Problem:
    return Problem("FIELD_NOT_FOR_KIND", name, f"must be left out of {_a(kind)}")


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'AE' else 'a'} {kind}"


def _texts(record: object, *names: str) -> list[Problem]:
    """Free texts end up in state and in every event: they have a bound."""
    return [
        Problem("TEXT_TOO_LONG", name, f"{TEXT_CHARACTERS_MAX} characters at most")
        for name in names
        if len(getattr(record, name) or "") > TEXT_CHARACTERS_MAX
    ]


def _profile(command: Enrolment | ProfileChange) -> list[Problem]:
    found = []
    if len(command.attributes) > ATTRIBUTES_MAX:
        found.append(Problem("TOO_MANY_ATTRIBUTES", "attributes", f"{ATTRIBUTES_MAX} at most"))
    for name, value in command.attributes.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            found.append(Problem("ATTRIBUTE_NAME_INVALID", "attributes", "names are a-z, 0-9, '_' and '.', and start with a letter"))
        if name in ATTRIBUTES_RESERVED or name.startswith(EXTERNAL_IDS_PREFIX):
            found.append(Problem("ATTRIBUTE_NAME_RESERVED", f"attributes.{name}", "is a name of the programme's own"))
        if value is not None and len(value) > ATTRIBUTE_CHARACTERS_MAX:
            found.append(Problem("ATTRIBUTE_TOO_LONG", f"attributes.{name[:64]}", f"{ATTRIBUTE_CHARACTERS_MAX} characters at most"))
    segments = command.segments or ()
    if len(segments) > SEGMENTS_MAX or not all(1 <= len(s) <= ID_CHARACTERS_MAX for s in segments):
        found.append(Problem("SEGMENTS_INVALID", "segments", f"{SEGMENTS_MAX} at most, each of 1 to {ID_CHARACTERS_MAX} characters"))
    found += _external_ids(command.external_ids or {})
    found += _texts(command, "actor")
    if isinstance(command, ProfileChange):
        found += _texts(command, "status_reason")
        if command.status is MemberStatus.UNKNOWN:
            found.append(Problem("STATUS_UNKNOWN", "status", "must be ACTIVE, SUSPENDED or LEFT"))
        elif command.status is not None and command.status not in STATUSES_SETTABLE:
            found.append(Problem("STATUS_NOT_SETTABLE", "status", "must be ACTIVE, SUSPENDED or LEFT: the others are set by member operations"))
        elif command.status is None and (command.status_from_ms is not None or command.status_from_date is not None):
            found.append(Problem("STATUS_REQUIRED", "status", "must be given with the time from which it is in force"))
        if not command.attributes and command.segments is None and command.status is None and not command.external_ids:
            found.append(Problem("CHANGE_EMPTY", "attributes", "one of attributes, segments, external_ids and status must be given"))
        found += _time("status_from_ms", command.status_from_ms)
        found += _day(command)
    elif command.member_id.startswith(ADDRESS_MARK):
        found.append(Problem("MEMBER_ID_RESERVED", "member_id", "must not begin with '@': that is how external ids are written"))
    return found


def _external_ids(external_ids: Mapping[str, str | None]) -> list[Problem]:
    found = []
    if len(external_ids) > EXTERNAL_IDS_MAX:
        found.append(Problem("TOO_MANY_EXTERNAL_IDS", "external_ids", f"{EXTERNAL_IDS_MAX} at most"))
    for kind, value in external_ids.items():
        if not EXTERNAL_ID_TYPE.fullmatch(kind):
            found.append(Problem("EXTERNAL_ID_TYPE_INVALID", "external_ids", "types are a-z, 0-9 and '_', and start with a letter; 32 characters at most"))
        if value is not None and not (1 <= len(value) <= EXTERNAL_ID_CHARACTERS_MAX and value.isprintable()):
            detail = f"must have 1 to {EXTERNAL_ID_CHARACTERS_MAX} printable characters"
            found.append(Problem("EXTERNAL_ID_INVALID", f"external_ids.{kind[:64]}", detail))
    return found


def _day(command: ProfileChange) -> list[Problem]:
    text = command.status_from_date
    if text is None:
        return []
    if command.status_from_ms is not None:
        return [Problem("STATUS_FROM_TWICE", "status_from_date", "must be left out where status_from is given")]
    try:
        day = date.fromisoformat(text) if DAY.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None or not 1970 < day.year < 9990:
        return [Problem("DATE_INVALID", "status_from_date", "must be a day, YYYY-MM-DD, after 1970")]
    return []


def _operation(command: MemberOperation) -> list[Problem]:
    kind, found = command.kind, []
    if kind is MemberOperationKind.UNKNOWN:
        return [Problem("KIND_UNKNOWN", "kind", f"must be one of {_known(MemberOperationKind)}")]
    if kind in KINDS_WITH_TARGET:
        if command.target_member_id is None:
            found.append(Problem("TARGET_MEMBER_REQUIRED", "target_member_id", f"{_a(kind)} names the other member"))
        else:
            found += _member("target_member_id", command.target_member_id)
    elif command.target_member_id is not None:
        found.append(_not_for(kind, "target_member_id"))
    if kind is MemberOperationKind.SET_TIER:
        if not command.tier:
            found.append(Problem("TIER_REQUIRED", "tier", "a SET_TIER names the tier"))
        found += _texts(command, "tier")
        found += _time("valid_until_ms", command.valid_until_ms)
    else:
        found += [_not_for(kind, name) for name in ("tier", "valid_until_ms") if getattr(command, name) is not None]
    if not command.reason:
        found.append(Problem("REASON_REQUIRED", "reason", f"{_a(kind)} needs a reason"))
    if not command.actor:
        found.append(Problem("ACTOR_REQUIRED", "actor", f"{_a(kind)} needs an actor"))
    found += _texts(command, "reason", "actor")
    return found


def _known(kinds: type[TransactionKind] | type[MemberOperationKind]) -> str:
    return ", ".join(kind.value for kind in kinds if kind.value != "UNKNOWN")


def _transaction(t: Transaction) -> list[Problem]:
    found = []
    if t.kind is TransactionKind.UNKNOWN:
        return [Problem("KIND_UNKNOWN", "kind", f"must be one of {_known(TransactionKind)}")]
    if t.points is not None:
        if t.kind in KINDS_WITHOUT_POINTS:
            found.append(_not_for(t.kind, "points"))
        elif abs(t.points) > POINTS_MAX:
            found.append(Problem("POINTS_TOO_LARGE", "points", f"{POINTS_MAX} at most"))
        elif t.points == 0 or (t.points < 0 and t.kind is not TransactionKind.ADJUST):
            found.append(Problem("POINTS_NOT_POSITIVE", "points", "must be above 0 (ADJUST: not 0)"))
    found += _amount(t)
    found += _texts(t, "category", "property_id", "reverses_transaction_id", "reward_code", "reason", "actor", "related_transaction_id", "voucher_code")
    if t.nights is not None and not 0 <= t.nights <= NIGHTS_MAX:
        found.append(Problem("NIGHTS_INVALID", "nights", f"must be from 0 to {NIGHTS_MAX}"))
    match t.kind:
        case TransactionKind.EARN:
            if t.points is None and t.amount_minor is None and t.nights is None:
                found.append(Problem("POINTS_OR_AMOUNT_REQUIRED", "points", "an EARN needs points, an amount with its currency, or nights"))
            if t.points is not None and t.amount_minor is not None:
                found.append(Problem("POINTS_AND_AMOUNT", "points", "give either points or an amount, not both"))
        case TransactionKind.REDEEM | TransactionKind.HOLD:
            if t.points is None:
                found.append(Problem("POINTS_REQUIRED", "points", f"{_a(t.kind)} needs points"))
        case TransactionKind.TRANSFER:
            if t.points is None:
                found.append(Problem("POINTS_REQUIRED", "points", "a TRANSFER needs points"))
            if t.to_member_id is None:
                found.append(Problem("TO_MEMBER_REQUIRED", "to_member_id", "a TRANSFER names the member who receives the points"))
            else:
                found += _member("to_member_id", t.to_member_id)
        case TransactionKind.ADJUST:
            if t.points is None:
                found.append(Problem("POINTS_REQUIRED", "points", "an ADJUST needs points"))
            if not t.reason:
                found.append(Problem("REASON_REQUIRED", "reason", "an ADJUST needs a reason"))
            if not t.actor:
                found.append(Problem("ACTOR_REQUIRED", "actor", "an ADJUST needs an actor"))
        case TransactionKind.REVERSE:
            if not t.reverses_transaction_id:
                found.append(Problem("REVERSES_REQUIRED", "reverses_transaction_id", "a REVERSE names the transaction it takes back"))
        case TransactionKind.CAPTURE | TransactionKind.VOID | TransactionKind.ACTIVATE:
            if not t.related_transaction_id:
                named = "the EARN that is pending" if t.kind is TransactionKind.ACTIVATE else "the HOLD"
                found.append(Problem("RELATED_REQUIRED", "related_transaction_id", f"{_a(t.kind)} names {named}"))
        case TransactionKind.REDEEM_VOUCHER | TransactionKind.CANCEL_VOUCHER:
            if not t.voucher_code:
                found.append(Problem("VOUCHER_CODE_REQUIRED", "voucher_code", f"{_a(t.kind)} names the voucher"))
    if (given := _OF_SOME_KINDS(t)) != _NONE_GIVEN:  # Most commands have none of them, and every one is looked at twice.
        for (name, kinds), value in zip(KINDS_OF_FIELD.items(), given, strict=True):
            if t.kind not in kinds and value is not None:
                found.append(_not_for(t.kind, name))
            elif name.endswith("_ms"):
                found += _time(name, value)
    return found


def _amount(t: Transaction) -> list[Problem]:
    found = []
    if t.amount_minor is not None and not 0 <= t.amount_minor <= AMOUNT_MINOR_MAX:
        found.append(Problem("AMOUNT_INVALID", "amount_minor", f"must be from 0 to {AMOUNT_MINOR_MAX}"))
    if (t.amount_minor is not None or t.line_items) and t.currency is None:
        found.append(Problem("CURRENCY_REQUIRED", "currency", "an amount needs its currency"))
    if t.currency is not None and t.currency not in MINOR_UNIT_DIGITS:
        found.append(Problem("CURRENCY_UNKNOWN", "currency", "must be a code of ISO 4217, for example EUR"))
    if len(t.line_items) > LINE_ITEMS_MAX:
        found.append(Problem("TOO_MANY_LINE_ITEMS", "line_items", f"{LINE_ITEMS_MAX} at most"))
    for number, line in enumerate(t.line_items[:LINE_ITEMS_MAX]):
        if abs(line.amount_minor) > AMOUNT_MINOR_MAX or len(line.sku or "") + len(line.category or "") > TEXT_CHARACTERS_MAX:
            found.append(Problem("LINE_ITEM_INVALID", f"line_items[{number}]", "has an amount or texts beyond the bounds"))
    return found

"""The work that every subject does for each input record, and the inputs. Knows nothing of who runs it; needs fastavro alone.

Avro in, a balance with idempotency, Avro out: a repeated transaction id changes nothing, a redemption beyond the balance is refused.
"""

import io
import random
import struct
from collections.abc import Iterator
from typing import Any

import fastavro

PARTITIONS = 4
RECENT_IDS = 8  # Transaction ids that a row remembers.
REPEATED_ONE_IN = 50

Row = dict[str, Any]
"""A decoded record: what fastavro reads and writes."""


def _record(name: str, **fields: Any) -> Any:
    return fastavro.parse_schema({"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields.items()]})


MOVEMENT = _record(
    "Movement", transaction_id="string", member_id="string", kind={"type": "enum", "name": "Kind", "symbols": ["EARN", "REDEEM"]},
    points="long", occurred_at_ms="long", source_system="string",
)  # fmt: skip
BALANCE = _record("Balance", points="long", sequence="long", recent_ids={"type": "array", "items": "string"})
CHANGED = _record(
    "BalanceChanged", member_id="string", transaction_id="string",
    result={"type": "enum", "name": "Result", "symbols": ["APPLIED", "REFUSED", "REPLAYED"]},
    points_delta="long", points_after="long", sequence="long", occurred_at_ms="long",
)  # fmt: skip

HEADER_BYTES = 5  # Confluent's wire format: a zero byte and a schema id.
HEADERS = {"Movement": struct.pack(">bI", 0, 1), "Balance": struct.pack(">bI", 0, 2), "BalanceChanged": struct.pack(">bI", 0, 3)}


def encode(schema: Any, value: Row) -> bytes:
    out = io.BytesIO()
    out.write(HEADERS[schema["name"]])
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def decode(schema: Any, data: bytes) -> Row:
    body = io.BytesIO(data)
    body.seek(HEADER_BYTES)
    value: Row = fastavro.schemaless_reader(body, schema, None)  # type: ignore[assignment]
    return value


def decide(balance: Row | None, movement: Row) -> tuple[Row, Row]:
    """The balance after the movement, and what to tell of it. `balance` is not changed; None is a member's first movement."""
    if balance is None:
        balance = {"points": 0, "sequence": 0, "recent_ids": []}
    identity = movement["transaction_id"]
    if identity in balance["recent_ids"]:
        return balance, _changed(balance, movement, "REPLAYED", 0)
    delta = movement["points"] if movement["kind"] == "EARN" else -movement["points"]
    result = "APPLIED"
    if balance["points"] + delta < 0:
        delta, result = 0, "REFUSED"
    after = {
        "points": balance["points"] + delta,
        "sequence": balance["sequence"] + 1,
        "recent_ids": [*balance["recent_ids"], identity][-RECENT_IDS:],
    }
    return after, _changed(after, movement, result, delta)


def _changed(after: Row, movement: Row, result: str, delta: int) -> Row:
    return {
        "member_id": movement["member_id"],
        "transaction_id": movement["transaction_id"],
        "result": result,
        "points_delta": delta,
        "points_after": after["points"],
        "sequence": after["sequence"],
        "occurred_at_ms": movement["occurred_at_ms"],
    }


def movements(seed: int, count: int, members: int, first: int = 0) -> Iterator[Row]:
    """`count` movements of random members, one in REPEATED_ONE_IN of them the one before it once more."""
    dice = random.Random(seed)
    last: Row | None = None
    for number in range(first, first + count):
        if last is not None and dice.randrange(REPEATED_ONE_IN) == 0:
            yield last
            continue
        last = movement(number, dice.randrange(members), "EARN" if dice.random() < 0.7 else "REDEEM", dice.randrange(1, 1000))
        yield last


def one_each(members: int) -> Iterator[Row]:
    """One movement of each member, so that all of them have a row."""
    for number in range(members):
        yield movement(number, number, "EARN", 100)


def movement(number: int, member: int, kind: str, points: int) -> Row:
    return {
        "transaction_id": f"pms:{number:09d}",
        "member_id": f"member-{member:07d}",
        "kind": kind,
        "points": points,
        "occurred_at_ms": 1_790_000_000_000 + number,
        "source_system": "pms",
    }

"""What the real ledger costs for each command, without a broker: decode, decide, encode, and the handler around them. In this process."""

import time
import tomllib
from collections.abc import Callable
from functools import partial
from typing import Any

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Enrolment, ProgramVersion, ProgramVersions
from schemas.registry import LocalRegistry
from streams import programs, topics
from streams.agents.keep_accounts import KeepAccounts, Tables
from streams.domain import desk
from streams.engine import Input
from streams.tables import TABLES
from tests.e2e import oracle, traffic

MEMBERS, TRANSACTIONS, SEED = 2_000, 40_000, 20261125


class Timed:
    """A function that adds up what its calls take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.spent_s = 0.0
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started_s = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.spent_s += time.perf_counter() - started_s
            self.calls += 1


class Outbox:
    """What the handler takes for a unit."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self, *_: Any, **__: Any) -> None:
        self.sent += 1


def cost() -> dict[str, Any]:
    """Microseconds per command of mixed traffic: earns, redemptions, reversals, repetitions, conflicts; members enrolled late among them."""
    codec = Codec(LocalRegistry())
    encode = Timed(codec.encode)
    codec.encode = encode  # type: ignore[method-assign]
    rules = programs.to_json(tomllib.loads(oracle.RULES_TOML)["programs"]["grand"])
    version = ProgramVersion(program_id="grand", version=1, effective_from_ms=1, rules=rules, published_by="bench")
    tables: dict[str, dict[bytes, Any]] = {name: {} for name in TABLES}
    tables["programs"][b"grand"] = ProgramVersions(versions=(version,))
    parse_rules = partial(programs.from_record, voucher_key=b"k" * 16)
    handler = KeepAccounts(Tables(**tables), codec=codec, parse_rules=parse_rules, prefix="bench", partition_of=lambda key: 0)
    names = {topic.record: topic.name("bench") for topic in topics.INBOUND}
    inputs = []
    for offset, command in enumerate(traffic.commands(SEED, MEMBERS, TRANSACTIONS)):
        key = member_key(command.program_id, command.member_id)
        inputs.append((Input(names[type(command)], 0, offset, 1_790_000_000_000 + offset, key, codec.encode(command), ()), type(command)))
    encode.spent_s = encode.calls = 0
    outbox = Outbox()
    settle, desk.settle = desk.settle, Timed(desk.settle)  # type: ignore[assignment]
    try:
        decode_s = handle_s = 0.0
        for one, record_type in inputs:
            started_s = time.perf_counter()
            one.record = codec.decode(one.value, record_type)
            decoded_s = time.perf_counter()
            handler.handle(one, outbox)  # type: ignore[arg-type]
            handle_s += time.perf_counter() - decoded_s
            decode_s += decoded_s - started_s
        decide: Timed = desk.settle  # type: ignore[assignment]
    finally:
        desk.settle = settle
    rows = list(tables["accounts"].values()) + list(tables["outcomes"].values())
    started_s = time.perf_counter()
    for row in rows:
        codec.encode(row)
    row_us = (time.perf_counter() - started_s) / len(rows) * 1e6
    count = len(inputs)
    assert sum(isinstance(one.record, Enrolment) for one, _ in inputs) == MEMBERS
    micro = {"decode": decode_s, "decide": decide.spent_s, "encode": encode.spent_s, "rest": handle_s - decide.spent_s - encode.spent_s}
    return {
        "commands": count,
        "outputs_per_command": outbox.sent / count,
        **{f"{name}_us": spent_s / count * 1e6 for name, spent_s in micro.items()},
        "row_encode_us": row_us,
    }

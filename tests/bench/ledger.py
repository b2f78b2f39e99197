"""What the real ledger costs for each command, without a broker: decode, decide, encode, and the handler around them. In this process."""

import time
import tomllib
from collections.abc import Callable
from typing import Any

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Enrolment
from schemas.registry import LocalRegistry
from streams import configuration, topics
from streams.agents import keep_accounts
from streams.agents.keep_accounts import KeepAccounts, Tables
from streams.engine import Input
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

    def send(self, *_: Any) -> None:
        self.sent += 1


def cost() -> dict[str, Any]:
    """Microseconds per command of mixed traffic: earns, redemptions, reversals, repetitions, conflicts; members enrolled late among them."""
    codec = Codec(LocalRegistry())
    encode = Timed(codec.encode)
    codec.encode = encode  # type: ignore[method-assign]
    programs = configuration.parse(tomllib.loads(oracle.RULES_TOML), voucher_key=b"k" * 16).programs
    tables: dict[str, dict[bytes, Any]] = {"accounts": {}, "outcomes": {}, "waiting": {}}
    handler = KeepAccounts(Tables(**tables), codec=codec, programs=programs, prefix="bench", partition_of=lambda key: 0)
    names = {topic.record: topic.name("bench") for topic in topics.INBOUND}
    inputs = []
    for offset, command in enumerate(traffic.commands(SEED, MEMBERS, TRANSACTIONS)):
        key = member_key(command.program_id, command.member_id)
        inputs.append((Input(names[type(command)], 0, offset, 1_790_000_000_000 + offset, key, codec.encode(command), ()), type(command)))
    encode.spent_s = encode.calls = 0
    outbox = Outbox()
    settle, keep_accounts.settle = keep_accounts.settle, Timed(keep_accounts.settle)  # type: ignore[attr-defined]
    try:
        decode_s = handle_s = 0.0
        for one, record_type in inputs:
            started_s = time.perf_counter()
            one.record = codec.decode(one.value, record_type)
            decoded_s = time.perf_counter()
            handler.handle(one, outbox)  # type: ignore[arg-type]
            handle_s += time.perf_counter() - decoded_s
            decode_s += decoded_s - started_s
        decide: Timed = keep_accounts.settle  # type: ignore[assignment,attr-defined]
    finally:
        keep_accounts.settle = settle  # type: ignore[attr-defined]
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

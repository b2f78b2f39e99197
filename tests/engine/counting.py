"""A small app on the engine, run as a process of its own: counts the records of each key and emits every count.

`python -m tests.engine.counting BOOTSTRAP PREFIX INSTANCE DATA_DIR [STANDBY_COPIES [FIRST]]`. FIRST: "a" or "b": read it first. A value is JSON {"i": n};
"bug": true makes the handler fail after it wrote; "row_bytes" makes its row so much larger; "scan": [START, LIMIT] puts rows in its output;
"to": PARTITION sends {"i": n} on to that partition, with the partition as its key.
Prints one JSON line when it stops: how many records it handled, and how many changelog rows it read.
"""

import asyncio
import json
import logging
import signal
import sys
import traceback
from typing import Any

from streams.engine import App, EngineConfig, Input, Outgoing, Poison, Unit, metrics

PARTITIONS = 4


class JsonCodec:
    header_bytes = 0

    def encode(self, record: Any) -> bytes:
        return json.dumps(record).encode()

    def decode(self, data: bytes | None, record_type: type) -> Any:
        return json.loads(data or b"")


def topic_names(prefix: str) -> dict[str, str]:
    """Role -> topic."""
    names = {role: f"{prefix}.{role}" for role in ("a", "b", "out", "dead")}
    return names | {"changelog": f"{prefix}.app-counts-changelog"}


def build(bootstrap: str, prefix: str, instance: str, data_dir: str, standby_copies: str = "0", first: str = "") -> tuple[App, list[int]]:
    names = topic_names(prefix)
    handled: list[int] = []

    def dead_letter(poison: Poison) -> Outgoing:
        return Outgoing(names["dead"], poison.input.key, json.dumps({"stage": poison.stage, "reason": poison.reason}).encode())

    config = EngineConfig(
        app_id=f"{prefix}.app",
        client={"bootstrap.servers": bootstrap, "log_level": 3},
        partitions=PARTITIONS,
        data_dir=data_dir,
        instance_id=instance,
        batch_records_max=500,
        session_timeout_s=6,
        standby_copies=int(standby_copies),
    )
    app = App(config, JsonCodec(), dead_letter)
    counts = app.Table("counts", key_type=bytes, value_type=dict, partitions=PARTITIONS)

    def handle(one: Input, unit: Unit) -> None:
        number = counts.get(one.key, {"n": 0})["n"] + 1
        counts[one.key] = {"n": number, "pad": "x" * one.record.get("row_bytes", 0)}
        out = {"i": one.record["i"], "n": number}
        if "scan" in one.record:
            start, limit = one.record["scan"]
            out["rows"] = [(key.decode(), row["n"]) for key, row in counts.scan(start.encode(), None, limit)]
        unit.send(names["out"], one.key, json.dumps(out).encode())
        if "to" in one.record:
            to = one.record["to"]
            unit.send(names["b"], b"%d" % to, json.dumps({"i": one.record["i"]}).encode(), partition=to)
        if one.record.get("bug"):
            raise RuntimeError("the handler fails on this record")
        if one.record.get("delete"):
            del counts[one.key]
        handled.append(one.record["i"])

    @app.agent(app.source({names["a"]: dict, names["b"]: dict}, first=[names[role] for role in first]))
    async def count(units: Any) -> None:
        async for unit in units:
            await unit.process(handle)

    return app, handled


async def main(*arguments: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("listens to signals", flush=True)
    app, handled = build(*arguments)
    await app.start()
    crashed = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait([crashed, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    await app.stop()
    if app.crash_reason is not None:
        traceback.print_exception(app.crash_reason)
        sys.exit(1)
    recovered = metrics.RECOVERED_ROWS.labels("counts")._value.get()
    print(json.dumps({"handled": len(handled), "recovered": int(recovered)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

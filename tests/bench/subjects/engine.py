"""This engine: an app of a table and an agent. Prints a JSON line when its partitions are open, and one when it stops."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from streams.engine import App, EngineConfig, Input, Outgoing, Unit
from tests.bench import work


class Movement:
    """Type of the inputs, for the codec."""


class Balance:
    """Type of the rows."""


class Codec:
    header_bytes = work.HEADER_BYTES

    def encode(self, record: Any) -> bytes:
        return work.encode(work.BALANCE, record)

    def decode(self, data: bytes | None, record_type: type) -> Any:
        return work.decode(work.MOVEMENT if record_type is Movement else work.BALANCE, data or b"")


def build(bootstrap: str, prefix: str, folder: str, instance: str) -> App:
    config = EngineConfig(
        app_id=f"{prefix}.app",
        client={"bootstrap.servers": bootstrap, "log_level": 3},
        partitions=work.PARTITIONS,
        data_dir=folder,
        instance_id=instance,
        session_timeout_s=6,
    )
    app = App(config, Codec(), lambda poison: Outgoing(f"{prefix}.dead", poison.input.key, poison.detail.encode()))
    balances = app.Table("balances", key_type=bytes, value_type=Balance, partitions=work.PARTITIONS)
    out = f"{prefix}.out"

    def handle(one: Input, unit: Unit) -> None:
        key = one.key or b""
        balances[key], changed = work.decide(balances.get(key), one.record)
        unit.send(out, key, work.encode(work.CHANGED, changed))

    @app.agent(app.source({f"{prefix}.in": Movement}))
    async def keep_balances(units: Any) -> None:
        async for unit in units:
            await unit.process(handle)

    return app


async def main(bootstrap: str, prefix: str, folder: str, instance: str = "one") -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    Path(folder).mkdir(parents=True, exist_ok=True)
    app = build(bootstrap, prefix, folder, instance)
    await app.start()
    await app.tables.recovery.completed.wait()
    print(json.dumps({"partitions": len(app.partitions.owned())}), flush=True)
    await stop.wait()
    await app.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))

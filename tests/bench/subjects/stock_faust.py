"""Faust as it is: a table with a changelog, one send for each event."""

import sys
from pathlib import Path
from typing import Any

import faust

from tests.bench import work


def main(bootstrap: str, prefix: str, folder: str, guarantee: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    app = faust.App(
        f"{prefix}.app", broker=f"kafka://{bootstrap}", store="memory://", datadir=folder, topic_partitions=work.PARTITIONS, web_enabled=False,
        topic_disable_leader=True, processing_guarantee=guarantee, value_serializer="raw", table_standby_replicas=0,
    )  # fmt: skip
    source = app.topic(f"{prefix}.in", key_type=bytes, value_type=bytes)
    out = app.topic(f"{prefix}.out", key_type=bytes, value_type=bytes)
    balances = app.Table("balances", key_type=bytes, value_type=bytes, partitions=work.PARTITIONS)

    @app.agent(source)
    async def keep_balances(stream: Any) -> None:
        async for key, value in stream.items():
            row = balances.get(key)
            after, changed = work.decide(work.decode(work.BALANCE, row) if row else None, work.decode(work.MOVEMENT, value))
            balances[key] = work.encode(work.BALANCE, after)
            await out.send(key=key, value=work.encode(work.CHANGED, changed))

    sys.argv = ["faust", "worker", "--loglevel=error", "--without-web"]
    app.main()


if __name__ == "__main__":
    main(*sys.argv[1:5])

"""Quix Streams: a stateful function over a topic. Runs in an environment of its own: Quix caps confluent-kafka."""

import sys
from typing import Any

from quixstreams import Application

from tests.bench import work


def main(bootstrap: str, prefix: str, folder: str, guarantee: str, commit_interval_s: str) -> None:
    app = Application(
        broker_address=bootstrap, consumer_group=f"{prefix}.app", processing_guarantee=guarantee, auto_offset_reset="earliest",  # type: ignore[arg-type]
        state_dir=folder, loglevel="ERROR", commit_interval=float(commit_interval_s),
    )  # fmt: skip
    source = app.topic(f"{prefix}.in", key_deserializer="bytes", value_deserializer="bytes")
    out = app.topic(f"{prefix}.out", key_serializer="bytes", value_serializer="bytes")

    def keep_balance(value: bytes, state: Any) -> bytes:
        row = state.get_bytes("balance")
        after, changed = work.decide(work.decode(work.BALANCE, row) if row else None, work.decode(work.MOVEMENT, value))
        state.set_bytes("balance", work.encode(work.BALANCE, after))
        return work.encode(work.CHANGED, changed)

    app.dataframe(source).apply(keep_balance, stateful=True).to_topic(out)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:6])

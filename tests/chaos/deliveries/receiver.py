"""All destinations of the storm in one process: each answers by the script of its events, verifies every signature and writes down every request.

It outlives the storm: what it wrote down is what is recounted. A line of its log is `Seen`, its fields separated by tabs.
"""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

import click
import orjson

from streams import signatures
from tests.bench.delivery_receiver import Reply, Request, serve
from tests.chaos.deliveries import plan
from tests.chaos.deliveries.verify import Seen
from tests.sinks.examples import SECRET

DOWN = Reply(503)
NOT_GENUINE = Reply(401)


class Destinations:
    """Decides for all of them."""

    def __init__(self, seed: int, log: IO[str]) -> None:
        self._seed = seed
        self._log = log
        self._key = signatures.decode_secret(SECRET)
        self._attempts: Counter[tuple[str, str, int]] = Counter()
        self._accepted: set[tuple[str, str, int]] = set()
        self._requests = 0
        self._down: frozenset[str] = frozenset()
        """Destinations that answer 503 to everything."""
        self._blocks_hot = False

    def __call__(self, request: Request) -> Reply:
        if request.path == "/control":
            return self._control(request)
        self._requests += 1
        destination, headers = request.path.rpartition("/")[2], request.headers
        problem = ""
        try:
            signatures.verify(self._key, headers, request.body, now_s=time.time())
        except signatures.SignatureError as error:
            problem = error.reason
        data = orjson.loads(request.body)["data"]
        member, sequence = str(data["member_id"]), int(data["sequence"])
        reply = NOT_GENUINE if problem else self._reply(destination, member, sequence)
        if reply.accepts:
            self._accepted.add((destination, member, sequence))
        seen = Seen(destination, member, sequence, headers.get("webhook-id", ""), request.at_ns, reply.accepts, headers.get("loyalty-replay", ""), problem)
        self._log.write(seen.line())
        return reply

    def _reply(self, destination: str, member: str, sequence: int) -> Reply:
        if destination in self._down or (self._blocks_hot and member == plan.HOT and destination == plan.HOT_AT):
            return DOWN
        replies = plan.script(self._seed, destination, member, sequence)
        event = (destination, member, sequence)
        number = self._attempts[event]
        self._attempts[event] += 1
        return replies[min(number, len(replies) - 1)]

    def _control(self, request: Request) -> Reply:
        wanted: dict[str, Any] = json.loads(request.body or b"{}")
        self._down = frozenset(wanted.get("down", self._down))
        self._blocks_hot = wanted.get("blocks_hot", self._blocks_hot)
        self._log.flush()
        answer = {"accepted": len(self._accepted), "requests": self._requests, "now_ns": time.monotonic_ns()}
        return Reply(body=json.dumps(answer).encode())


@click.command()
@click.option("--port", required=True, type=int)
@click.option("--log", "log_file", required=True, type=click.Path(path_type=Path))
@click.option("--seed", required=True, type=int)
def main(port: int, log_file: Path, seed: int) -> None:
    """Receive until killed."""
    with log_file.open("a", buffering=1 << 16) as log:
        asyncio.run(serve(Destinations(seed, log), port))


if __name__ == "__main__":
    main()

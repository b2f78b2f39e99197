"""HR by signed webhooks, as the conformance suite sees it."""

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from streams import signatures
from streams.connectors.contract import Source
from tests.connectors.conformance.inbound import ACTIVE, SUSPENDED, Inbound, System, Understood, people


class Sender:
    """A system that says each change once, or twice when it does not trust the answer."""

    def __init__(self, source: Source, url: str) -> None:
        self._source, self._url = source, url
        self.people: dict[str, dict[str, Any]] = {}
        self._version = 0

    async def say(self, kind: str, employee_id: str, times: int, **data: Any) -> None:
        self._version += 1
        body = json.dumps({"type": f"worker.{kind}", "data": {"employee_id": employee_id, "version": self._version} | data}).encode()
        async with aiohttp.ClientSession() as session:
            for _ in range(times):
                _, headers = proof(self._source, body, f"msg-{self._version}")
                async with session.post(self._url, data=body, headers=headers) as response:
                    assert response.status == 202, await response.text()


def proof(source: Source, body: bytes, delivery_id: str = "msg-fuzzed") -> tuple[str, Mapping[str, str]]:
    return "", signatures.headers(signatures.decode_secret(source.options["secret"]), delivery_id, int(time.time()), body)


async def happen(system: System, step: int, chance: random.Random) -> None:
    people, times = system.fake.people, chance.choice((1, 1, 2))
    people[f"C-{step}"] = {"enrolled": True, "given_name": "Ada"}
    await system.fake.say("hired", f"C-{step}", times, attributes={})
    await system.fake.say("updated", f"C-{step}", times, attributes={"given_name": "Ada"})
    if step % 3 == 2:
        people[f"C-{step - 1}"]["status"] = SUSPENDED
        await system.fake.say("deactivated", f"C-{step - 1}", times)
    if step == 6:
        people["C-1"]["status"] = ACTIVE
        await system.fake.say("reactivated", "C-1", times)


def expected(system: System) -> Understood:
    found: Understood = system.fake.people
    return found


INBOUND = Inbound(
    kind="hr", make=Sender, happen=happen, expected=expected, understood=people, proof=proof,
    samples=[path.read_bytes() for path in sorted((Path(__file__).parent / "payloads").glob("*.json"))],
)  # fmt: skip

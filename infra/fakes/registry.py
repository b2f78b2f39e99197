"""THE MAP of fake systems: kind -> its server, its port, and what is in it at the start. `loyalty up --with-fakes` starts them all.

connectors.example.toml says how they are reached: `{{mews.base_url}}` there is that attribute of the running fake, a secret as well as an address.
"""

import asyncio
import importlib
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from streams.errors import ConfigurationError

T = TypeVar("T")

EXAMPLE_FILE = Path(__file__).parent.parent / "connectors.example.toml"
MARK = re.compile(r"\{\{([a-z]+)\.([a-z_.]+)\}\}")
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fake:
    path: str
    """module:class"""
    port: int
    seed: Callable[[Any], Awaitable[None]]
    """Fills it with a few people or stays, so that there is something to see."""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def make(self, *, free_port: bool) -> Any:
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)(port=0 if free_port else self.port, **self.arguments)


async def _seed_stays(fake: Any) -> None:
    fake.add_reservation("R-1001", member_id="M-1001")


async def _seed_mews(fake: Any) -> None:
    fake.add_reservation(member_id="M-1001")


async def _seed_people(fake: Any) -> None:
    for employee_id in ("21001", "21002"):
        fake.hire(employee_id)


async def _seed_successfactors(fake: Any) -> None:
    """With a key for the assertions of the client, too: the fake checks that they are signed by it."""
    fake.make_client_key()
    await _seed_people(fake)


async def _seed_contacts(fake: Any) -> None:
    await fake.create(FirstName="Ada", LastName="Example", Loyalty_Id__c="M-1001", Email="ada@example.com")


async def _seed_phone(fake: Any) -> None:
    fake.add_phone()


FAKES: Mapping[str, Fake] = {
    "apaleo": Fake(path="infra.fakes.apaleo:ApaleoFake", port=9311, seed=_seed_stays),
    "cloudbeds": Fake(path="infra.fakes.cloudbeds:CloudbedsFake", port=9312, seed=_seed_stays),
    "darwinbox": Fake(path="infra.fakes.darwinbox:DarwinboxFake", port=9313, seed=_seed_people),
    "fcm": Fake(path="infra.fakes.fcm:FcmFake", port=9314, seed=_seed_phone),
    "mews": Fake(path="infra.fakes.mews:MewsFake", port=9315, seed=_seed_mews),
    "ohip": Fake(path="infra.fakes.ohip:OhipFake", port=9316, seed=_seed_stays),
    "salesforce": Fake(path="infra.fakes.salesforce:SalesforceFake", port=9317, seed=_seed_contacts),
    "successfactors": Fake(path="infra.fakes.successfactors:SuccessFactorsFake", port=9318, seed=_seed_successfactors),
    "workday": Fake(path="infra.fakes.workday:WorkdayFake", port=9319, seed=_seed_people),
}


class Fakes:
    """All of them, in a thread of their own. `running` has them by kind."""

    def __init__(self, *, free_ports: bool = False) -> None:
        self._free_ports = free_ports
        self.running: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakes", daemon=True)

    def start(self) -> None:
        """Return when all of them serve. Raises ConfigurationError for a port in use."""
        self._thread.start()
        for kind, fake in FAKES.items():
            try:
                self.running[kind] = self.run(self._start_one(fake))
            except OSError as error:
                raise ConfigurationError(f"The fake of {kind} cannot listen on port {fake.port}: {error}.") from error

    async def _start_one(self, fake: Fake) -> Any:
        made = fake.make(free_port=self._free_ports)
        await made.start()
        await fake.seed(made)
        return made

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the thread of the fakes."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)

    def render(self, text: str) -> str:
        return rendered(text, self.running)

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        for fake in self.running.values():
            self.run(fake.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def rendered(text: str, running: Mapping[str, Any]) -> str:
    """A template with what the running fakes say in place of each {{kind.attribute}}."""

    def value(mark: re.Match[str]) -> str:
        found = running[mark[1]]
        for name in mark[2].split("."):
            found = found[name] if isinstance(found, Mapping) else getattr(found, name)
        return str(found)

    return MARK.sub(value, text)

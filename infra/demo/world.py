"""The stage: the embedded stack in a home of its own, the systems around it, and the second opinion on what every account must be."""

import asyncio
import fcntl
import os
import re
import shutil
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from infra.demo.book import Book
from infra.demo.checks import Series
from infra.demo.connections import PROGRAMS, ConnectedSystems
from infra.demo.inbox import Arrival, Inbox
from infra.demo.systems import Analyst, Api, HotelDesk, HrSystem, Sent, Upstream, open_session
from infra.fakes.apaleo import ApaleoFake
from infra.processes import end_leftovers
from infra.stack import CONFIGURATION_FILE, EXAMPLE_FILE, LOCK_FILE, HomeInUse, Stack
from infra.up import PARTITIONS
from streams import configuration
from streams.errors import ConfigurationError

T = TypeVar("T")

# Restarted under its old name, a worker has its partitions back at once; without one the group waits until the old worker's session ends.
ENVIRONMENT = {"LOYALTY_WORKER_INSTANCE_ID": "worker-of-the-demo"}


SPRING_OFFER = "spring-bonus"
SPRING_BUDGET = 1000  # Enough for one guest, of whom each may have 600: whoever comes second learns that it is spent.
SPRING_DAYS = 30  # Before today and after it.


def in_season(text: str, now: datetime) -> str:
    """The example configuration, with spring come and a small budget: the file's own offer is months away, and good for thousands of guests."""
    changes = {
        "starts_at": (now - timedelta(days=SPRING_DAYS)).isoformat(),
        "ends_at": (now + timedelta(days=SPRING_DAYS)).isoformat(),
        "budget_points": str(SPRING_BUDGET),
    }
    head, mark, rest = text.partition(f".offers.{SPRING_OFFER}]\n")
    offer, end, tail = rest.partition("\n[")
    for name, value in changes.items():
        offer, found = re.subn(rf"^{name} = \S+", f"{name} = {value}", offer, flags=re.MULTILINE)
        if not found:
            raise ConfigurationError(f"The example configuration has no offer {SPRING_OFFER} with {name}.")
    return f"{head}{mark}{offer}{end}{tail}"


class World:
    """What the steps work with."""

    def __init__(self, stack: Stack) -> None:
        text = in_season(configuration.render_example(EXAMPLE_FILE.read_text()), datetime.now(UTC).replace(microsecond=0))
        text += PROGRAMS
        document = tomllib.loads(text)
        self.stack = stack
        self._text = text
        self._document = document
        self.rules: dict[str, Any] = document["programs"]
        self.book = Book(self.rules)
        self.sent = Sent()
        self.app = Inbox("mobile app", document["destinations"]["mobile-app"]["secret"])
        self.crm = Inbox("CRM", document["destinations"]["crm"]["secret"])
        pms = document["sources"]["apaleo"]
        self.desk = HotelDesk(ApaleoFake(client_id=pms["client_id"], client_secret=pms["client_secret"]), self.sent)
        self.systems = ConnectedSystems()
        self.series: list[Series] = []
        self.singles: list[str] = []
        """Commands that came alone, one after the other: their latencies are told together."""
        self.lapses_s: list[float] = []
        """Of what ended by itself: how long after its time the app was told."""
        # Once the stack runs:
        self.upstream: Upstream
        self.api: Api
        self.hr: HrSystem
        self.analyst: Analyst

        self._running = AsyncExitStack()
        """The stack and what is connected to it."""

    @property
    def inboxes(self) -> tuple[Inbox, Inbox]:
        return self.app, self.crm

    async def start(self) -> None:
        """Start the stack, and connect the systems around it. Raises what Stack.start does."""
        self._running.push_async_callback(in_thread, self.stack.stop)
        await in_thread(self.stack.start)
        await self._connect_systems(self._running)

    async def stop(self) -> None:
        """Stop what `start` has started. Nothing happens when nothing runs."""
        await self._running.aclose()

    async def start_systems(self, cleanup: AsyncExitStack) -> None:
        """Start the receivers, the PMS and the connected systems on free ports, and write the configuration file that names them."""
        pms = self.desk.pms
        for one in (self.app.receiver, self.crm.receiver, pms, *self.systems.servers):
            await one.start()
            cleanup.push_async_callback(one.stop)
        destinations, source = self._document["destinations"], self._document["sources"]["apaleo"]
        addresses = {
            source["identity_url"]: pms.identity_url,  # Before the other one, which it starts with.
            source["base_url"]: pms.base_url,
            destinations["mobile-app"]["url"]: self.app.receiver.url,
            destinations["crm"]["url"]: self.crm.receiver.url,
        }
        text = self._text
        for example, real in addresses.items():
            text = text.replace(f'"{example}"', f'"{real}"')
        text += self.systems.configuration()
        with os.fdopen(os.open(self.stack.home / CONFIGURATION_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    async def _connect_systems(self, cleanup: AsyncExitStack) -> None:
        """Tell the systems around the pipeline where it is. Needs the stack to run."""
        session = await cleanup.enter_async_context(open_session())
        settings, ingress = self.stack.settings, self.stack.service("ingress").url
        self.upstream = Upstream(settings, self.sent)
        cleanup.callback(self.upstream.close)
        await self.upstream.connect()
        self.api = Api(session, ingress, self._document["tokens"]["explorer"]["token"], self.sent, lambda member: self.book.pages[member].events)
        self.hr = HrSystem(session, ingress, self._document["sources"]["hr"]["secret"], self.sent)
        self.analyst = Analyst(session, settings)
        self._session = session
        secret = self._document["sources"]["apaleo"]["secret"]
        await self.desk.pms.subscribe(f"{ingress.replace('://', f'://pms:{secret}@')}/v1/webhooks/apaleo")

    async def gauge(self, service: str, name: str, destination: str) -> float:
        """A number that the pipeline shows of itself on /metrics; 0 if it does not show it yet."""
        async with self._session.get(f"{self.stack.service(service).url}/metrics") as response:
            text = await response.text()
        found = re.search(rf'^{name}{{destination="{destination}"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def latency_s(self, arrival: Arrival) -> float:
        """From the sender's call to the arrival."""
        return arrival.at_s - self.sent.at_s[arrival.command_id]

    def note_latencies(self, situation: str, arrivals: list[Arrival]) -> Series:
        """Keep the latencies of a situation for the end."""
        series = Series(situation=situation, seconds=tuple(map(self.latency_s, arrivals)))
        self.series.append(series)
        return series


@asynccontextmanager
async def open_world(stack: Stack) -> AsyncIterator[World]:
    """Everything that is started within ends with the block: first the pipeline, then the systems that it talks to."""
    world = World(stack)
    async with AsyncExitStack() as cleanup:
        await world.start_systems(cleanup)
        cleanup.push_async_callback(world.stop)
        yield world


def make_stack(home: Path, **options: Any) -> Stack:
    """A stack in `home`, which is emptied. Raises HomeInUse, and ConfigurationError for a folder with other things in it."""
    _clear(home)
    home.mkdir(mode=0o700, parents=True)
    (home / LOCK_FILE).touch()  # By it the next demo knows that it may empty the folder.
    return Stack(home, partitions=PARTITIONS, free_ports=True, environment=ENVIRONMENT, **options)


def _clear(home: Path) -> None:
    if not home.exists():
        return
    if not (home / LOCK_FILE).exists() and any(home.iterdir()):
        raise ConfigurationError(f"{home} holds other things than an earlier demo: choose another folder with --home.")
    with (home / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HomeInUse(f"A stack runs in {home}. Stop that one first, or choose another folder with --home.") from None
        end_leftovers(home / "run")
        shutil.rmtree(home)


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread. A cancellation waits for its end: a stack must not be stopped while it starts."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        running.exception()  # Looked at, so that nobody complains that it was not.
        raise

"""What every connector that writes must keep, against its own fake over real HTTP, with a real broker, while much goes wrong.

A connector joins by `OUTBOUND` in tests/connectors/<kind>/conformance.py. Its settings are those of infra/connectors.example.toml.
"""

import importlib
import pkgutil
import tomllib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tests.connectors
from infra.fakes.registry import EXAMPLE_FILE, FAKES, rendered
from schemas.records import Account, MemberStatus
from streams import configuration
from streams.connectors.contract import Target
from streams.connectors.registry import CONNECTORS

MODULE = "conformance"
POINTS_PER_SEQUENCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """How the suite sees one system. `fake` is the running one of infra/fakes/registry.py."""

    kind: str
    program_id: str
    add: Callable[[Any, str], Mapping[str, str] | Awaitable[Mapping[str, str]]]
    """Make a member known to the system; the external ids that the member has here for it, or an awaitable of them."""
    values: Callable[[Any, str], Sequence[int]]
    """All that the member's field was, in order: the sequence, or points that rise with it."""
    strangers: Callable[[Any, Collection[str]], Collection[str]] = lambda fake, members: ()
    """What was made for others than these members."""
    attributes: Callable[[Any, str], Mapping[str, str]] = lambda fake, member: {}
    """Of the member's profile here, as the connector needs them."""
    refuse: Callable[[Any, str], None] | None = None
    """The member's next record is refused alone; others of its call are not."""
    per_sequence: int = POINTS_PER_SEQUENCE
    """What the values rise by with each event: points, or 1 for a sequence."""
    options: Mapping[str, Any] = field(default_factory=dict)


def hired(fake: Any, member_id: str) -> Mapping[str, str]:
    """Members of HR systems, which know them by their own numbers."""
    fake.hire(member_id)
    return {}


def adapters() -> dict[str, Outbound]:
    """By kind, of all packages of tests that have one."""
    found = {}
    for module in pkgutil.iter_modules(tests.connectors.__path__):
        if module.ispkg:
            try:
                adapter = importlib.import_module(f"tests.connectors.{module.name}.{MODULE}")
            except ModuleNotFoundError as error:
                if error.name != f"tests.connectors.{module.name}.{MODULE}":
                    raise
                continue
            if hasattr(adapter, "OUTBOUND"):
                found[adapter.OUTBOUND.kind] = adapter.OUTBOUND
    return found


class System:
    """One fake, running in the test's own loop, with the target that reaches it."""

    def __init__(self, adapter: Outbound) -> None:
        self.adapter = adapter
        self.fake: Any = FAKES[adapter.kind].make(free_port=True)
        self.members: dict[str, Mapping[str, str]] = {}

    async def start(self) -> None:
        await self.fake.start()
        await FAKES[self.adapter.kind].seed(self.fake)

    async def add(self, member_id: str) -> None:
        added = self.adapter.add(self.fake, member_id)
        self.members[member_id] = await added if isinstance(added, Awaitable) else added

    def sequences(self, member_id: str) -> list[int]:
        """All that the member's field was, in order, as sequences."""
        return [value // self.adapter.per_sequence for value in self.adapter.values(self.fake, member_id)]

    def target(self) -> Target:
        """As the example configures it, but that nothing waits long."""
        document = tomllib.loads(EXAMPLE_FILE.read_text())
        running = {self.adapter.kind: self.fake}
        wanted = {
            name: {key: rendered(value, running) if isinstance(value, str) else value for key, value in table.items()}
            for name, table in document["destinations"].items() if table.get("kind") == self.adapter.kind
        }  # fmt: skip
        assert wanted, f"infra/connectors.example.toml has no destination of kind {self.adapter.kind}"
        target = next(iter(configuration.parse({"programs": document["programs"], "destinations": wanted}).targets.values()))
        return replace(target, options={**target.options, "timeout_s": 2.0, **self.adapter.options})

    def secrets(self, target: Target) -> list[str]:
        """What must not be told: secrets of the settings, and all tokens so far."""
        given = [str(target.options[option.name]) for option in CONNECTORS[self.adapter.kind].target_options if option.is_secret]
        lines = [line for secret in given for line in secret.splitlines() if len(line) > 6 and "-----" not in line]
        return [*lines, *self.fake.tokens]


class Owners:
    """Says what the workers would say of the members' accounts."""

    def __init__(self, system: System) -> None:
        self._system = system

    async def from_owner(self, program_id: str, member_id: str) -> Account | None:
        attributes = self._system.adapter.attributes(self._system.fake, member_id)
        return Account(
            program_id=program_id, member_id=member_id, status=MemberStatus.ACTIVE, tier="MEMBER", enrolled_at_ms=0, attributes=attributes,
            external_ids=self._system.members.get(member_id, {}),
        )  # fmt: skip


KINDS = sorted(kind for kind in FAKES if CONNECTORS[kind].write is not None)
"""All that write, with an adapter or without."""

"""The Faust app, wired to the engine: `App.source` gives an agent its units, `App.Table` its tables."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
from aiokafka.partitioner import murmur2

from streams.engine.consumer import Transport, UnitSchema
from streams.engine.ownership import Partitions
from streams.engine.records import Codec, Outgoing, Poison
from streams.engine.recovery import TableManager
from streams.engine.table import Table
from streams.engine.unit import NO_UNIT, Unit

# Faust's App logs its own steps under the name of its subclass's module; ours are logged where they happen.
logging.getLogger(__name__).setLevel(logging.WARNING)

# Units waiting between the fetch and the agent. Two keep it busy; more would only hold memory.
UNITS_BUFFERED_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine needs to know. Times in the unit their name ends with."""

    app_id: str
    """Consumer group, and first part of the transactional ids and the changelogs' names."""
    client: Mapping[str, Any] = field(repr=False)
    """librdkafka configuration common to all clients: addresses and security."""
    partitions: int
    data_dir: str
    """Folder of local state; each process has its own in it. May be lost: the changelogs hold all."""
    credentials: Any = None
    """Faust's broker credentials, for the consumer; None: plain text."""
    instance_id: str | None = None
    """Name of this worker that outlives it: restarted under the same name, it has its partitions back without a session time-out."""
    batch_records_max: int = 1_000
    session_timeout_s: float = 10
    transaction_timeout_s: float = 15
    record_bytes_max: int = 900_000
    """Largest row or record that a handler may write; below every topic's max.message.bytes (1,048,588 by default)."""
    state_memory_mib: int = 64
    """Block cache and write buffers of all partitions' states together."""
    standby_copies: int = 0
    """On how many other workers each partition's state is kept up to date, for a take-over that reads little. Each costs the disk of a
    state, and reading every changelog once more."""
    deletions_kept_s: float = 24 * 3600
    """How long the changelogs keep tombstones (delete.retention.ms): an older local state is not trusted."""
    compacted: Collection[str] = ()
    """Topics that the app writes and that are compacted as the changelogs are: once a day the owner of a partition lets their segments end."""
    forget: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Table -> whether what a row held before this value must be gone from the local disks, too; the value is None for a row that is deleted.
    Asked for every row that is written, so it must be quick."""
    fenced_wait_s: float = 6
    """How long a fenced worker waits for the group's word before it opens a partition again: two heartbeats at least."""


class App(faust.App):  # type: ignore[misc]
    """A Faust app whose agents get Units. See Unit for what an agent may rely on."""

    mundane_level = "debug"

    def __init__(self, config: EngineConfig, codec: Codec, on_poison: Callable[[Poison], Outgoing]) -> None:
        """`on_poison` turns a record that cannot be processed into the dead letter that takes its place in the transaction."""
        self.config = config
        self.codec = codec
        self.on_poison = on_poison
        self.source_types: dict[str, type] = {}
        self.sources_first: set[str] = set()
        self.sources_bulk: set[str] = set()
        self._handling = threading.local()
        self.partitions = Partitions(self)
        servers = [f"kafka://{server}" for server in str(config.client["bootstrap.servers"]).split(",")]
        super().__init__(
            config.app_id,
            broker=servers,
            broker_credentials=config.credentials,
            store="memory://",
            datadir=config.data_dir,
            topic_partitions=config.partitions,
            topic_allow_declare=False,
            topic_disable_leader=True,
            table_standby_replicas=config.standby_copies,
            web_enabled=False,
            stream_wait_empty=False,
            stream_buffer_maxsize=UNITS_BUFFERED_MAX,
            # The engine says where to read. Resetting by itself, the consumer would skip records that expired unread, without a word.
            consumer_auto_offset_reset="none",
            consumer_group_instance_id=config.instance_id,
            broker_session_timeout=config.session_timeout_s,
            broker_heartbeat_interval=min(3.0, config.session_timeout_s / 3),
            broker_request_timeout=max(30.0, config.session_timeout_s + 5),
            Table=Table,
            TableManager=TableManager,
        )
        self.on_partitions_revoked.connect(self._settle)

    def source(self, types: Mapping[str, type], first: Collection[str] = (), bulk: Collection[str] = ()) -> Any:
        """The channel for `@app.agent`: units with records of all these topics, given with the type of their records.

        The topics must have the same number of partitions: one unit holds what all of them have for one partition.

        Those named in `first` are read up to the end that they have when the reading of a partition starts, before any record of the others;
        after that, all are merged by the broker's time. Those named in `bulk` may hold very much at once: each unit has some of their records
        only, and what comes in the other topics goes before the rest, whatever its time. Raises ValueError for a name that is not among the
        topics, or is in both.
        """
        if unknown := set(first) - types.keys():
            raise ValueError(f"to be read first, but not among the topics: {sorted(unknown)}")
        if unknown := set(bulk) - (types.keys() - set(first)):
            raise ValueError(f"to be read as bulk, but not among the topics, or to be read first: {sorted(unknown)}")
        self.sources_first.update(first)
        self.sources_bulk.update(bulk)
        self.source_types.update(types)
        return self.topic(*types, schema=UnitSchema(key_type=bytes, value_type=Unit))

    def partition_of(self, key: bytes) -> int:
        """Partition of a key, by Kafka's default (murmur2) partitioner."""
        return int((murmur2(key) & 0x7FFFFFFF) % self.config.partitions)

    @property
    def unit(self) -> Any:
        """The unit that this thread is handling; one that refuses everything outside a handler."""
        return getattr(self._handling, "unit", NO_UNIT)

    @unit.setter
    def unit(self, unit: Any) -> None:
        self._handling.unit = unit

    def _create_directories(self) -> None:
        Path(self.config.data_dir).mkdir(parents=True, exist_ok=True)  # Faust makes the last folder of the path only.
        super()._create_directories()

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    async def _settle(self, *_: Any, **__: Any) -> None:
        await self.partitions.settle()

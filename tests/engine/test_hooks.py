"""The private hooks of Faust and aiokafka that the engine stands on. When a new version changes one, this fails, not a ledger."""

import inspect
from importlib.metadata import version

import pytest
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from faust.app.base import App
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.assignor.partition_assignor import PartitionAssignor
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, ConsumerThread, Fetcher
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types.tuples import ConsumerMessage

PINNED = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}


@pytest.mark.parametrize("package", PINNED)
def test_versions_are_the_ones_the_engine_was_written_against(package: str) -> None:
    assert version(package) == PINNED[package]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (Consumer, "_drain_messages", ["self", "fetcher"]),
        (Consumer, "perform_seek", ["self"]),
        (Consumer, "ack", ["self", "message"]),
        (Consumer, "verify_event_path", ["self", "now", "tp"]),
        (ConsumerThread, "call_thread", ["self", "fun", "args", "kwargs"]),
        (ConsumerThread, "on_partitions_assigned", ["self", "assigned", "generation_id"]),
        (AIOKafkaConsumerThread, "_ensure_consumer", ["self"]),
        (TableManager, "_update_channels", ["self"]),
        (TableManager, "on_rebalance", ["self", "assigned", "revoked", "newly_assigned", "generation_id"]),
        (Recovery, "_resume_streams", ["self", "generation_id"]),
        (PartitionAssignor, "assigned_standbys", ["self"]),
        (App, "_new_transport", ["self"]),
        (App, "_create_directories", ["self"]),
        (App, "_on_partitions_revoked", ["self", "revoked"]),
        (App, "_on_partitions_assigned", ["self", "assigned", "generation_id"]),
    ],
)
def test_methods_keep_their_parameters(owner: type, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_a_message_takes_the_unit_and_its_place() -> None:
    assert {"value", "tp", "generation_id"} <= inspect.signature(ConsumerMessage).parameters.keys()


def test_the_assignor_tells_which_partitions_to_copy() -> None:
    assert "self._assignment.standbys" in inspect.getsource(PartitionAssignor.assigned_standbys)


def test_faust_still_drains_through_the_method_we_replace() -> None:
    assert "consumer._drain_messages(self)" in inspect.getsource(Fetcher)


def test_faust_awaits_its_revocation_signal_before_the_group_goes_on() -> None:
    assert "self.on_partitions_revoked.send" in inspect.getsource(App._on_partitions_revoked)


def test_aiokafka_does_not_fetch_what_is_paused() -> None:
    source = inspect.getsource(aiokafka_fetcher.Fetcher._get_actions_per_node)
    assert source.index("elif tp_state.paused:") < source.index("fetchable[node_id].append")


def test_aiokafka_leaves_the_group_by_the_idle_time_that_a_fetch_context_resets() -> None:
    assert "self._subscription.fetcher_idle_time" in inspect.getsource(GroupCoordinator._heartbeat_routine)
    assert "self._last_fetch_ended" in inspect.getsource(SubscriptionState.fetch_context)


def test_faust_gives_a_partition_to_a_worker_that_has_a_copy() -> None:
    workers = {"dies": CopartitionedAssignment(topics={"t"}), "lives": CopartitionedAssignment(topics={"t"})}
    workers = dict(CopartitionedAssignor({"t"}, workers, num_partitions=8, replicas=1).get_assignment())
    assert workers["lives"].standbys == workers["dies"].actives
    del workers["dies"]
    workers["new"] = CopartitionedAssignment(topics={"t"})
    # Room for all on both: turn by turn, each would get some.
    after = CopartitionedAssignor({"t"}, workers, num_partitions=8, replicas=1, capacity=8).get_assignment()
    assert (len(after["lives"].actives), len(after["new"].actives)) == (8, 0)

"""The broker: records outlive restarts, kills and changes of port."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from infra import ports
from infra.kafka_server import KafkaServer
from infra.processes import StartError
from infra.service import State

TOPIC = "kept"
TIMEOUT_S = 30


@pytest.fixture
def server(tmp_path: Path, kafka_jars: list[Path]) -> Iterator[KafkaServer]:
    made = KafkaServer(tmp_path)
    yield made
    made.stop()


def create(server: KafkaServer, topic: str) -> None:
    client = AdminClient({"bootstrap.servers": server.bootstrap_servers})
    client.create_topics([NewTopic(topic, 1)])[topic].result(TIMEOUT_S)


def produce(server: KafkaServer, values: list[str], topic: str = TOPIC) -> None:
    """Returns when the broker has acknowledged all."""
    failed: list[object] = []
    producer = Producer({"bootstrap.servers": server.bootstrap_servers, "acks": "all", "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value.encode(), on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(TIMEOUT_S) == 0
    assert failed == []


def consume(server: KafkaServer, count: int) -> list[str]:
    consumer = Consumer({"bootstrap.servers": server.bootstrap_servers, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    try:
        return [message.value().decode() for message in consumer.consume(count, TIMEOUT_S)]
    finally:
        consumer.close()


def test_records_outlive_kill_restart_and_a_changed_port(server: KafkaServer, tmp_path: Path) -> None:
    server.start()
    assert server.state is State.READY
    address = server.bootstrap_servers
    create(server, TOPIC)
    produce(server, ["one"])

    server.kill()
    assert server.state is State.DIED
    assert server.exit_text == "killed by SIGKILL"
    server.start()
    assert server.bootstrap_servers == address
    produce(server, ["two"])
    assert server.stop()
    assert server.state is State.STOPPED
    assert not ports.accepts(server.port)

    # Another process of ours, some days later: the port is somebody else's now.
    later = KafkaServer(tmp_path, port=server.port)
    with ports_in_use(server.port):
        later.start()
    try:
        assert later.port != server.port
        assert later.note == f"port {server.port} is in use"
        assert consume(later, 2) == ["one", "two"]
        brokers = AdminClient({"bootstrap.servers": later.bootstrap_servers}).list_topics(timeout=TIMEOUT_S).brokers
        assert [broker.port for broker in brokers.values()] == [later.port]
    finally:
        later.stop()


class ports_in_use:
    """Somebody else listens."""

    def __init__(self, port: int) -> None:
        import socket

        self._socket = socket.create_server(("127.0.0.1", port))

    def __enter__(self) -> None:
        """The socket listens already."""

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_the_broker_is_set_up_for_one_node(kafka: KafkaServer) -> None:
    client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    found = client.describe_configs([resource])[resource].result(TIMEOUT_S)
    wanted = {
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "log.message.timestamp.type": "CreateTime",
    }
    assert {name: found[name].value for name in wanted} == wanted
    assert found["listeners"].value.count("127.0.0.1") == 2, "loopback only"


def test_a_misspelt_topic_is_not_created(kafka: KafkaServer) -> None:
    client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    error = client.list_topics("misspelt", timeout=TIMEOUT_S).topics["misspelt"].error
    assert error is not None and error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert "misspelt" not in client.list_topics(timeout=TIMEOUT_S).topics


def test_what_the_broker_says_is_in_the_log(kafka: KafkaServer) -> None:
    text = kafka.log_file.read_text()
    assert "Kafka Server started" in text
    assert "SLF4J" not in text and "WARNING: " not in text
    assert text.count("\n") < 100_000  # Every module of tests before this one has made topics of its own: some lines each.


def test_a_broker_that_cannot_start_says_why(server: KafkaServer) -> None:
    (server.folder / "data").mkdir(parents=True)
    (server.folder / "data/meta.properties").write_text("version=1\nnode.id=77\ncluster.id=x\n")
    with pytest.raises(StartError, match="kafka ended while starting") as error:
        server.start()
    assert "node" in str(error.value)
    assert server.pid is None

"""Settings -> configured Kafka clients; creates the topics of the map and checks those that exist.

Every producer and consumer of the project outside the engine is built here, so security and the partitioner cannot differ.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ClusterMetadata, ConfigEntry, ConfigResource, ConfigSource, NewTopic, OffsetSpec

from streams import topics
from streams.errors import ConfigurationError, ContractError, UnavailableError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

Place = tuple[str, int]
"""Topic and partition."""

ADMIN_TIMEOUT_S = 30
ASK_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0  # Of one record that is written, or of what a group has committed.
BROKER_WAIT_FIRST_S, BROKER_WAIT_MAX_S = 0.2, 5.0
COORDINATOR_MOVES = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
SET_ON_THE_TOPIC = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
# librdkafka's default partitioner is not Java's: with it, a Java producer and ours would put one member into two partitions.
PARTITIONER = "murmur2_random"


def client_config(settings: Settings) -> dict[str, Any]:
    """librdkafka configuration common to all clients: addresses and security."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        "log_level": 2,  # Librdkafka reports every attempt to reconnect otherwise; ours are logged where they matter.
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username
        config["sasl.password"] = settings.kafka_sasl_password
    for key, value in (
        ("ssl.ca.location", settings.kafka_ssl_ca_file),
        ("ssl.certificate.location", settings.kafka_ssl_certificate_file),
        ("ssl.key.location", settings.kafka_ssl_key_file),
    ):
        if value:
            config[key] = value
    return config


def producer(settings: Settings, **extra: Any) -> Producer:
    """An idempotent producer with acks=all. `extra` uses librdkafka's names with '_' for '.'."""
    config = client_config(settings) | {"enable.idempotence": True, "partitioner": PARTITIONER, "linger.ms": 2}
    return Producer(config | {key.replace("_", "."): value for key, value in extra.items()})


def consumer(settings: Settings, group: str, **extra: Any) -> Consumer:
    """A consumer that sees committed transactions only and never commits by itself. The group gets the settings' prefix."""
    config = client_config(settings) | {
        "group.id": f"{settings.topic_prefix}.{group}",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
    }
    return Consumer(config | {key.replace("_", "."): value for key, value in extra.items()})


def write_one(settings: Settings, topic: Topic, key: str, value: bytes, headers: Mapping[str, bytes] | None = None) -> None:
    """Append one record of a stream that has few, and return when all in-sync replicas have it. Blocks.

    Raises ContractError for one that is too large, and UnavailableError: then it may have been appended all the same.
    """
    told: list[KafkaError | None] = []
    appending = producer(settings, message_timeout_ms=int(ANSWER_TIMEOUT_S * 1000), linger_ms=0)
    try:
        appending.produce(topic.name(settings.topic_prefix), value, key.encode(), headers=dict(headers or {}), on_delivery=lambda error, _: told.append(error))
        appending.flush(ANSWER_TIMEOUT_S + 1)
    except KafkaException as raised:
        told.append(raised.args[0])
    error = told[0] if told else KafkaError(KafkaError._MSG_TIMED_OUT)
    if error is None:
        return
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        raise ContractError("RECORD_TOO_LARGE", f"what is to be written to {topic.stream} is larger than Kafka's limit for one message")
    raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}: {error.str()}")


def group_offsets(settings: Settings, group: str, places: Sequence[TopicPartition], *, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[Place, int]:
    """How far a group has come; 0 where it has not begun. Raises UnavailableError."""
    asking = consumer(settings, group)  # It joins nothing: it only asks.
    try:
        return {(one.topic, one.partition): max(0, one.offset) for one in commits(asking, places, timeout_s=timeout_s)}
    except KafkaException as error:
        raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}: {error.args[0].str()}") from error
    finally:
        asking.close()


def commits(consumer: Consumer, places: Sequence[TopicPartition], *, timeout_s: float = ANSWER_TIMEOUT_S) -> list[TopicPartition]:
    """What the consumer's group has committed. A coordinator that moves, or is new, answers with errors for a while. Raises KafkaException."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return list(consumer.committed(list(places), timeout=timeout_s))
        except KafkaException as error:
            if error.args[0].code() not in COORDINATOR_MOVES or time.monotonic() > deadline_s:
                raise
            time.sleep(BROKER_WAIT_FIRST_S)


def admin(settings: Settings, *, timeout_s: float = ADMIN_TIMEOUT_S) -> AdminClient:
    """A client that knows its brokers: one that knows none yet puts its first questions off for seconds. Raises UnavailableError."""
    client = AdminClient(client_config(settings))
    _metadata(settings, client, timeout_s)
    return client


def partition_counts(settings: Settings, *, timeout_s: float = ADMIN_TIMEOUT_S) -> dict[str, int]:
    """Topic name -> number of partitions, for all topics the broker shows us. Raises UnavailableError."""
    return {name: len(topic.partitions) for name, topic in _metadata(settings, AdminClient(client_config(settings)), timeout_s).topics.items()}


def _metadata(settings: Settings, client: AdminClient, timeout_s: float) -> ClusterMetadata:
    try:
        return client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise UnavailableError(f"no Kafka broker answers at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}: {error}") from error


def ensure_topics(settings: Settings, wanted: Iterable[Topic] = topics.ALL, changelogs: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """Create the topics that are missing, check the partition count of those that exist, and give them what their configuration lacks.

    `changelogs` maps further full topic names to their configuration. What an operator has set on a topic stays as it is. Safe to call from
    several processes at once. Raises ConfigurationError naming every topic whose partition count differs from LOYALTY_KAFKA_PARTITIONS, and
    UnavailableError.
    """
    configs = {topic.name(settings.topic_prefix): dict(topic.config) for topic in wanted}
    configs |= {name: dict(config) for name, config in (changelogs or {}).items()}
    existing = partition_counts(settings)
    missing = [
        NewTopic(name, settings.kafka_partitions, settings.kafka_replication_factor, config=config)
        for name, config in configs.items()
        if name not in existing
    ]
    if missing:
        _create(settings, missing)
    wrong = [
        f"Topic {name} has {existing[name]} partitions, LOYALTY_KAFKA_PARTITIONS says {settings.kafka_partitions}. Members would move between"
        " partitions and lose their order: set the number the topic was created with, or migrate to new topics."
        for name in configs
        if name in existing and existing[name] != settings.kafka_partitions
    ]
    if wrong:
        raise ConfigurationError(*wrong)
    _complete(settings, {name: config for name, config in configs.items() if name in existing and config})


def _complete(settings: Settings, configs: Mapping[str, Mapping[str, str]]) -> None:
    """Set on topics of an earlier version what was not set on them. Without the right to do so it is an operator's to do: a log line says what."""
    admin = AdminClient(client_config(settings))
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in configs]
    altered = []
    try:
        for resource, future in (admin.describe_configs(resources, request_timeout=ADMIN_TIMEOUT_S) if resources else {}).items():
            found = future.result()
            missing = {
                key: value for key, value in configs[resource.name].items() if key not in found or found[key].source != SET_ON_THE_TOPIC
            }
            if missing:
                entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in missing.items()]
                altered.append(ConfigResource(ConfigResource.Type.TOPIC, resource.name, incremental_configs=entries))
                log.info("topic.completed", extra={"topic": resource.name, "set": missing})
        for future in (admin.incremental_alter_configs(altered, request_timeout=ADMIN_TIMEOUT_S) if altered else {}).values():
            future.result()
    except KafkaException as error:
        wanted = {resource.name: dict(configs[resource.name]) for resource in altered or resources}
        log.warning("topic.not_completed", extra={"reason": str(error), "wanted": wanted})


async def wait_for_topics(settings: Settings, stop: asyncio.Event, *, changelogs: Mapping[str, Mapping[str, str]] | None = None) -> bool:
    """`ensure_topics`, again and again until a broker answers. False if `stop` was set before. Raises ConfigurationError."""
    wait_s = BROKER_WAIT_FIRST_S
    while not stop.is_set():
        try:
            # Asked first, because it gives up sooner: whoever stops the process waits for this thread.
            await asyncio.to_thread(partition_counts, settings, timeout_s=ASK_TIMEOUT_S)
            await asyncio.to_thread(ensure_topics, settings, changelogs=changelogs)
            return True
        except UnavailableError as error:
            log.warning("kafka.not_reachable", extra={"error": str(error), "retry_after_s": wait_s})
        try:
            await asyncio.wait_for(stop.wait(), wait_s)
        except TimeoutError:
            wait_s = min(BROKER_WAIT_MAX_S, wait_s * 2)
    return False


def _create(settings: Settings, missing: list[NewTopic]) -> None:
    admin = AdminClient(client_config(settings))  # Kept until the futures are done: collecting it would fail them.
    for name, future in admin.create_topics(missing, operation_timeout=ADMIN_TIMEOUT_S).items():
        try:
            future.result()
            log.info("topic.created", extra={"topic": name, "partitions": settings.kafka_partitions})
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.INVALID_REPLICATION_FACTOR:
                raise ConfigurationError(
                    f"LOYALTY_KAFKA_REPLICATION_FACTOR={settings.kafka_replication_factor} is more than the cluster has brokers."
                ) from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise UnavailableError(f"topic {name} cannot be created: {error}") from error
    _wait_for_leaders(admin, [TopicPartition(new.topic, partition) for new in missing for partition in range(settings.kafka_partitions)])


def _wait_for_leaders(admin: AdminClient, partitions: list[TopicPartition]) -> None:
    """Return when each partition answers: for a moment after its creation its broker does not know that it leads it."""
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while partitions:
        futures = admin.list_offsets({partition: OffsetSpec.latest() for partition in partitions}, request_timeout=ADMIN_TIMEOUT_S)
        partitions = [partition for partition, future in futures.items() if future.exception() is not None]
        if partitions and time.monotonic() > deadline:
            raise UnavailableError(f"{len(partitions)} new partitions have no leader after {ADMIN_TIMEOUT_S} s, {partitions[0]} among them")

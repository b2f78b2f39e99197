"""Programmes of the configuration file -> ProgramVersion records, the same in every partition: how rules reach the workers, in order.

All publishers of a deployment share one transactional id. Who publishes fences the others first and reads what is in the log then, so no
version is ever written twice, and a reader of any one partition has read them all.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from schemas.records import ProgramVersion
from streams import kafka, programs, topics
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.errors import ConfigurationError, LoyaltyError, UnavailableError
from streams.settings import Settings

log = logging.getLogger(__name__)

EFFECTIVE_IN_MIN_S = 10
"""Between a publication and its effect: every partition must have the new version before its clock gets there."""
FIRST_EFFECTIVE_FROM_MS = 1
TIMEOUT_S = 10.0
FENCED_WAIT_S = 1.0
FENCED_MAX = 20
# UNKNOWN is what a broker says to the commit of a producer that another one is just fencing.
FENCED_CODES = (KafkaError._FENCED, KafkaError._FATAL, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError.UNKNOWN)
REFUSED_CODES = (
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)  # fmt: skip

Published = Mapping[str, list[ProgramVersion]]
Choose = Callable[[Published], list[ProgramVersion]]


class Fenced(LoyaltyError):
    """Another publisher began after this one. What the log holds says whether anything of ours was written."""


def read_published(settings: Settings) -> dict[str, list[ProgramVersion]]:
    """Programme -> its versions in the log, by version. Empty when there is no such topic yet. Raises UnavailableError."""
    name = topics.PROGRAMS.name(settings.topic_prefix)
    if name not in kafka.partition_counts(settings, timeout_s=TIMEOUT_S):
        return {}
    return _read(settings, name)


def differs(newest: ProgramVersion, rules: Mapping[str, Any]) -> bool:
    """Whether a published version and a table of the file are different rules, not just different texts."""
    return programs.to_json(json.loads(newest.rules)) != programs.to_json(rules)


def publish(settings: Settings, records: Iterable[ProgramVersion]) -> None:
    """Write the records to every partition in one transaction. Raises Fenced when another publisher began meanwhile, UnavailableError,
    and ConfigurationError for rules that are too large for the broker."""
    chosen = list(records)
    _publish(settings, lambda _: chosen)


def ensure_published(settings: Settings, configuration: Configuration) -> None:
    """Publish version 1 of each programme of the file that the log does not know, and warn of those whose rules differ from the file's.

    Any number of workers may do so at once. The topic must be there. Raises UnavailableError and ConfigurationError.
    """

    def first_versions(published: Published) -> list[ProgramVersion]:
        return [
            _version(program_id, 1, FIRST_EFFECTIVE_FROM_MS, rules, "worker")
            for program_id, rules in configuration.rules.items()
            if program_id not in published
        ]  # fmt: skip

    published = read_published(settings)
    if first_versions(published):
        for record in _publish_again_when_fenced(settings, first_versions):
            log.info("programs.published", extra={"program_id": record.program_id, "version": record.version})
        published = read_published(settings)
    for program_id, rules in configuration.rules.items():
        versions = published.get(program_id)
        if versions and differs(versions[-1], rules):
            advice = "The published rules are in force. Run `loyalty program apply` to publish those of the file."
            log.warning("programs.file_differs", extra={"program_id": program_id, "version": versions[-1].version, "advice": advice})


def apply(settings: Settings, configuration: Configuration, *, effective_from_ms: int, actor: str) -> list[ProgramVersion]:
    """Publish a new version of each programme whose rules differ from its newest version; what was published.

    `effective_from_ms` must be EFFECTIVE_IN_MIN_S after now at least, and after the newest version's; the first version of a programme that
    the log does not know is in force at once. Raises ConfigurationError with every reason why it must not be, and nothing is published
    then; UnavailableError.
    """
    kafka.ensure_topics(settings, (topics.PROGRAMS,))

    def changed(published: Published) -> list[ProgramVersion]:
        records, problems = list[ProgramVersion](), list[str]()
        for program_id, rules in configuration.rules.items():
            versions = published.get(program_id)
            if not versions:
                records.append(_version(program_id, 1, FIRST_EFFECTIVE_FROM_MS, rules, actor))
            elif differs(versions[-1], rules):
                problems += _breaks(versions[-1], configuration)
                if effective_from_ms <= versions[-1].effective_from_ms:
                    problems.append(
                        f"programs.{program_id}: version {versions[-1].version} takes effect at {rfc_3339(versions[-1].effective_from_ms)}; the"
                        f" next one must do so after it, not at {rfc_3339(effective_from_ms)}."
                    )
                records.append(_version(program_id, versions[-1].version + 1, effective_from_ms, rules, actor))
        earliest_ms = time.time_ns() // 1_000_000 + EFFECTIVE_IN_MIN_S * 1000
        if effective_from_ms < earliest_ms and any(record.version > 1 for record in records):
            problems.append(
                f"New rules must take effect {EFFECTIVE_IN_MIN_S} s after their publication at least, at {rfc_3339(earliest_ms)} or later, not at"
                f" {rfc_3339(effective_from_ms)}: all workers must have them before."
            )
        if problems:
            raise ConfigurationError(*problems)
        return records

    if not changed(read_published(settings)):
        return []
    return _publish_again_when_fenced(settings, changed)


def rfc_3339(at_ms: int) -> str:
    """`2026-12-01T00:00:00Z`, with milliseconds if there are any."""
    seconds, milliseconds = divmod(at_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
    return moment.isoformat(timespec="milliseconds" if milliseconds else "seconds").replace("+00:00", "Z")


def _version(program_id: str, version: int, effective_from_ms: int, rules: Mapping[str, Any], published_by: str) -> ProgramVersion:
    return ProgramVersion(
        program_id=program_id, version=version, effective_from_ms=effective_from_ms, rules=programs.to_json(rules), published_by=published_by
    )  # fmt: skip


def _breaks(newest: ProgramVersion, configuration: Configuration) -> list[str]:
    """Why the file's rules cannot follow those of the newest version."""
    before, after = programs.from_record(newest, b""), configuration.programs[newest.program_id]
    place = f"programs.{newest.program_id}"
    problems = []
    kept = {tier.name for tier in after.tiers}
    for tier in before.tiers:
        if tier.name not in kept:
            problems.append(f"{place}.tiers has no {tier.name!r} any more, but version {newest.version} has, and members may be in it: keep the tier.")
    if after.time_zone != before.time_zone:
        problems.append(
            f"{place}.time_zone is {after.time_zone!r}, but {before.time_zone!r} in version {newest.version}: it must stay, because expiries and"
            " periods that have begun were reckoned by it."
        )
    return problems


def _publish_again_when_fenced(settings: Settings, choose: Choose) -> list[ProgramVersion]:
    """`_publish`, each time with what is in the log by then."""
    for _ in range(FENCED_MAX):
        try:
            return _publish(settings, choose)
        except Fenced:
            # Those who fence each other must not try again in step. Who waits longest finds that there is nothing left to do.
            time.sleep(random.uniform(0, FENCED_WAIT_S))
            if not choose(read_published(settings)):
                return []
    raise UnavailableError("programmes cannot be published: others do so all the time")


def _publish(settings: Settings, choose: Choose) -> list[ProgramVersion]:
    """Fence all other publishers, then write what `choose` makes of the versions in the log; what was written."""
    name, codec = topics.PROGRAMS.name(settings.topic_prefix), open_codec(settings)
    producer = kafka.producer(settings, transactional_id=_transactional_id(settings), transaction_timeout_ms=int(TIMEOUT_S * 1000))
    partitions = range(settings.kafka_partitions)
    try:
        _in_time(lambda: producer.init_transactions(TIMEOUT_S))
        # init_transactions ends what an earlier publisher left open, but a broker that has just started may leave its markers out of some
        # partitions (see streams/engine/partition.py). So the first marker in each is that of an abort; readers see nothing of it.
        _in_time(producer.begin_transaction)
        for partition in partitions:
            producer.produce(name, key=b"aborted", value=b"", partition=partition)
        producer.flush(TIMEOUT_S)  # An abort drops what has not been sent, and a partition that got nothing gets no marker.
        _in_time(lambda: producer.abort_transaction(TIMEOUT_S))
        records = choose(_read(settings, name))
        if records:
            _in_time(producer.begin_transaction)
            for partition in partitions:
                for record in records:
                    producer.produce(name, key=record.program_id.encode(), value=codec.encode(record), partition=partition)
            _in_time(lambda: producer.commit_transaction(TIMEOUT_S))
        return records
    except KafkaException as error:
        _give_up(producer)
        raise _verdict(settings, error) from error


def _transactional_id(settings: Settings) -> str:
    return f"{settings.topic_prefix}.programs"


def _in_time(step: Callable[[], None]) -> None:
    """One step of a transaction, again while the broker asks for it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return step()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline_s:
                raise


def _give_up(producer: Producer) -> None:
    try:
        producer.abort_transaction(1.0)
    except KafkaException:
        pass  # None is open, or the next publisher's init_transactions aborts it.
    producer.purge()


def _verdict(settings: Settings, error: KafkaException) -> LoyaltyError:
    code = error.args[0].code()
    if code in FENCED_CODES:
        return Fenced(f"another publisher of programmes has begun: {error.args[0].str()}")
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return ConfigurationError(f"The rules of a programme are too large for a record of the broker: {error.args[0].str()}.")
    if code in REFUSED_CODES:
        return ConfigurationError(
            f"The broker does not let this user write to {topics.PROGRAMS.name(settings.topic_prefix)} with the transactional id"
            f" {_transactional_id(settings)}: {error.args[0].str()}."
        )
    return UnavailableError(f"programmes cannot be published: {error.args[0].str()}")


def _read(settings: Settings, name: str) -> dict[str, list[ProgramVersion]]:
    """Partition 0 of the topic from its beginning to its end as it is now."""
    codec, found = open_codec(settings), dict[str, list[ProgramVersion]]()
    consumer = kafka.consumer(settings, "programs", enable_partition_eof=True)
    deadline_s, reason = time.monotonic() + TIMEOUT_S, "it does not answer"
    try:
        consumer.assign([TopicPartition(name, 0, 0)])
        while time.monotonic() < deadline_s:
            message = consumer.poll(0.1)
            if message is None:
                continue
            error = message.error()
            if error is None:
                record = codec.decode(message.value(), ProgramVersion)
                versions = found.setdefault(record.program_id, [])
                if record.version == len(versions) + 1:  # A version never changes: the first record of it counts.
                    versions.append(record)
            elif error.code() == KafkaError._PARTITION_EOF:
                return found
            else:
                reason = error.str()
    finally:
        consumer.close()
    raise UnavailableError(f"topic {name} cannot be read at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}: {reason}")

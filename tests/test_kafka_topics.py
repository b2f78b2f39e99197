"""Topics of an earlier version get what their configuration lacks; what an operator has set stays."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from streams import kafka as kafka_clients
from streams import topics
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, app_id, changelog_name


@pytest.fixture
def settings(kafka: Any, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(redis_url="redis://127.0.0.1:9", clickhouse_url="http://127.0.0.1:9")


def config_of(settings: Settings, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    (future,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    return {name: entry.value for name, entry in future.result(30).items()}


def test_an_older_topic_is_compacted_in_time_from_now_on(settings: Settings) -> None:
    changelog, profiles = changelog_name(app_id(settings), "accounts"), topics.PROFILES.name(settings.topic_prefix)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    before = {
        changelog: {"cleanup.policy": "compact", "delete.retention.ms": "172800000"},
        profiles: {"cleanup.policy": "compact", "min.compaction.lag.ms": "3600000"},
    }
    for future in admin.create_topics([NewTopic(name, settings.kafka_partitions, 1, config=config) for name, config in before.items()]).values():
        future.result(30)
    for _ in range(2):
        kafka_clients.ensure_topics(settings, [topics.PROFILES], {changelog: CHANGELOG_CONFIG})
        found = config_of(settings, changelog)
        assert {name: found[name] for name in CHANGELOG_CONFIG} == CHANGELOG_CONFIG | before[changelog]
        found = config_of(settings, profiles)
        assert {name: found[name] for name in topics.PROFILES.config} == dict(topics.PROFILES.config) | before[profiles]


def test_without_the_right_to_alter_topics_a_process_starts_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Denied(AdminClient):
        def describe_configs(self, resources: Any, **options: Any) -> Any:
            return super().describe_configs([ConfigResource(ConfigResource.Type.TOPIC, "no-such-topic")], **options)

    kafka_clients.ensure_topics(settings, [topics.PROFILES])
    monkeypatch.setattr(kafka_clients, "AdminClient", Denied)
    kafka_clients.ensure_topics(settings, [topics.PROFILES])
    (record,) = [record for record in caplog.records if record.msg == "topic.not_completed"]
    assert record.wanted == {topics.PROFILES.name(settings.topic_prefix): dict(topics.PROFILES.config)}  # type: ignore[attr-defined]

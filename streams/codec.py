"""settings -> the codec that every process of a deployment shares: all topics, the changelogs among them, and where their ids come from."""

from schemas.codec import Codec
from schemas.registry import open_registry
from streams import topics
from streams.settings import Settings
from streams.tables import changelogs


def topic_records(settings: Settings) -> dict[str, str]:
    """Every topic with the name of its record, for the subjects of a schema registry."""
    return {topic.name(settings.topic_prefix): topic.record.SCHEMA for topic in topics.ALL} | changelogs(settings)


def open_codec(settings: Settings) -> Codec:
    """Connects to nothing but a schema registry, if one is set. Raises ConfigurationError when that does not answer."""
    return Codec(open_registry(settings, topic_records(settings)))

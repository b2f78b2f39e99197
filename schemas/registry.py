"""schema ids: from the files of this checkout (default, no server), or from a Confluent-compatible Schema Registry."""

import hashlib
import json
from typing import Any

import fastavro

from schemas import avsc
from streams.errors import ConfigurationError
from streams.settings import Settings


def open_registry(settings: Settings, topics: dict[str, str]) -> "LocalRegistry | RemoteRegistry":
    """The registry that the settings name. `topics` maps topic names to record names, for the subjects `<topic>-value`."""
    return RemoteRegistry(settings, topics) if settings.schema_registry_url else LocalRegistry()


def local_id(schema: avsc.Schema) -> int:
    """31 bits of the SHA-256 of Avro's canonical form: the same schema has the same id on every machine, in every language."""
    canonical = fastavro.schema.to_parsing_canonical_form(schema)
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") & 0x7FFFFFFF


class LocalRegistry:
    """Every schema in `avro/` and `history/`, by its deterministic id."""

    def __init__(self) -> None:
        self._ids = {name: local_id(schema) for name, schema in avsc.load_all().items()}
        self._schemas = {local_id(schema): schema for name in self._ids for schema in avsc.history_of(name)}
        self._schemas |= {self._ids[name]: schema for name, schema in avsc.load_all().items()}

    def id_of(self, record: str) -> int:
        return self._ids[record]

    def schema_of(self, schema_id: int) -> avsc.Schema | None:
        return self._schemas.get(schema_id)


class RemoteRegistry:
    """Registers our schemas at start under `<topic>-value` and looks unknown writer ids up once each.

    A look-up blocks, but happens once per id and process; an id the registry does not know is asked for again at most every
    RETRY_AFTER_LOOKUPS records, so that a poison stream cannot turn into a request storm.
    """

    RETRY_AFTER_LOOKUPS = 1000

    def __init__(self, settings: Settings, topics: dict[str, str]) -> None:
        # Imported here: the client needs packages of confluent-kafka's extra, which the default registry does without.
        try:
            from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
        except ImportError as error:
            raise ConfigurationError(
                f"LOYALTY_SCHEMA_REGISTRY_URL is set, but the registry client is not installed ({error}):"
                " pip install 'loyalty-sync[registry]'"
            ) from error
        configuration: dict[str, Any] = {"url": settings.schema_registry_url}
        if settings.schema_registry_username:
            configuration["basic.auth.user.info"] = f"{settings.schema_registry_username}:{settings.schema_registry_password}"
        self._client = SchemaRegistryClient(configuration)
        self._ids: dict[str, int] = {}
        self._unknown: dict[int, int] = {}
        try:
            for topic, record in sorted(topics.items()):
                text = json.dumps(avsc.load_all()[record])
                self._ids[record] = self._client.register_schema(f"{topic}-value", Schema(text, "AVRO"))
        except Exception as error:
            raise ConfigurationError(
                f"LOYALTY_SCHEMA_REGISTRY_URL={settings.schema_registry_url} did not accept the schemas: {error}"
            ) from error

    def id_of(self, record: str) -> int:
        return self._ids[record]

    def schema_of(self, schema_id: int) -> avsc.Schema | None:
        misses = self._unknown.get(schema_id, 0)
        self._unknown[schema_id] = misses + 1
        if misses % self.RETRY_AFTER_LOOKUPS:
            return None
        try:
            schema: avsc.Schema = json.loads(self._client.get_schema(schema_id).schema_str or "null")
        except Exception:  # Unknown id or no answer: the record goes to the dead letters and can be sent again.
            return None
        return schema

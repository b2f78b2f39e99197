"""records <-> bytes in Confluent's wire format: one zero byte, four bytes of schema id (big-endian), Avro binary."""

import io
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Self, TypeVar

import fastavro
from fastavro.schema import SchemaParseException

from schemas import avsc
from streams.errors import ContractError

MAGIC = 0
HEADER = struct.Struct(">bI")
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Record(Protocol):
    """What every generated record offers."""

    SCHEMA: ClassVar[str]

    @classmethod
    def from_avro(cls, data: Mapping[str, Any]) -> Self: ...

    def to_avro(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Record)
T = TypeVar("T")


ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of an object in memory, in an error's text."""


class Registry(Protocol):
    """Where schema ids come from. Both calls are cheap after start: neither does IO on the hot path."""

    def id_of(self, record: str) -> int:
        """Id under which this program writes `record`."""

    def schema_of(self, schema_id: int) -> avsc.Schema | None:
        """Writer schema of an id; None if nobody knows it."""


class Codec:
    """Encodes and decodes records. Holds the parsed schemas; safe to share between threads once built."""

    header_bytes: ClassVar[int] = HEADER.size
    """Leading bytes of every encoded record: they name its writer schema."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._schemas = {name: fastavro.parse_schema(_without_logical_types(schema)) for name, schema in avsc.load_all().items()}
        self._headers = {name: HEADER.pack(MAGIC, registry.id_of(name)) for name in self._schemas}
        self._writers: dict[int, Any] = {registry.id_of(name): schema for name, schema in self._schemas.items()}

    def encode(self, record: Record) -> bytes:
        """Raise ContractError(NOT_ENCODABLE) when a value does not fit its field, for example an integer beyond int64."""
        name = record.SCHEMA
        out = io.BytesIO()
        out.write(self._headers[name])
        try:
            fastavro.schemaless_writer(out, self._schemas[name], record.to_avro())
        except (ValueError, TypeError, OverflowError, AttributeError, KeyError) as error:
            raise ContractError("NOT_ENCODABLE", f"{name}: {error}") from error
        return out.getvalue()

    def schema(self, record_type: type[Record]) -> Any:
        """Today's schema of a record, without logical types; names that come again stand for what they named first."""
        return self._schemas[record_type.SCHEMA]

    def header(self, record_type: type[Record]) -> bytes:
        """The first bytes of a record that was encoded by today's schema."""
        return self._headers[record_type.SCHEMA]

    def decode(self, data: bytes | None, record_type: type[R]) -> R:
        """Raise ContractError with one of these reasons, and nothing else, whatever the bytes are:

        EMPTY (no value), NOT_WIRE_FORMAT (no magic byte), SCHEMA_UNKNOWN (the registry does not know the id),
        SCHEMA_MISMATCH (the schema is another record's, or cannot be resolved to ours), UNDECODABLE (the bytes break off,
        go on, or hold what the schema does not allow).
        """
        return self._decode(data, record_type, record_type.from_avro)

    def decode_fields(self, data: bytes | None, record_type: type[Record]) -> dict[str, Any]:
        """The fields as Avro has them: dicts, lists, names of enums. Raises what `decode` raises."""
        return self._decode(data, record_type, dict)

    def _decode(self, data: bytes | None, record_type: type[Record], made: Callable[[Mapping[str, Any]], T]) -> T:
        if not data:
            raise ContractError("EMPTY", "the record has no value")
        if len(data) < HEADER.size or data[0] != MAGIC:
            raise ContractError("NOT_WIRE_FORMAT", "the value does not start with the zero byte and a schema id")
        schema_id = HEADER.unpack_from(data)[1]
        writer = self._writer(schema_id, record_type.SCHEMA)
        reader = self._schemas[record_type.SCHEMA]
        body = io.BytesIO(data)
        body.seek(HEADER.size)
        try:
            value: Any = fastavro.schemaless_reader(body, writer, None if writer is reader else reader)
            # fastavro may hand back a short string at the end of the bytes instead of failing, and ignores what follows the record.
            if body.tell() != len(data):
                raise ValueError(f"{len(data) - body.tell()} bytes follow the record")
            return made(value)
        except Exception as error:  # Hostile bytes make fastavro raise errors of many types.
            said = ADDRESS.sub("", str(error))  # The same bytes are told of in the same words.
            raise ContractError("UNDECODABLE", f"schema {schema_id}: {type(error).__name__}: {said}"[:500]) from error

    def _writer(self, schema_id: int, expected: str) -> Any:
        writer = self._writers.get(schema_id)
        if writer is None:
            schema = self._registry.schema_of(schema_id)
            if schema is None:
                raise ContractError("SCHEMA_UNKNOWN", f"schema id {schema_id} is not in the registry")
            try:
                writer = self._writers[schema_id] = fastavro.parse_schema(_without_logical_types(schema))
            except (SchemaParseException, KeyError, TypeError, ValueError) as error:
                raise ContractError("SCHEMA_MISMATCH", f"schema id {schema_id} is not a valid Avro schema: {error}") from error
        name = writer.get("name", "").rpartition(".")[2] if isinstance(writer, dict) else ""
        if name != expected:
            raise ContractError("SCHEMA_MISMATCH", f"schema id {schema_id} is {name or 'not a record'}, expected {expected}")
        return writer


def _without_logical_types(schema: Any) -> Any:
    """Times stay integers: fastavro's datetime conversion costs more than the rest of a record, and ledgers compare integers."""
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, dict):
        return {key: _without_logical_types(value) for key, value in schema.items() if key not in ("logicalType", "doc")}
    return schema

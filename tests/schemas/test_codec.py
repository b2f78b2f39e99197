"""The codec: what it writes it reads; other versions of a schema; and bytes that mean no good."""

import copy
import io
import struct
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import avsc
from schemas.codec import HEADER, Codec
from schemas.records import (
    Account,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberStatus,
    OfferActivation,
    ProfileChange,
    Transaction,
    TransactionKind,
    WaitingCommand,
    WaitingCommands,
)
from schemas.registry import LocalRegistry, local_id
from streams.errors import ContractError
from tests.schemas.strategies import RECORDS, any_record

CODEC = Codec(LocalRegistry())
REASONS = {"EMPTY", "NOT_WIRE_FORMAT", "SCHEMA_UNKNOWN", "SCHEMA_MISMATCH", "UNDECODABLE"}
ACTIVATION = OfferActivation(program_id="grand", member_id="m-1", event_id="e", source_system="s", occurred_at_ms=5, offer_id="summer")


class RegistryWith(LocalRegistry):
    """The local registry, and schemas that only some other program knows."""

    def __init__(self, *foreign: Any) -> None:
        super().__init__()
        self._schemas |= {1_000 + n: schema for n, schema in enumerate(foreign)}


def written_by(schema: Any, value: dict[str, Any], schema_id: int = 1_000) -> bytes:
    """What a program with this version of the schema would send."""
    out = io.BytesIO(HEADER.pack(0, schema_id))
    out.seek(HEADER.size)
    fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(schema)), value)
    return out.getvalue()


def read(data: bytes, record: Any, *foreign: Any) -> Any:
    return Codec(RegistryWith(*foreign)).decode(data, record)


@given(any_record())
@settings(max_examples=400, deadline=None)
def test_what_is_written_is_read(record: Any) -> None:
    data = CODEC.encode(record)
    assert CODEC.decode(data, type(record)) == record
    assert CODEC.encode(CODEC.decode(data, type(record))) == data


def test_the_wire_format() -> None:
    data = CODEC.encode(ACTIVATION)
    assert data[0] == 0
    assert struct.unpack(">I", data[1:5])[0] == local_id(avsc.load_all()["OfferActivation"])
    value: Any = fastavro.schemaless_reader(io.BytesIO(data[5:]), avsc.load_all()["OfferActivation"], None)
    assert value["offer_id"] == "summer"


@pytest.mark.parametrize(
    "record",
    [
        Transaction(
            program_id="p", member_id="m", transaction_id="t", source_system="s", occurred_at_ms=1, kind=TransactionKind.EARN, points=2**63
        ),
        OfferActivation(program_id="p", member_id="m", event_id="e", source_system="s", occurred_at_ms=-(2**63) - 1, offer_id="o"),
        OfferActivation(program_id="p", member_id="m", event_id="e", source_system="s", occurred_at_ms="5", offer_id="o"),  # type: ignore
        OfferActivation(program_id="p", member_id="m", event_id=None, source_system="s", occurred_at_ms=5, offer_id="o"),  # type: ignore
        OfferActivation(program_id="p", member_id="\ud800", event_id="e", source_system="s", occurred_at_ms=5, offer_id="o"),
    ],
    ids=["beyond int64", "below int64", "a text for a number", "nothing", "half a character"],
)
def test_what_does_not_fit_is_not_written(record: Any) -> None:
    with pytest.raises(ContractError) as error:
        CODEC.encode(record)
    assert error.value.reason == "NOT_ENCODABLE"


# Other versions.


def test_an_older_writer_is_read_with_the_defaults() -> None:
    """Every field that has a default may be missing in what older programs wrote; so each default is a valid one."""
    for name, schema in avsc.load_all().items():
        older = copy.deepcopy(schema)
        older["fields"] = [field for field in older["fields"] if "default" not in field]
        full = _example(schema)
        data = written_by(older, {field["name"]: full[field["name"]] for field in older["fields"]})
        record = read(data, RECORDS[name], older)
        for field in schema["fields"]:
            if "default" in field:
                assert record.to_avro()[field["name"]] == field["default"]


def test_a_newer_writer_is_read_without_what_is_new() -> None:
    newer = copy.deepcopy(avsc.load_all()["OfferActivation"])
    newer["fields"].insert(1, {"name": "campaign", "type": ["null", "string"], "default": None})
    newer["fields"].append({"name": "tags", "type": {"type": "map", "values": "string"}, "default": {}})
    data = written_by(newer, {**ACTIVATION.to_avro(), "campaign": "c", "tags": {"a": "b"}})
    assert read(data, OfferActivation, newer) == ACTIVATION


def test_an_unknown_symbol_is_read_as_unknown() -> None:
    newer = copy.deepcopy(avsc.load_all()["Transaction"])
    next(field for field in newer["fields"] if field["name"] == "kind")["type"]["symbols"].append("TELEPORT")
    data = written_by(newer, {**_example(avsc.load_all()["Transaction"]), "kind": "TELEPORT"})
    assert read(data, Transaction, newer).kind is TransactionKind.UNKNOWN


def test_an_unknown_symbol_in_an_optional_field_and_in_a_nested_record_is_read_as_unknown() -> None:
    newer = copy.deepcopy(avsc.load_all()["ProfileChange"])
    next(field for field in newer["fields"] if field["name"] == "status")["type"][1]["symbols"].append("FROZEN")
    data = written_by(newer, {**_example(avsc.load_all()["ProfileChange"]), "status": "FROZEN"})
    assert read(data, ProfileChange, newer).status is MemberStatus.UNKNOWN
    newer = copy.deepcopy(avsc.load_all()["LoyaltyEvent"])
    account = next(field for field in newer["fields"] if field["name"] == "account")["type"]
    next(field for field in account["fields"] if field["name"] == "status")["type"]["symbols"].append("FROZEN")
    value = _example(avsc.load_all()["LoyaltyEvent"])
    data = written_by(newer, {**value, "account": {**value["account"], "status": "FROZEN"}, "kind": "TIER_CHANGED"})
    event = read(data, LoyaltyEvent, newer)
    assert (event.account.status, event.kind) == (MemberStatus.UNKNOWN, LoyaltyEventKind.TIER_CHANGED)


def test_fields_in_another_order_and_narrower_numbers_are_read() -> None:
    older = copy.deepcopy(avsc.load_all()["OfferActivation"])
    older["fields"].reverse()
    next(field for field in older["fields"] if field["name"] == "occurred_at_ms")["type"] = "int"
    assert read(written_by(older, ACTIVATION.to_avro()), OfferActivation, older) == ACTIVATION


def test_a_writer_that_cannot_be_resolved_is_refused() -> None:
    older = copy.deepcopy(avsc.load_all()["OfferActivation"])
    older["fields"] = [field for field in older["fields"] if field["name"] != "offer_id"]
    with pytest.raises(ContractError) as error:
        read(written_by(older, ACTIVATION.to_avro()), OfferActivation, older)
    assert error.value.reason in REASONS


# Bytes that mean no good.


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
@given(body=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_random_bodies_raise_contract_errors_alone(record: Any, body: bytes) -> None:
    _check(HEADER.pack(0, LocalRegistry().id_of(record.SCHEMA)) + body, record)


@given(st.binary(max_size=100), st.sampled_from(sorted(RECORDS)))
def test_random_bytes_raise_contract_errors_alone(data: bytes, name: str) -> None:
    _check(data, RECORDS[name])


@given(any_record(), st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bits_raise_contract_errors_alone(record: Any, data: st.DataObject) -> None:
    encoded = bytearray(CODEC.encode(record))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    _check(bytes(encoded), type(record))


@given(any_record(), st.data())
@settings(max_examples=300, deadline=None)
def test_what_breaks_off_or_goes_on_is_refused(record: Any, data: st.DataObject) -> None:
    """Never read in part: half a transaction is none."""
    encoded = CODEC.encode(record)
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    longer = encoded + data.draw(st.binary(min_size=1, max_size=20))
    for hostile in (cut, longer):
        with pytest.raises(ContractError) as error:
            CODEC.decode(hostile, type(record))
        assert error.value.reason in REASONS


def test_every_cut_of_an_account_is_refused() -> None:
    account = Account(program_id="p", member_id="m", status=MemberStatus.ACTIVE, tier="gold", enrolled_at_ms=1, attributes={"a": "ü"})
    encoded = CODEC.encode(account)
    for length in range(len(encoded)):
        with pytest.raises(ContractError):
            CODEC.decode(encoded[:length], Account)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "EMPTY"),
        (b"", "EMPTY"),
        (b"\x00", "NOT_WIRE_FORMAT"),
        (b"\x00\x00\x00\x00", "NOT_WIRE_FORMAT"),
        (b'{"points": 1}', "NOT_WIRE_FORMAT"),
        (b"\x01" + CODEC.encode(ACTIVATION)[1:], "NOT_WIRE_FORMAT"),
        (HEADER.pack(0, 12345) + b"x", "SCHEMA_UNKNOWN"),
        (HEADER.pack(0, 2**32 - 1) + b"x", "SCHEMA_UNKNOWN"),
        (HEADER.pack(0, LocalRegistry().id_of("Transaction")), "SCHEMA_MISMATCH"),
        (HEADER.pack(0, LocalRegistry().id_of("OfferActivation")), "UNDECODABLE"),
    ],
)
def test_reasons(data: bytes | None, reason: str) -> None:
    with pytest.raises(ContractError) as error:
        CODEC.decode(data, OfferActivation)
    assert error.value.reason == reason


@pytest.mark.parametrize("name", RECORDS)
def test_no_record_is_read_as_another(name: str) -> None:
    data = HEADER.pack(0, LocalRegistry().id_of(name))
    for other, record in RECORDS.items():
        if other != name:
            with pytest.raises(ContractError) as error:
                CODEC.decode(data, record)
            assert error.value.reason == "SCHEMA_MISMATCH"


@pytest.mark.parametrize(
    "foreign",
    ["string", ["null", "string"], {"type": "no such type"}, {}, {"type": "array", "items": "long"}, {"type": "record", "name": "Other"}],
    ids=str,
)
def test_a_registry_that_answers_nonsense(foreign: Any) -> None:
    with pytest.raises(ContractError) as error:
        read(HEADER.pack(0, 1_000) + b"\x00", OfferActivation, foreign)
    assert error.value.reason == "SCHEMA_MISMATCH"


def test_a_registry_that_answers_half_a_schema() -> None:
    for foreign in ({"type": "record", "name": "OfferActivation"}, {"type": "record", "name": "OfferActivation", "fields": [{}]}):
        with pytest.raises(ContractError) as error:
            read(HEADER.pack(0, 1_000) + b"\x00", OfferActivation, foreign)
        assert error.value.reason in REASONS


@pytest.mark.parametrize("length", [2**62, 2**40, 2**31, -1, -(2**62), -(2**63)])
def test_enormous_and_negative_lengths_are_refused_at_once(length: int) -> None:
    """A length is a promise by the sender: neither memory nor time may be spent on it before the bytes are there."""
    number = _zigzag(length)
    activation = HEADER.pack(0, LocalRegistry().id_of("OfferActivation")) + number + b"grand"
    waiting = HEADER.pack(0, LocalRegistry().id_of("WaitingCommands")) + number + b"\x00" * 50
    account = CODEC.encode(Account(program_id="p", member_id="m", status=MemberStatus.ACTIVE, tier="t", enrolled_at_ms=1))
    attributes = account.replace(b"\x00\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00" + number, 1)
    for data, record in ((activation, OfferActivation), (waiting, WaitingCommands), (attributes, Account)):
        with pytest.raises(ContractError) as error:
            CODEC.decode(data, record)
        assert error.value.reason in REASONS


def test_numbers_never_leave_int64() -> None:
    """A varint may go on for ever. fastavro keeps 64 bits of it: nonsense, but of a size that all that follows can carry."""
    prefix = HEADER.pack(0, LocalRegistry().id_of("OfferActivation")) + b"\x02p\x02m\x02e\x02s"
    for varint in (b"\xff" * 9 + b"\x7f", b"\xff" * 30 + b"\x01", b"\x80" * 200 + b"\x01"):
        _check(prefix + varint + b"\x02o", OfferActivation)


def test_text_that_is_not_utf8_is_refused() -> None:
    data = HEADER.pack(0, LocalRegistry().id_of("OfferActivation")) + b"\x02\xff\x02m\x02e\x02s\x02\x02o"
    with pytest.raises(ContractError):
        CODEC.decode(data, OfferActivation)


def test_the_reason_stays_short_and_names_the_error() -> None:
    with pytest.raises(ContractError) as error:
        CODEC.decode(HEADER.pack(0, LocalRegistry().id_of("OfferActivation")) + b"\x02", OfferActivation)
    assert len(error.value.detail) <= 500 and "schema" in error.value.detail


# Ids.


def test_ids_are_the_same_for_the_same_schema_and_for_no_other() -> None:
    ids = {name: local_id(schema) for name, schema in avsc.load_all().items()}
    assert len(set(ids.values())) == len(ids)
    assert ids == {name: LocalRegistry().id_of(name) for name in ids}
    for name, schema in avsc.load_all().items():
        retold = copy.deepcopy(schema)
        retold["doc"] = "Other words."
        assert local_id(retold) == ids[name], "documentation is no part of a schema's identity"
        retold["fields"].append({"name": "new", "type": ["null", "string"], "default": None})
        assert local_id(retold) != ids[name]


def test_every_stored_version_can_be_looked_up() -> None:
    registry = LocalRegistry()
    for name in avsc.load_all():
        for schema in avsc.history_of(name):
            found = registry.schema_of(local_id(schema))
            assert found is not None and found["name"] == name
    assert registry.schema_of(12345) is None


def test_nested_records_survive() -> None:
    waiting = WaitingCommands(commands=(WaitingCommand(topic="t", partition=1, offset=2, ingested_at_ms=3, value=b"\x00\xff"),))
    assert CODEC.decode(CODEC.encode(waiting), WaitingCommands) == waiting


def _check(data: bytes, record: Any) -> None:
    """It is refused as it should be, or it is a record: then it can be written again."""
    try:
        decoded = CODEC.decode(data, record)
    except ContractError as error:
        assert error.reason in REASONS
    else:
        assert CODEC.decode(CODEC.encode(decoded), record) == decoded


def _example(schema: Any) -> Any:
    """The simplest value of a schema. It never goes where a type is referred to by name: that is in an optional field, or an array."""
    if isinstance(schema, list):
        return _example(schema[0])
    if isinstance(schema, str):
        return {"null": None, "boolean": False, "int": 0, "long": 0, "string": "", "bytes": b""}[schema]
    match schema["type"]:
        case "record":
            return {field["name"]: _example(field["type"]) for field in schema["fields"]}
        case "enum":
            return schema["symbols"][1]
        case "array":
            return []
        case "map":
            return {}
    return _example(schema["type"])


def _zigzag(number: int) -> bytes:
    encoded, rest = bytearray(), (number << 1 ^ number >> 63) & (2**64 - 1)
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*encoded, rest])

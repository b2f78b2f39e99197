"""encoded records -> Arrow columns, a whole batch at once: for what keeps columns and needs no objects.

Decoding one record takes a dozen microseconds, most of them to make objects of Python. Here all records of a batch are read side by side:
every step reads one field of all of them, by a few operations of numpy over the batch's bytes. Every record has a cursor; one that meets
bytes which it should not is sent far beyond the end, where it reads zeros, and does not come out where its record ends. Such records, and
those of another schema than today's, are decoded one by one by the codec, which alone judges what is wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.codec import Codec, Record
from streams.errors import ContractError

Array = Any
"""An Arrow array: pyarrow has no types of its own."""
Places = NDArray[np.int64]

BEYOND = 2**62
ITEMS_MAX = 256  # A list is read item by item: records with longer ones are decoded one by one.


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch in columns."""

    fields: Mapping[str, Array]
    """Name of the record's field -> its values, one per record that could be decoded."""
    places: Places
    """Which of the batch's records they are of."""
    errors: Mapping[int, ContractError]
    """The others' places, and what is wrong with them."""


class ColumnDecoder:
    """Decodes one type of record. Safe to share between threads."""

    def __init__(self, codec: Codec, record_type: type[Record]) -> None:
        self._codec = codec
        self._record_type = record_type
        schema = codec.schema(record_type)
        self._header = np.frombuffer(codec.header(record_type), dtype=np.uint8)
        self._part = _part(schema, {})
        self._names = [field["name"] for field in schema["fields"]]

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The columns of these encoded records; errors are those of `Codec.decode`."""
        source = _Source([value or b"" for value in values])
        is_ours = source.lengths >= len(self._header)
        for number, byte in enumerate(self._header):
            is_ours &= source.byte(source.starts + number) == byte
        cursors = np.where(is_ours, source.starts + len(self._header), BEYOND)
        read = self._part.read(source, cursors, source.ends)
        is_whole = cursors == source.ends
        columns = [read.field(name) for name in self._names]
        if is_whole.all():
            return Decoded(dict(zip(self._names, columns, strict=True)), np.arange(len(values)), {})
        singly, errors = self._decode_singly(values, np.flatnonzero(~is_whole))
        whole = np.flatnonzero(is_whole)
        kept = pa.array(whole)
        rest = pa.array(list(singly.values()), type=self._part.type)
        fields = {name: pa.concat_arrays([column.take(kept), rest.field(name)]) for name, column in zip(self._names, columns, strict=True)}
        return Decoded(fields, np.concatenate((whole, np.array(list(singly), dtype=np.int64))), errors)

    def _decode_singly(self, values: Sequence[bytes | None], places: Places) -> tuple[dict[int, Any], dict[int, ContractError]]:
        good: dict[int, Any] = {}
        errors: dict[int, ContractError] = {}
        for place in places.tolist():
            try:
                good[place] = self._codec.decode_fields(values[place], self._record_type)
            except ContractError as error:
                errors[place] = error
        return good, errors


class _Source:
    """The bytes of a batch, one record behind the other, and zeros behind them."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
        self.ends = np.cumsum(self.lengths)
        self.starts = self.ends - self.lengths
        self.bytes = np.frombuffer(b"".join((*values, b"\0")), dtype=np.uint8)

    def byte(self, cursors: Places) -> NDArray[np.uint8]:
        return self.bytes[np.minimum(cursors, len(self.bytes) - 1)]

    def long(self, cursors: Places) -> Places:
        """The numbers at the cursors, which go on behind them."""
        byte = self.byte(cursors)
        cursors += 1
        value = (byte & 0x7F).astype(np.uint64)
        longer = np.flatnonzero(byte & 0x80)
        shift = 7
        while longer.size:
            byte = self.byte(cursors[longer])
            cursors[longer] += 1
            value[longer] |= (byte & 0x7F).astype(np.uint64) << np.uint64(shift)
            if shift == 63:  # The tenth byte is the last, and holds one bit.
                cursors[longer[byte > 1]] = BEYOND
                break
            longer = longer[(byte & 0x80) != 0]
            shift += 7
        return (value >> np.uint64(1)).astype(np.int64) ^ -(value & np.uint64(1)).astype(np.int64)


_Read = Callable[[_Source, Places, Places], Array]
"""(source, cursors, ends) -> a value for each cursor; the cursors move on behind it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What a schema becomes."""

    type: Any
    read: _Read


def _part(schema: Any, named: dict[str, _Part]) -> _Part:
    """`named`: the records and enums so far, which schemas may name again."""
    if isinstance(schema, list):
        first, second = schema
        return _nullable(_part(second if first == "null" else first, named), null_branch=0 if first == "null" else 1)
    if isinstance(schema, str):
        return named[schema] if schema in named else _PLAIN[schema]
    kind = schema["type"]
    if not isinstance(kind, str) or kind in _PLAIN:
        return _part(kind, named)
    if kind == "array":
        return _list(_part(schema["items"], named))
    if kind == "map":
        return _map(_part(schema["values"], named))
    if kind == "enum":
        named[schema["name"]] = _enum(schema["symbols"])
    else:
        named[schema["name"]] = _record({field["name"]: _part(field["type"], named) for field in schema["fields"]})
    return named[schema["name"]]


def _read_boolean(source: _Source, cursors: Places, ends: Places) -> Array:
    byte = source.byte(cursors)
    cursors += 1
    cursors[byte > 1] = BEYOND
    return pa.array(byte == 1)


def _read_long(source: _Source, cursors: Places, ends: Places) -> Array:
    return pa.array(source.long(cursors))


def _read_string(source: _Source, cursors: Places, ends: Places) -> Array:
    texts = pa.StringArray.from_buffers(*_slices(source, cursors, ends))
    try:
        texts.validate(full=True)
        return texts
    except pa.ArrowInvalid:
        are_text = np.array([_is_text(value) for value in texts.cast(pa.binary()).to_pylist()])
        cursors[~are_text] = BEYOND
        return pa.array(["" if not good else value.decode() for good, value in zip(are_text, texts.cast(pa.binary()).to_pylist(), strict=True)])


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_bytes(source: _Source, cursors: Places, ends: Places) -> Array:
    length, offsets, data = _slices(source, cursors, ends)
    return pa.Array.from_buffers(pa.binary(), length, [None, offsets, data])


def _slices(source: _Source, cursors: Places, ends: Places) -> tuple[int, Any, Any]:
    """Number, offsets and bytes of what has its length before it."""
    lengths = source.long(cursors)
    is_wrong = (lengths < 0) | (lengths > ends - cursors)
    if is_wrong.any():
        lengths[is_wrong] = 0
        cursors[is_wrong] = BEYOND
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(cursors - offsets[:-1], lengths)
    cursors += lengths
    return len(lengths), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(source.bytes[places])


_PLAIN = {
    "boolean": _Part(pa.bool_(), _read_boolean),
    "int": _Part(pa.int64(), _read_long),
    "long": _Part(pa.int64(), _read_long),
    "string": _Part(pa.string(), _read_string),
    "bytes": _Part(pa.binary(), _read_bytes),
}


def _enum(symbols: Sequence[str]) -> _Part:
    names = pa.array(symbols, type=pa.string())

    def read(source: _Source, cursors: Places, ends: Places) -> Array:
        index = source.long(cursors)
        is_wrong = (index < 0) | (index >= len(symbols))
        index[is_wrong] = 0
        cursors[is_wrong] = BEYOND
        return names.take(pa.array(index))

    return _Part(pa.string(), read)


def _nullable(part: _Part, *, null_branch: int) -> _Part:
    def read(source: _Source, cursors: Places, ends: Places) -> Array:
        branch = source.long(cursors)
        cursors[(branch != 0) & (branch != 1)] = BEYOND
        present = np.flatnonzero(branch == 1 - null_branch)
        if not present.size:
            return pa.nulls(len(cursors), part.type)
        own = cursors[present]
        values = part.read(source, own, ends[present])
        cursors[present] = own
        where = np.zeros(len(cursors), dtype=np.int64)
        where[present] = np.arange(len(present))
        is_null = np.ones(len(cursors), dtype=bool)
        is_null[present] = False
        return values.take(pa.array(where, mask=is_null))

    return _Part(part.type, read)


def _record(parts: Mapping[str, _Part]) -> _Part:
    fields = [pa.field(name, part.type) for name, part in parts.items()]

    def read(source: _Source, cursors: Places, ends: Places) -> Array:
        return pa.StructArray.from_arrays([part.read(source, cursors, ends) for part in parts.values()], fields=fields)

    return _Part(pa.struct(fields), read)


def _list(part: _Part) -> _Part:
    def read(source: _Source, cursors: Places, ends: Places) -> Array:
        offsets, values = _items(part, source, cursors, ends)
        return pa.ListArray.from_arrays(offsets, values)

    return _Part(pa.list_(part.type), read)


def _map(part: _Part) -> _Part:
    entry = _record({"key": _PLAIN["string"], "value": part})

    def read(source: _Source, cursors: Places, ends: Places) -> Array:
        offsets, entries = _items(entry, source, cursors, ends)
        keys = entries.field("key")
        numbers = np.asarray(keys.dictionary_encode().indices, dtype=np.int64)
        rows = np.repeat(np.arange(len(cursors)), np.diff(np.asarray(offsets)))
        _, first = np.unique(rows * (len(keys) + 1) + numbers, return_index=True)
        if len(first) < len(keys):  # The codec makes one entry of two with the same key.
            cursors[np.delete(rows, first)] = BEYOND
        return pa.MapArray.from_arrays(offsets, keys, entries.field("value"))

    return _Part(pa.map_(pa.string(), part.type), read)


def _items(part: _Part, source: _Source, cursors: Places, ends: Places) -> tuple[Array, Array]:
    """Offsets and values of blocks of items: each has its number of items before it, below 0 also its size; 0 ends them."""
    counts = np.zeros(len(cursors), dtype=np.int64)
    found: list[Array] = []
    of: list[Places] = []
    left = np.zeros(len(cursors), dtype=np.int64)
    active = np.arange(len(cursors))
    while active.size:
        own, starting = cursors[active], left[active] == 0
        if starting.any():
            block = own[starting]
            number = source.long(block)
            if (number < 0).any():
                sized = block[number < 0]
                source.long(sized)
                block[number < 0] = sized
                number = np.abs(number)
            too_many = (number < 0) | (number > ITEMS_MAX) | (counts[active[starting]] + number > ITEMS_MAX)
            number[too_many] = 0
            block[too_many] = BEYOND
            own[starting] = block
            left[active[starting]] = number
        cursors[active] = own
        active = active[left[active] > 0]
        if active.size:
            own = cursors[active]
            found.append(part.read(source, own, ends[active]))
            cursors[active] = own
            of.append(active)
            counts[active] += 1
            left[active] -= 1
    offsets = np.zeros(len(cursors) + 1, dtype=np.int32)
    np.cumsum(counts, out=offsets[1:])
    if not found:
        return pa.array(offsets), pa.array([], type=part.type)
    order = np.argsort(np.concatenate(of), kind="stable")  # They were read by their number in the list.
    return pa.array(offsets), pa.concat_arrays(found).take(pa.array(order))

"""Avro's binary form (Avro 1.12, "Binary encoding") to typed values: one reader a node of a schema.

A reader is compiled from the writer's schema and gives the classes of this build: what they do not
know is read and dropped, what the writer did not know has their default, an enum's symbol of
another version is UNKNOWN. That is Avro's schema resolution, as far as our versions may differ.

Input is hostile (RELIABILITY.md, "Avro"). A reader takes the bytes and where to begin, and gives
the value and where it ends. Each element takes at least one byte, and an array or map has at most
ELEMENTS_MAX: memory is bounded by the record's size, and time far below. A text that reaches
beyond the end comes out cut short, and its end is then beyond the end of the bytes: whoever reads
the whole compares that. Raises Unreadable with the field's path, IndexError where the bytes end,
ValueError or OverflowError for what is no text or time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from metaledger.schemas.writing import ELEMENTS_MAX, NUL_FOUND, no_integer

# A node of a schema, as JSON has it.
Raw = Any
Read = Callable[[bytes, int], tuple[Any, int]]
Put = Callable[[object, Any], None]


class Unreadable(Exception):
    """What is wrong, after the path of the field below the value: `.set: a NUL in a string`."""


def compile_reader(node: Raw, classes: Mapping[str, type]) -> Read:  # noqa: PLR0911 (one a case)
    """The reader of a schema node; `classes` holds the dataclass or enum of each named type."""
    match node:
        case ["null", inner]:
            return _optional(compile_reader(inner, classes))
        case {"type": "record"}:
            return compile_fields_reader(node["fields"], classes[node["name"]], classes)
        case {"type": "enum"}:
            return _enum(node["symbols"], cast("type[StrEnum]", classes[node["name"]]))
        case {"type": "array", "items": "string"}:
            return _read_texts
        case {"type": "map", "values": ["null", "string"]}:
            return _read_map
        case {"logicalType": "timestamp-micros"}:
            return _read_time
        case _:
            return _PRIMITIVES[node]


def compile_fields_reader(
    nodes: Sequence[Mapping[str, Any]], cls: type, classes: Mapping[str, type]
) -> Read:
    """The reader of some of a record's fields, which make up one class."""
    known = {field.name: field for field in fields(cls)}
    steps = tuple(
        (
            node["name"],
            compile_reader(node["type"], classes),
            _setter(cls, node["name"]) if node["name"] in known else _drop,
        )
        for node in nodes
    )
    absent = known.keys() - {name for name, _, _ in steps}
    defaults = tuple((_setter(cls, name), _default(known[name])) for name in absent)
    new = object.__new__

    # Slot by slot: the constructor of a frozen dataclass takes a quarter of all decoding.
    def read(data: bytes, at: int) -> tuple[Any, int]:
        made: Any = new(cls)
        name = ""
        try:
            for name, reader, put in steps:  # noqa: B007 (the handler tells it)
                value, at = reader(data, at)
                put(made, value)
        except Unreadable as flaw:
            raise Unreadable(f".{name}{flaw}") from None
        for put, default in defaults:
            put(made, default())
        return made, at

    return read


def _setter(cls: type, name: str) -> Put:
    return cast("Put", getattr(cls, name).__set__)


def _drop(_made: object, _value: object) -> None:
    """What this build does not know."""


def _default(field: Field[Any]) -> Callable[[], Any]:
    """What a field has where the writer did not know it."""
    if field.default_factory is not MISSING:
        return field.default_factory
    if field.default is MISSING:
        raise TypeError(f"{field.name} has no default, and a schema does not have it")
    default = field.default
    return lambda: default


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    length = data[at]
    at += 1
    if length & _NOT_SHORT:
        length, at = _read_length(data, at - 1)
    else:
        length >>= 1
    end = at + length
    text = data[at:end].decode()
    if "\0" in text:
        raise Unreadable(NUL_FOUND)
    return text, end


def _read_texts(data: bytes, at: int) -> tuple[tuple[str, ...], int]:
    texts: list[str] = []
    count, at = _read_count(data, at)
    while count:
        if len(texts) + count > ELEMENTS_MAX:
            raise Unreadable(_TOO_MANY)
        for _ in range(count):
            length = data[at]
            at += 1
            if length & _NOT_SHORT:
                length, at = _read_length(data, at - 1)
            else:
                length >>= 1
            texts.append(data[at : at + length].decode())
            at += length
        count, at = _read_count(data, at)
    # One join and one search are four times as fast as a search in each.
    if "\0" in "".join(texts):
        raise Unreadable(NUL_FOUND)
    return tuple(texts), at


def _map() -> Read:
    """A reader of maps. An event tells the same properties two or three times (`set` and `after`,
    `before` and `after`), so it knows its latest two again by their bytes, which say where they
    end. That spares a fifth of decoding.
    """
    latest: tuple[tuple[bytes, Mapping[str, str | None]], ...] = ()

    def read(data: bytes, at: int) -> tuple[dict[str, str | None], int]:
        nonlocal latest
        if not data[at]:
            return {}, at + 1
        for known, members in latest:
            if data.startswith(known, at):
                return dict(members), at + len(known)
        members, end = _decode_map(data, at)
        latest = ((data[at:end], dict(members)), *latest[:1])
        return members, end

    return read


def _decode_map(data: bytes, at: int) -> tuple[dict[str, str | None], int]:
    members: dict[str, str | None] = {}
    count, at = _read_count(data, at)
    total = count
    while count:
        if total > ELEMENTS_MAX:
            raise Unreadable(_TOO_MANY)
        for _ in range(count):
            # Three in four of a ledger's bytes pass here: no calls for what is short.
            length = data[at]
            at += 1
            if length & _NOT_SHORT:
                length, at = _read_length(data, at - 1)
            else:
                length >>= 1
            end = at + length
            key = data[at:end].decode()
            branch = data[end]
            at = end + 1
            if branch != _SECOND_BRANCH:
                if branch:
                    raise Unreadable(_NO_BRANCH)
                members[key] = None
                continue
            length = data[at]
            at += 1
            if length & _NOT_SHORT:
                length, at = _read_length(data, at - 1)
            else:
                length >>= 1
            end = at + length
            members[key] = data[at:end].decode()
            at = end
        count, at = _read_count(data, at)
        total += count
    _check_map(members, total)
    return members, at


def _check_map(members: Mapping[str, str | None], count: int) -> None:
    if len(members) != count:
        raise Unreadable(": a key twice")
    if "\0" in "".join(members) or "\0" in "".join(filter(None, members.values())):
        raise Unreadable(NUL_FOUND)


def _optional(inner: Read) -> Read:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        branch = data[at]
        if branch == _SECOND_BRANCH:
            return inner(data, at + 1)
        if branch:
            raise Unreadable(_NO_BRANCH)
        return None, at + 1

    return read


def _enum(symbols: Sequence[str], cls: type[StrEnum]) -> Read:
    known = {str(member): member for member in cls}
    members = [known.get(symbol, known["UNKNOWN"]) for symbol in symbols]

    def read(data: bytes, at: int) -> tuple[Any, int]:
        index, at = _read_long(data, at)
        if not 0 <= index < len(members):
            raise Unreadable(": no symbol of the enum")
        return members[index], at

    return read


def _read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise Unreadable(": neither true nor false")
    return data[at] == 1, at + 1


def _read_time(data: bytes, at: int) -> tuple[datetime, int]:
    since, at = _read_long(data, at)
    return _EPOCH + timedelta(microseconds=since), at


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_long(data, at)
    if not -_INT_LIMIT <= value < _INT_LIMIT:
        raise Unreadable(no_integer(32))
    return value, at


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    zigzag = byte & 0x7F
    shift = 7
    while byte & 0x80:
        byte = data[at]
        at += 1
        zigzag |= (byte & 0x7F) << shift
        shift += 7
        if shift > _SHIFT_MAX:
            raise Unreadable(no_integer(64))
    if zigzag >> 64:
        raise Unreadable(no_integer(64))
    return zigzag >> 1 ^ -(zigzag & 1), at


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    length, at = _read_long(data, at)
    if length < 0:
        raise Unreadable(": a text of negative length")
    return length, at


def _read_count(data: bytes, at: int) -> tuple[int, int]:
    """How many elements the next block has; before a negative number stands its size."""
    count = data[at]
    if not count & _NOT_SHORT:
        return count >> 1, at + 1
    count, at = _read_long(data, at)
    if count < 0:
        _, at = _read_long(data, at)
    return abs(count), at


# Of a length's first byte: it goes on, or is negative.
_NOT_SHORT = 0x81
# The index 1 of a union's branch, in zigzag.
_SECOND_BRANCH = 2
_TOO_MANY = f": more than {ELEMENTS_MAX} elements"
_NO_BRANCH = ": no branch of the union"
_INT_LIMIT = 1 << 31
# Ten bytes hold 64 bits.
_SHIFT_MAX = 70
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_read_map = _map()
_PRIMITIVES: dict[str, Read] = {
    "string": _read_text,
    "boolean": _read_boolean,
    "int": _read_int,
    "long": _read_long,
}

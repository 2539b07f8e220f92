"""Raw data to typed values, and these to bytes: one compiled shape a node of the newest schemas.

fastavro trusts what it is given: it drops unknown fields, truncates 3.9 to a long and validates at
eight times the cost of a write. So raw data is parsed here, strictly and once, into the typed
classes; what is typed is then written with no other look at it than for what no store could hold.
A shape is compiled from its schema at import, and has two directions:

- `parse(raw)`: JSON-like raw data to the typed value; InvalidEvent names the path below the value.
- `write(value)`: the typed value to its bytes; Unwritable names the field (`writing`).

The way back from bytes is `reading`.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, cast

from metaledger.schemas.errors import InvalidEvent
from metaledger.schemas.times import parse_time, shown
from metaledger.schemas.writing import (
    ELEMENTS_MAX,
    Write,
    enum_writer,
    integer_writer,
    optional_writer,
    record_writer,
    write_boolean,
    write_map,
    write_text,
    write_texts,
    write_time,
)

# What nobody has looked at yet: JSON, Avro's plain records, schema nodes.
Raw = Any
Parse = Callable[[Raw], Raw]


@dataclass(frozen=True, slots=True)
class Shape:
    """A compiled node."""

    parse: Parse
    write: Write


@dataclass(frozen=True, slots=True)
class RepeatedKey:
    """Stands for a JSON object that has a key twice, until the parse that knows its path."""

    name: str


def classes_of(roots: typing.Iterable[type]) -> dict[str, type]:
    """The dataclasses and enums that the roots are made of, by name; names are unique."""
    found: dict[str, type] = {}
    waiting: list[Raw] = list(roots)
    while waiting:
        hint = waiting.pop()
        if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, StrEnum)):
            found[hint.__name__] = hint
            if is_dataclass(hint):
                names = {field.name for field in fields(hint)}
                hints = typing.get_type_hints(hint)
                waiting += [hints[name] for name in names if hints[name] not in found.values()]
        waiting += typing.get_args(hint)
    return found


def compile_shape(node: Raw, classes: Mapping[str, type]) -> Shape:  # noqa: PLR0911 (one a case)
    """The shape of a schema node; `classes` holds the dataclass or enum of each named type."""
    match node:
        case list():
            return _optional(compile_shape(node[1], classes))
        case {"type": "record"}:
            return _record(node, classes)
        case {"type": "enum"}:
            return _enum(cast("type[StrEnum]", classes[node["name"]]), node["symbols"])
        case {"type": "array", "items": "string"}:
            return _TEXTS
        case {"type": "map", "values": ["null", "string"]}:
            return _MAP
        case {"logicalType": "timestamp-micros"}:
            return _TIME
        case _:
            return _PRIMITIVES[node]


def compile_fields(
    nodes: typing.Sequence[Mapping[str, Raw]], cls: type, classes: Mapping[str, type]
) -> Shape:
    """The shape of some of a record's fields, which are all of a class's."""
    shapes = {node["name"]: compile_shape(node["type"], classes) for node in nodes}
    required = frozenset(node["name"] for node in nodes if "default" not in node)
    parse_members = members_parser({name: shape.parse for name, shape in shapes.items()})

    def parse(raw: Raw) -> Raw:
        given = parse_members(raw)
        if not required <= given.keys():
            missing = next(name for name in shapes if name in required and name not in given)
            raise InvalidEvent(f".{missing}", expected="a value", got="nothing")
        return cls(**given)

    return Shape(parse, record_writer({name: shape.write for name, shape in shapes.items()}))


def members_parser(parsers: Mapping[str, Parse]) -> Callable[[Raw], dict[str, Raw]]:
    """Parses those of a record's fields that are given. Raises InvalidEvent for any other."""
    known = parsers.keys()

    def parse(raw: Raw) -> dict[str, Raw]:
        members = as_object(raw)
        if not members.keys() <= known:
            unknown = next(name for name in members if name not in known)
            expected = "one of " + ", ".join(known)
            raise InvalidEvent("", expected=expected, got=f"field {shown(unknown)}")
        given = {}
        name = ""
        try:
            for name, value in members.items():
                given[name] = parsers[name](value)
        except InvalidEvent as error:
            raise error.within(f".{name}") from error.__cause__
        return given

    return parse


def _record(node: Mapping[str, Raw], classes: Mapping[str, type]) -> Shape:
    return compile_fields(node["fields"], classes[node["name"]], classes)


def _optional(inner: Shape) -> Shape:
    parse_inner = inner.parse

    def parse(raw: Raw) -> Raw:
        return None if raw is None else parse_inner(raw)

    return Shape(parse, optional_writer(inner.write))


def _enum(cls: type[StrEnum], symbols: typing.Sequence[str]) -> Shape:
    # UNKNOWN is what an old reader makes of a symbol of tomorrow; nobody may say it, except where
    # it is an answer of its own.
    says_unknown = getattr(cls, "SAYS_UNKNOWN", False)
    speakable = {str(member): member for member in cls if says_unknown or str(member) != "UNKNOWN"}

    def parse(raw: Raw) -> Raw:
        if not isinstance(raw, str) or raw not in speakable:
            raise InvalidEvent("", expected="one of " + ", ".join(speakable), got=shown(raw))
        return speakable[raw]

    return Shape(parse, enum_writer(symbols))


def _parse_texts(raw: Raw) -> tuple[str, ...]:
    if not isinstance(raw, list):
        raise InvalidEvent("", expected="an array", got=shown(raw))
    _check_count(len(raw))
    if not _are_plain(raw):
        for index, item in enumerate(raw):
            _parse_at(f"[{index}]", item)
    return tuple(raw)


def _parse_map(raw: Raw) -> dict[str, str | None]:
    members = as_object(raw)
    _check_count(len(members))
    # Only null is no text: false, 0 and [] are as empty as it.
    values = [item for item in members.values() if item is not None]
    if not (_are_plain(members) and _are_plain(values)):
        for key, item in members.items():
            _parse_at(", the key", key)
            if item is not None:
                _parse_at(f"[{shown(key)}]", item)
    return dict(members)


def _check_count(count: int) -> None:
    if count > ELEMENTS_MAX:
        raise InvalidEvent("", expected=f"at most {ELEMENTS_MAX} elements", got=str(count))


def _parse_at(path: str, raw: Raw) -> None:
    try:
        _parse_string(raw)
    except InvalidEvent as error:
        raise error.within(path) from None


def _are_plain(items: typing.Iterable[Raw]) -> bool:
    """Whether all are texts that certainly pass: one join and two searches, no look at each."""
    try:
        joined = "".join(items)
    except TypeError:
        return False
    return joined.isascii() and "\0" not in joined


def as_object(raw: Raw) -> dict[str, Raw]:
    """The members of a JSON object. Raises InvalidEvent."""
    if isinstance(raw, RepeatedKey):
        raise InvalidEvent("", expected="each key once", got=f"{shown(raw.name)} twice")
    if not isinstance(raw, dict):
        raise InvalidEvent("", expected="an object", got=shown(raw))
    return raw


def _parse_string(raw: Raw) -> str:
    if not isinstance(raw, str):
        raise InvalidEvent("", expected="a string", got=shown(raw))
    if "\0" in raw:
        raise InvalidEvent("", expected="a string without NUL (PostgreSQL)", got=shown(raw))
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:
            expected = "a string without lone surrogates"
            raise InvalidEvent("", expected=expected, got=shown(raw)) from None
    return raw


def _parse_bool(raw: Raw) -> bool:
    if not isinstance(raw, bool):
        raise InvalidEvent("", expected="true or false", got=shown(raw))
    return raw


def _integer(bits: int) -> Shape:
    limit = 1 << (bits - 1)

    def parse(raw: Raw) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool) or not -limit <= raw < limit:
            raise InvalidEvent("", expected=f"an integer of {bits} bits", got=shown(raw))
        return raw

    return Shape(parse, integer_writer(bits))


def _parse_time(raw: Raw) -> Raw:
    return parse_time(_parse_string(raw), "")


_TEXTS = Shape(_parse_texts, write_texts)
_MAP = Shape(_parse_map, write_map)
_TIME = Shape(_parse_time, write_time)
_PRIMITIVES: dict[str, Shape] = {
    "string": Shape(_parse_string, write_text),
    "boolean": Shape(_parse_bool, write_boolean),
    "int": _integer(32),
    "long": _integer(64),
}

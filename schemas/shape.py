"""Between raw data, typed values and Avro's plain records: one compiled shape a schema node.

fastavro trusts what it is given: it drops unknown fields, truncates 3.9 to a long and validates at
eight times the cost of a write. So raw data is parsed here, strictly and once, into the typed
classes; what is typed is then written without looking again. A shape is compiled from the schema at
import, and has three directions:

- `parse(raw, path)`: JSON-like raw data to the typed value; InvalidEvent names the field's path.
- `dump(value)`: the typed value to what fastavro writes.
- `load(datum)`: what fastavro has read to the typed value.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, cast

from metaledger.schemas.errors import InvalidEvent
from metaledger.schemas.times import parse_time, shown

# What nobody has looked at yet: JSON, Avro's plain records, schema nodes.
Raw = Any
Parse = Callable[[Raw, str], Raw]
Convert = Callable[[Raw], Raw]


@dataclass(frozen=True, slots=True)
class Shape:
    """A compiled node. `dump` and `load` are None where the value passes as it is."""

    parse: Parse
    dump: Convert | None = None
    load: Convert | None = None


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
            return _enum(cast("type[StrEnum]", classes[node["name"]]))
        case {"type": "array"}:
            return _array(compile_shape(node["items"], classes))
        case {"type": "map"}:
            return _map(compile_shape(node["values"], classes))
        case {"logicalType": "timestamp-micros"}:
            return Shape(_parse_time)
        case _:
            return Shape(_PRIMITIVES[node])


def compile_fields(
    nodes: typing.Sequence[Mapping[str, Raw]], cls: type, classes: Mapping[str, type]
) -> Shape:
    """The shape of some of a record's fields, which are all of a class's."""
    shapes = {node["name"]: compile_shape(node["type"], classes) for node in nodes}
    optional = {node["name"] for node in nodes if "default" in node}
    names = tuple(shapes)

    def parse(raw: Raw, path: str) -> Raw:
        members = _object(raw, path)
        for name in members:
            if name not in shapes:
                expected = "one of " + ", ".join(names)
                raise InvalidEvent(path, expected=expected, got=f"field {shown(name)}")
        given = {}
        for name, shape in shapes.items():
            if name in members:
                given[name] = shape.parse(members[name], f"{path}.{name}")
            elif name not in optional:
                raise InvalidEvent(f"{path}.{name}", expected="a value", got="nothing")
        return cls(**given)

    return Shape(parse, *_converters(cls, shapes))


def _converters(cls: type, shapes: Mapping[str, Shape]) -> tuple[Convert, Convert]:
    """`dump` and `load` of a record; the two that the speed of the whole ledger hangs on."""
    names = tuple(shapes)
    dumps = [(name, shape.dump) for name, shape in shapes.items() if shape.dump]
    loads = [(name, shape.load) for name, shape in shapes.items() if shape.load]
    values_of = attrgetter(*names) if len(names) > 1 else None

    def dump(value: Raw) -> dict[str, Raw]:
        members = values_of(value) if values_of else (getattr(value, names[0]),)
        datum = dict(zip(names, members, strict=True))
        for name, convert in dumps:
            datum[name] = convert(datum[name])
        return datum

    def load(datum: dict[str, Raw]) -> Raw:
        for name, convert in loads:
            datum[name] = convert(datum[name])
        return cls(**datum)

    return dump, load


def _record(node: Mapping[str, Raw], classes: Mapping[str, type]) -> Shape:
    return compile_fields(node["fields"], classes[node["name"]], classes)


def _optional(inner: Shape) -> Shape:
    def lift(convert: Convert | None) -> Convert | None:
        return convert and (lambda value: None if value is None else convert(value))

    def parse(raw: Raw, path: str) -> Raw:
        return None if raw is None else inner.parse(raw, path)

    return Shape(parse, lift(inner.dump), lift(inner.load))


def _enum(cls: type[StrEnum]) -> Shape:
    # UNKNOWN is what an old reader makes of a symbol of tomorrow; nobody may say it.
    by_symbol = {str(member): member for member in cls}
    speakable = {symbol: member for symbol, member in by_symbol.items() if symbol != "UNKNOWN"}

    def parse(raw: Raw, path: str) -> Raw:
        if not isinstance(raw, str) or raw not in speakable:
            raise InvalidEvent(path, expected="one of " + ", ".join(speakable), got=shown(raw))
        return speakable[raw]

    return Shape(parse, load=by_symbol.__getitem__)


def _array(inner: Shape) -> Shape:
    def parse(raw: Raw, path: str) -> Raw:
        if not isinstance(raw, list):
            raise InvalidEvent(path, expected="an array", got=shown(raw))
        return tuple(inner.parse(item, f"{path}[{index}]") for index, item in enumerate(raw))

    # A tuple in a union is a (type name, value) pair to fastavro: sequences are written as lists.
    return Shape(parse, dump=list, load=tuple)


def _map(inner: Shape) -> Shape:
    def parse(raw: Raw, path: str) -> Raw:
        members = _object(raw, path)
        return {
            _parse_string(key, f"{path}, the key"): inner.parse(item, f"{path}[{shown(key)}]")
            for key, item in members.items()
        }

    return Shape(parse)


def _object(raw: Raw, path: str) -> dict[str, Raw]:
    if not isinstance(raw, dict):
        raise InvalidEvent(path, expected="an object", got=shown(raw))
    return raw


def _parse_string(raw: Raw, path: str) -> str:
    if not isinstance(raw, str):
        raise InvalidEvent(path, expected="a string", got=shown(raw))
    if "\0" in raw:
        raise InvalidEvent(path, expected="a string without NUL (PostgreSQL)", got=shown(raw))
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:
            expected = "a string without lone surrogates"
            raise InvalidEvent(path, expected=expected, got=shown(raw)) from None
    return raw


def _parse_bool(raw: Raw, path: str) -> bool:
    if not isinstance(raw, bool):
        raise InvalidEvent(path, expected="true or false", got=shown(raw))
    return raw


def _parse_integer(bits: int) -> Parse:
    limit = 1 << (bits - 1)

    def parse(raw: Raw, path: str) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool) or not -limit <= raw < limit:
            raise InvalidEvent(path, expected=f"an integer of {bits} bits", got=shown(raw))
        return raw

    return parse


def _parse_time(raw: Raw, path: str) -> Raw:
    return parse_time(_parse_string(raw, path), path)


_PRIMITIVES: dict[str, Parse] = {
    "string": _parse_string,
    "boolean": _parse_bool,
    "int": _parse_integer(32),
    "long": _parse_integer(64),
}

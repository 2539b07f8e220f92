"""Between raw data, typed values and Avro's plain records: one compiled shape a schema node.

fastavro trusts what it is given: it drops unknown fields, truncates 3.9 to a long and validates at
eight times the cost of a write. So raw data is parsed here, strictly and once, into the typed
classes; what is typed is then written without looking again. A shape is compiled from the schema at
import, and has three directions and a guard:

- `parse(raw, path)`: JSON-like raw data to the typed value; InvalidEvent names the field's path.
- `dump(value)`: the typed value to what fastavro writes.
- `load(datum)`: what fastavro has read to the typed value.
- `flaw(datum)`: what fastavro would write or has read without a word although no store can hold it
  or it means something else: a NUL, an integer of too many bits, a float, a naive time.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, cast

from metaledger.schemas.errors import InvalidEvent
from metaledger.schemas.times import parse_time, shown

# What nobody has looked at yet: JSON, Avro's plain records, schema nodes.
Raw = Any
Parse = Callable[[Raw, str], Raw]
Convert = Callable[[Raw], Raw]
# The path below the value and what is wrong there, as one text; None: nothing.
FindFlaw = Callable[[Raw], str | None]


@dataclass(frozen=True, slots=True)
class Shape:
    """A compiled node. `dump` and `load` are None where the value passes as it is, `flaw` where
    nothing can be wrong with it.
    """

    parse: Parse
    dump: Convert | None = None
    load: Convert | None = None
    flaw: FindFlaw | None = None


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
            return _enum(cast("type[StrEnum]", classes[node["name"]]))
        # Of texts alone, which is all that the contract has: `flaw` searches them joined.
        case {"type": "array", "items": "string"}:
            return _array(_PRIMITIVES["string"])
        case {"type": "map", "values": ["null", "string"] | "string" as values}:
            return _map(compile_shape(values, classes))
        case {"logicalType": "timestamp-micros"}:
            return Shape(_parse_time, flaw=_naive_time)
        case _:
            return _PRIMITIVES[node]


def compile_fields(
    nodes: typing.Sequence[Mapping[str, Raw]], cls: type, classes: Mapping[str, type]
) -> Shape:
    """The shape of some of a record's fields, which are all of a class's."""
    shapes = {node["name"]: compile_shape(node["type"], classes) for node in nodes}
    optional = {node["name"] for node in nodes if "default" in node}
    names = tuple(shapes)

    def parse(raw: Raw, path: str) -> Raw:
        members = as_object(raw, path)
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

    return Shape(parse, *_converters(cls, shapes), _flaw_of_fields(shapes))


def _flaw_of_fields(shapes: Mapping[str, Shape]) -> FindFlaw:
    texts = [name for name, shape in shapes.items() if shape.flaw is _nul]
    others = [
        (name, shape.flaw)
        for name, shape in shapes.items()
        if shape.flaw is not None and shape.flaw is not _nul
    ]

    def flaw(datum: dict[str, Raw]) -> str | None:
        if _nul_in_any(filter(None, map(datum.__getitem__, texts))):
            name = next(name for name in texts if _nul(datum[name]))
            return f".{name}{_NUL_FOUND}"
        for name, find in others:
            found = find(datum[name])
            if found is not None:
                return f".{name}{found}"
        return None

    return flaw


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

    flaw = _nul if inner.flaw is _nul else lift(inner.flaw)
    return Shape(parse, lift(inner.dump), lift(inner.load), flaw)


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
    return Shape(parse, dump=list, load=tuple, flaw=_nul_in_any)


def _map(inner: Shape) -> Shape:
    def parse(raw: Raw, path: str) -> Raw:
        members = as_object(raw, path)
        return {
            _parse_string(key, f"{path}, the key"): inner.parse(item, f"{path}[{shown(key)}]")
            for key, item in members.items()
        }

    def flaw(datum: dict[str, str | None]) -> str | None:
        return _nul_in_any(datum) or _nul_in_any(filter(None, datum.values()))

    return Shape(parse, flaw=flaw)


def as_object(raw: Raw, path: str) -> dict[str, Raw]:
    """The members of a JSON object. Raises InvalidEvent."""
    if isinstance(raw, RepeatedKey):
        raise InvalidEvent(path, expected="each key once", got=f"{shown(raw.name)} twice")
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


def _integer(bits: int) -> Shape:
    limit = 1 << (bits - 1)

    def parse(raw: Raw, path: str) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool) or not -limit <= raw < limit:
            raise InvalidEvent(path, expected=f"an integer of {bits} bits", got=shown(raw))
        return raw

    def flaw(datum: Raw) -> str | None:
        if isinstance(datum, int) and -limit <= datum < limit:
            return None
        return f": no integer of {bits} bits"

    return Shape(parse, flaw=flaw)


def _parse_time(raw: Raw, path: str) -> Raw:
    return parse_time(_parse_string(raw, path), path)


def _naive_time(datum: datetime) -> str | None:
    return ": a time without an offset" if datum.tzinfo is None else None


def _nul(datum: str | None) -> str | None:
    return _NUL_FOUND if datum and "\0" in datum else None


def _nul_in_any(texts: typing.Iterable[str]) -> str | None:
    # One join and one search are four times as fast as a search in each.
    return _NUL_FOUND if "\0" in "".join(texts) else None


_NUL_FOUND = ": a NUL in a string"
_PRIMITIVES: dict[str, Shape] = {
    "string": Shape(_parse_string, flaw=_nul),
    "boolean": Shape(_parse_bool),
    "int": _integer(32),
    "long": _integer(64),
}

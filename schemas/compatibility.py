"""Whether all versions of an event type understand each other, both ways (FULL_TRANSITIVE). Pure.

A log is kept for ever: today's build reads the first event, and a build of yesterday still runs
somewhere and reads today's. Three changes are allowed, and everything else is a breach: a field
that is new and has a default, an enum symbol that is new, another `doc`.

This is stricter than Avro's FULL_TRANSITIVE, which lets meaning go in silence: it reads a symbol
that was removed as UNKNOWN, drops what stands in a field that was removed, reads microseconds as
milliseconds, bytes as text, and gives what was never recorded another default.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from metaledger.schemas.catalogue import SCHEMAS, Schema

Node = Any


def incompatibilities(schemas: Sequence[Schema] = SCHEMAS) -> list[str]:
    """One line a breach: the type, its two versions, the field and what is wrong; empty: none."""
    found: list[str] = []
    for older, newer in combinations(schemas, 2):
        if older.type != newer.type:
            continue
        versions = f"{newer.type} v{older.version} and v{newer.version}"
        if older.fingerprint == newer.fingerprint:
            found.append(f"{versions}: have one fingerprint, and cannot be told apart in a record")
        found += [f"{versions}: {breach}" for breach in breaches(older.source, newer.source)]
    return found


def breaches(older: Node, newer: Node, path: str = "") -> Iterator[str]:
    """What keeps two versions of a schema node from understanding each other, as `path: what`."""
    match older, newer:
        case {"type": "record", "fields": before}, {"type": "record", "fields": now}:
            yield from _name(older, newer, path)
            yield from _fields(before, now, path)
        case {"type": "enum"}, {"type": "enum"}:
            yield from _name(older, newer, path)
            yield from _symbols(older, newer, path)
        case {"type": "array", "items": before}, {"type": "array", "items": now}:
            yield from breaches(before, now, f"{path}[]")
        case {"type": "map", "values": before}, {"type": "map", "values": now}:
            yield from breaches(before, now, f"{path}[]")
        case list(), list() if len(older) == len(newer):
            for before, now in zip(older, newer, strict=True):
                yield from breaches(before, now, path)
        case _ if older != newer:
            yield f"{path}: {_named(older)} became {_named(newer)}"


def _name(older: Mapping[str, Node], newer: Mapping[str, Node], path: str) -> Iterator[str]:
    before, now = (f"{node.get('namespace', '')}.{node['name']}" for node in (older, newer))
    if before != now:
        yield f"{path or 'the event'}: {before} became {now}"


def _fields(
    older: Sequence[Mapping[str, Node]], newer: Sequence[Mapping[str, Node]], path: str
) -> Iterator[str]:
    before = {field["name"]: field for field in older}
    now = {field["name"]: field for field in newer}
    for name in {**before, **now}:
        at = f"{path}.{name}" if path else name
        if name not in now:
            yield f"{at}: is gone, and with it what was recorded"
        elif name not in before:
            if "default" not in now[name]:
                yield f"{at}: is new and has no default, which older events need"
        else:
            yield from breaches(before[name]["type"], now[name]["type"], at)
            if "default" in before[name] and not _same_default(before[name], now[name]):
                yield f"{at}: has another default, or none"


def _same_default(older: Mapping[str, Node], newer: Mapping[str, Node]) -> bool:
    return "default" in newer and bool(older["default"] == newer["default"])


def _symbols(older: Mapping[str, Node], newer: Mapping[str, Node], path: str) -> Iterator[str]:
    for symbol in older["symbols"]:
        if symbol not in newer["symbols"]:
            yield f"{path}: the symbol {symbol} is gone"
    if older.get("default") != newer.get("default") or "default" not in older:
        yield f"{path}: the enum's default has to be there and stay"


def _named(node: Node) -> str:
    match node:
        case str():
            return node
        case list():
            return "a union of " + ", ".join(map(_named, node))
        case {"logicalType": logical}:
            return str(logical)
        case _:
            return str(node["type"])

"""Every schema that this build knows: all shipped versions of all event types.

Schemas come from the files beside this module (`avro/<aggregate>/<EventType>.v<N>.avsc`) and never
from the data. A released file is never edited: a change is a new version. `SCHEMAS` is the whole
catalogue, `BY_FINGERPRINT` finds a writer's schema, `latest` is what this build writes.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one event type. `fingerprint` is its CRC-64-AVRO in the order of the wire."""

    type: str
    version: int
    source: dict[str, Any]
    parsed: Any
    fingerprint: bytes

    @property
    def subject(self) -> str:
        """Its subject in a schema registry: the record's full name (RecordNameStrategy)."""
        return f"{self.source['namespace']}.{self.type}"


def _load(name: str, text: str) -> Schema:
    event_type, version, _ = name.split(".")
    source = json.loads(text)
    crc = fingerprint(to_parsing_canonical_form(source), "CRC-64-AVRO")
    # fastavro prints the bytes in the order of the wire already (little-endian, Avro specification,
    # "Single object encoding"); a golden test pins it.
    return Schema(
        type=event_type,
        version=int(version.removeprefix("v")),
        source=source,
        parsed=parse_schema(source),
        fingerprint=bytes.fromhex(crc),
    )


def _load_all() -> tuple[Schema, ...]:
    folders = (entry for entry in files("metaledger.schemas").joinpath("avro").iterdir())
    found = [
        _load(entry.name, entry.read_text(encoding="utf-8"))
        for folder in folders
        if folder.is_dir()
        for entry in folder.iterdir()
        if entry.name.endswith(".avsc")
    ]
    return tuple(sorted(found, key=lambda schema: (schema.type, schema.version)))


SCHEMAS = _load_all()
BY_FINGERPRINT = {schema.fingerprint: schema for schema in SCHEMAS}


@cache
def latest(event_type: str) -> Schema:
    """The newest version of an event type: what this build writes. Raises KeyError."""
    versions = [schema for schema in SCHEMAS if schema.type == event_type]
    if not versions:
        raise KeyError(event_type)
    return versions[-1]

"""The few bytes before a record's payload that name its writer's schema.

Avro single-object encoding (Avro 1.12, "Single object encoding": C3 01 and the CRC-64-AVRO
fingerprint) is the default. The Confluent wire format (00 and the registry's id, four bytes, big
endian) is written where a schema registry is configured. Both are read, whichever is configured. An
id or fingerprint only ever selects one of the schemas of `catalogue`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metaledger.schemas.catalogue import BY_FINGERPRINT, SCHEMAS, Schema
from metaledger.schemas.errors import MalformedRecord, UnknownSchema, UsageError
from metaledger.schemas.times import shown

SINGLE_OBJECT_MAGIC = b"\xc3\x01"
CONFLUENT_MAGIC = b"\x00"
_SINGLE_OBJECT_BYTES = 10
_CONFLUENT_BYTES = 5


# An id is an int of Java, and 0 is none that a registry gives.
SCHEMA_ID_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SchemaIds:
    """Which id a registry gave to each schema; `metaledger schema register` makes it.

    Hooks read it from a file, since they open no socket in a service's thread. Raises UsageError
    for what no registry would say: an id out of its range, or one id for two schemas.
    """

    by_fingerprint: Mapping[bytes, int] = field(default_factory=dict)
    _schemas: Mapping[int, Schema] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for schema_id in self.by_fingerprint.values():
            if type(schema_id) is not int or not 0 < schema_id <= SCHEMA_ID_MAX:
                raise UsageError(f"{shown(schema_id)} is no id of a schema registry")
        schemas = {
            schema_id: BY_FINGERPRINT[fingerprint]
            for fingerprint, schema_id in self.by_fingerprint.items()
        }
        if len(schemas) < len(self.by_fingerprint):
            raise UsageError("two schemas have the same id of the schema registry")
        object.__setattr__(self, "_schemas", schemas)

    def schema(self, schema_id: int) -> Schema:
        """The schema of an id. Raises UnknownSchema."""
        schema = self._schemas.get(schema_id)
        if schema is None:
            raise UnknownSchema(
                f"the record names schema id {schema_id} of a registry that this build has no "
                "schema for: configure the registry, or upgrade Metaledger"
            )
        return schema

    def to_json(self) -> str:
        """The form of the file: `{"<EventType>.v<N>": id}`, one line a schema."""
        named = {
            f"{schema.type}.v{schema.version}": self.by_fingerprint[schema.fingerprint]
            for schema in SCHEMAS
            if schema.fingerprint in self.by_fingerprint
        }
        return json.dumps(named, indent=1) + "\n"


def read_schema_ids(path: Path) -> SchemaIds:
    """Reads the file that `metaledger schema register` wrote. Raises UsageError."""
    try:
        # `items` of what is no object is an AttributeError.
        named = dict(json.loads(path.read_text(encoding="utf-8")).items())
        ids = {
            schema.fingerprint: named[f"{schema.type}.v{schema.version}"]
            for schema in SCHEMAS
            if f"{schema.type}.v{schema.version}" in named
        }
        return SchemaIds(ids)
    except (OSError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise UsageError(
            f"{path}: not a file of schema ids; write it with `metaledger schema register`"
        ) from error


_NO_IDS = SchemaIds()


def header(schema: Schema, ids: SchemaIds | None) -> bytes:
    """The frame of a record written with the schema; Confluent where `ids` is given."""
    if ids is None:
        return SINGLE_OBJECT_MAGIC + schema.fingerprint
    schema_id = ids.by_fingerprint.get(schema.fingerprint)
    if schema_id is None:
        raise UsageError(
            f"schema {schema.type} v{schema.version} has no id of the registry: run "
            "`metaledger schema register` with this version of Metaledger"
        )
    return CONFLUENT_MAGIC + schema_id.to_bytes(4, "big")


def unframe(value: bytes, ids: SchemaIds | None) -> tuple[Schema, int]:
    """The writer's schema and where the payload starts. Raises MalformedRecord, UnknownSchema."""
    if value.startswith(SINGLE_OBJECT_MAGIC) and len(value) >= _SINGLE_OBJECT_BYTES:
        fingerprint = value[2:_SINGLE_OBJECT_BYTES]
        schema = BY_FINGERPRINT.get(fingerprint)
        if schema is None:
            raise UnknownSchema(
                f"the record names schema {fingerprint.hex()}, which this build does not know: "
                "upgrade Metaledger"
            )
        return schema, _SINGLE_OBJECT_BYTES
    if value.startswith(CONFLUENT_MAGIC) and len(value) >= _CONFLUENT_BYTES:
        schema_id = int.from_bytes(value[1:_CONFLUENT_BYTES], "big")
        return (ids or _NO_IDS).schema(schema_id), _CONFLUENT_BYTES
    raise MalformedRecord(
        "the record starts with no known frame (C3 01, or 00 and a registry's id)"
    )

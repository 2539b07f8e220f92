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

SINGLE_OBJECT_MAGIC = b"\xc3\x01"
CONFLUENT_MAGIC = b"\x00"
_SINGLE_OBJECT_BYTES = 10
_CONFLUENT_BYTES = 5


@dataclass(frozen=True, slots=True)
class SchemaIds:
    """Which id a registry gave to each schema; `metaledger schema register` makes it.

    Hooks read it from a file, since they open no socket in a service's thread.
    """

    by_fingerprint: Mapping[bytes, int] = field(default_factory=dict)

    def schema(self, schema_id: int) -> Schema:
        """The schema of an id. Raises UnknownSchema."""
        for fingerprint, known_id in self.by_fingerprint.items():
            if known_id == schema_id:
                return BY_FINGERPRINT[fingerprint]
        raise UnknownSchema(
            f"the record names schema id {schema_id} of a registry that this build has no schema "
            "for: configure the registry, or upgrade Metaledger"
        )

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
        named = json.loads(path.read_text(encoding="utf-8"))
        ids = {
            schema.fingerprint: int(named[f"{schema.type}.v{schema.version}"])
            for schema in SCHEMAS
            if f"{schema.type}.v{schema.version}" in named
        }
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path}: not a file of schema ids; write it with `metaledger schema register`"
        ) from error
    return SchemaIds(ids)


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
        return (ids or SchemaIds()).schema(schema_id), _CONFLUENT_BYTES
    raise MalformedRecord(
        "the record starts with no known frame (C3 01, or 00 and a registry's id)"
    )

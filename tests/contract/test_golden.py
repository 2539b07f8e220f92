"""What was released stays as it was: schemas to the byte, and their samples readable for ever.

`golden/<Type>.v<N>.json` is a sample in the JSON form, `.bin` the same event as it was written
then; `golden/SHA256SUMS` holds what all of them and the `.avsc` files were at their release.
"""

import hashlib
from dataclasses import is_dataclass
from typing import Any

import pytest

from metaledger.schemas.catalogue import SCHEMAS, Schema, latest
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import EVENT_BY_TYPE
from metaledger.schemas.framing import SchemaIds

from .golden.write import GOLDEN, ROOT, guarded, released, sample

IDS = SchemaIds({schema.fingerprint: 100 + n for n, schema in enumerate(SCHEMAS)})
ALL = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: f"{each.type}.v{each.version}")


def golden(schema: Schema, suffix: str) -> Any:
    return GOLDEN / f"{schema.type}.v{schema.version}{suffix}"


def confluent(value: bytes, schema: Schema) -> bytes:
    return b"\0" + IDS.by_fingerprint[schema.fingerprint].to_bytes(4, "big") + value[10:]


@ALL
def test_golden_bytes_decode_for_ever(schema: Schema) -> None:
    value = golden(schema, ".bin").read_bytes()
    told = sample(golden(schema, ".json"))
    codec = Codec(ids=IDS)
    for framed in (value, confluent(value, schema)):
        assert codec.decode(framed, hashlib.sha256(framed).digest()) == told


@pytest.mark.parametrize("event_type", EVENT_BY_TYPE)
def test_todays_encoder_writes_the_golden_bytes(event_type: str) -> None:
    schema = latest(event_type)
    value = golden(schema, ".bin").read_bytes()
    told = sample(golden(schema, ".json"))
    assert Codec().encode(told).value == value
    assert Codec(ids=IDS).encode(told).value == confluent(value, schema)


@ALL
def test_a_sample_fills_every_field(schema: Schema) -> None:
    told = sample(golden(schema, ".json"))
    meta, *data = schema.source["fields"]
    assert not unfilled_fields(told.meta, meta["type"]["fields"])
    assert not unfilled_fields(told.data, data)


def unfilled_fields(value: Any, nodes: Any) -> list[str]:
    """Those of the schema, which may be older than the class."""
    found = []
    for node in nodes:
        member = getattr(value, node["name"])
        if member is None or member in ((), {}):
            found.append(node["name"])
        elif is_dataclass(member):
            kind = node["type"]
            record = kind[-1] if isinstance(kind, list) else kind
            found += unfilled_fields(member, record["fields"])
    return found


def test_every_shipped_schema_has_its_golden_sample_and_no_sample_stands_alone() -> None:
    expected = {f"{schema.type}.v{schema.version}" for schema in SCHEMAS}
    for suffix in (".json", ".bin"):
        assert {path.name.removesuffix(suffix) for path in GOLDEN.glob("*" + suffix)} == expected


def test_nothing_that_was_released_was_edited_or_taken_away() -> None:
    now = {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in guarded()
    }
    assert now == released()

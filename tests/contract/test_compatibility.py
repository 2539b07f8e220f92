"""A shipped schema stays FULL_TRANSITIVE compatible for ever, and a breach is named."""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import avro.compatibility
import avro.schema
import pytest
from avro.errors import SchemaParseException
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from metaledger.schemas.catalogue import SCHEMAS, Schema, latest
from metaledger.schemas.codec import Codec
from metaledger.schemas.compatibility import breaches, incompatibilities
from metaledger.schemas.events import EVENTS
from metaledger.schemas.image import ImageUpdated, Mode
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.meta import Meta
from metaledger.schemas.reading import compile_fields_reader
from metaledger.schemas.shape import classes_of

from .samples import UPDATED

UPDATED_V1 = latest("ImageUpdated")
Change = Callable[[Any], None]


def next_version(change: Change, of: Schema = UPDATED_V1) -> Schema:
    """A made-up next version."""
    source = copy.deepcopy(of.source)
    change(source)
    return replace(of, version=of.version + 1, source=source, fingerprint=bytes([of.version] * 8))


def field(source: Any, name: str) -> Any:
    """A field by its path."""
    outer, _, rest = name.partition(".")
    found = next(each for each in source["fields"] if each["name"] == outer)
    return field(found["type"], rest) if rest else found


def retype(name: str, kind: Any) -> Change:
    return lambda source: field(source, name).update(type=kind)


def drop(name: str) -> Change:
    outer, _, last = name.rpartition(".")

    def change(source: Any) -> None:
        record = field(source, outer)["type"] if outer else source
        record["fields"] = [each for each in record["fields"] if each["name"] != last]

    return change


def add(**node: Any) -> Change:
    return lambda source: source["fields"].append(node)


def mode(**members: Any) -> Change:
    return lambda source: field(source, "change.mode")["type"].update(members)


def default(name: str, value: Any) -> Change:
    return lambda source: field(source, name).update(default=value)


NULLABLE = {"type": ["null", "string"], "default": None}


def test_the_shipped_schemas_are_compatible() -> None:
    assert incompatibilities() == []


@pytest.mark.parametrize(
    "change",
    [
        add(name="why", **NULLABLE),
        add(name="count", type="long", default=0),
        lambda source: field(source, "change")["type"]["fields"].append({"name": "x", **NULLABLE}),
        mode(symbols=["MERGE", "PURGE", "REPLACE", "UNKNOWN"]),
        lambda source: source.update(doc="another"),
        default("image_id", "unknown"),
    ],
)
def test_an_evolution_that_every_version_understands_passes(change: Change) -> None:
    assert incompatibilities((*SCHEMAS, next_version(change))) == []


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        (add(name="why", type="string"), "why: is new and has no default"),
        (add(name="why", type=["null", "string"]), "why: is new and has no default"),
        (drop("tags"), "tags: is gone"),
        (drop("image_id"), "image_id: is gone"),
        (drop("change.exempt"), "change.exempt: is gone"),
        (drop("meta.missed"), "meta.missed: is gone"),
        (mode(symbols=["MERGE", "UNKNOWN"]), "change.mode: the symbol PURGE is gone"),
        (mode(symbols=["MERGE", "PURGE"]), "the symbol UNKNOWN is gone"),
        (mode(default="MERGE"), "change.mode: the enum's default"),
        (lambda source: field(source, "change.mode")["type"].pop("default"), "the enum's default"),
        (mode(name="Manner"), "change.mode: .Mode became .Manner"),
        (retype("image_id", "bytes"), "image_id: string became bytes"),
        (retype("image_id", ["null", "string"]), "image_id: string became a union of null, string"),
        (retype("meta.epoch", "long"), "meta.epoch: int became long"),
        (retype("meta.missed", "int"), "meta.missed: long became int"),
        (retype("meta.missed", "double"), "meta.missed: long became double"),
        (
            retype("meta.occurred_at", {"type": "long", "logicalType": "timestamp-millis"}),
            "meta.occurred_at: timestamp-micros became timestamp-millis",
        ),
        (retype("meta.occurred_at", "long"), "meta.occurred_at: timestamp-micros became long"),
        (retype("tags", "string"), "tags: a union of null, array became string"),
        (
            retype("attributes", {"type": "map", "values": "string"}),
            "attributes[]: a union of null, string became string",
        ),
        (
            retype("change.exempt", {"type": "array", "items": ["null", "string"]}),
            "change.exempt[]: string became a union of null, string",
        ),
        (
            retype("attributes", {"type": "array", "items": "string"}),
            "attributes: map became array",
        ),
        (default("meta.deployment_id", "other"), "meta.deployment_id: has another default"),
        (default("meta.origin", "IMPORTED"), "meta.origin: has another default"),
        (lambda source: field(source, "tags").pop("default"), "tags: has another default"),
        (lambda source: source.update(name="ImageChanged"), "ImageUpdated became"),
        (lambda source: source.update(namespace="other"), "metaledger.ImageUpdated became other"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_breach_is_caught_and_named(change: Change, breach: str) -> None:
    found = incompatibilities((*SCHEMAS, next_version(change)))
    assert len(found) == 1
    assert found[0].startswith("ImageUpdated v1 and v2: ")
    assert breach in found[0]


def test_every_version_is_held_against_every_other() -> None:
    second = next_version(add(name="why", **NULLABLE))
    third = next_version(drop("why"), of=second)
    back = next_version(add(name="why", type=["null", "string"], default="-"), of=third)
    found = incompatibilities((UPDATED_V1, second, third, back))
    assert sorted(line.partition(": ")[0] for line in found) == [
        "ImageUpdated v2 and v3",
        "ImageUpdated v2 and v4",
    ]


def test_versions_that_a_record_could_not_tell_apart_are_a_breach() -> None:
    twin = replace(UPDATED_V1, version=2)
    assert "cannot be told apart" in incompatibilities((UPDATED_V1, twin))[0]


def test_a_record_of_another_version_is_read_to_what_this_build_knows() -> None:
    """Avro's schema resolution: what is new is dropped, what is missing has its default."""
    source = copy.deepcopy(UPDATED_V1.source)
    mode(symbols=["MERGE", "REPLACE", "PURGE", "UNKNOWN"])(source)
    add(name="why", **NULLABLE)(source)
    for name in ("meta.missed", "tags", "change.after"):
        drop(name)(source)
    original = UPDATED.data
    assert isinstance(original, ImageUpdated)
    for symbol, expected in (("PURGE", Mode.PURGE), ("REPLACE", Mode.UNKNOWN)):
        datum = {**to_json(UPDATED)["data"], "why": "because", "meta": as_fastavro(UPDATED.meta)}
        datum["change"] = {**datum["change"], "mode": symbol}
        payload = io.BytesIO()
        schemaless_writer(payload, parse_schema(source), datum)
        read = compile_fields_reader(source["fields"], ImageUpdated, classes_of((Meta, *EVENTS)))
        told, end = read(payload.getvalue(), 0)
        assert end == len(payload.getvalue())
        change = replace(original.change, mode=expected, after=None)
        assert told == replace(original, tags=None, change=change)


def as_fastavro(meta: Meta) -> dict[str, Any]:
    return {each.name: getattr(meta, each.name) for each in fields(meta)}


kinds = st.sampled_from(
    [
        *("string", "bytes", "int", "long", "double", ["null", "string"], ["null", "long"]),
        {"type": "map", "values": "string"},
        {"type": "array", "items": "int"},
        {"type": "long", "logicalType": "timestamp-micros"},
    ]
)
symbols = st.lists(st.sampled_from(["MERGE", "PURGE", "NEW"]), unique=True).map(
    lambda some: [*some, "UNKNOWN"]
)
one_change = st.one_of(
    st.builds(retype, st.sampled_from(["image_id", "tags", "meta.missed", "change.set"]), kinds),
    st.builds(drop, st.sampled_from(["image_id", "tags", "meta.missed", "change.set"])),
    st.builds(lambda kind: add(name="new", type=kind), kinds),
    st.just(add(name="newer", **NULLABLE)),
    st.builds(lambda some: mode(symbols=some), symbols),
)


@given(one_change, one_change)
def test_what_passes_is_compatible_to_independent_judges_too(one: Change, other: Change) -> None:
    source = copy.deepcopy(UPDATED_V1.source)
    try:
        one(source)
        other(source)
        newer = avro.schema.parse(json.dumps(source))
    except (StopIteration, SchemaParseException, KeyError):
        return  # the second change has lost its field to the first, or is the same once more
    older = avro.schema.parse(json.dumps(UPDATED_V1.source))
    for reader, writer in ((newer, older), (older, newer)):
        checker = avro.compatibility.ReaderWriterCompatibilityChecker()
        verdict = checker.get_compatibility(reader, writer).compatibility
        if verdict is not avro.compatibility.SchemaCompatibilityType.compatible:
            assert [*breaches(UPDATED_V1.source, source)]
            return
    if not [*breaches(UPDATED_V1.source, source)]:
        assert read_by_the_other(UPDATED_V1.source, source)


def read_by_the_other(older: Any, newer: Any) -> bool:
    """Whether a real reader of the newer version reads an older event, and back."""
    payload = io.BytesIO(Codec().encode(UPDATED).value[10:])
    written, read = parse_schema(older), parse_schema(newer)
    datum: Any = schemaless_reader(payload, written, read)
    again = io.BytesIO()
    schemaless_writer(again, read, datum)
    again.seek(0)
    back: Any = schemaless_reader(again, read, written)
    payload.seek(0)
    original: Any = schemaless_reader(payload, written, None)
    return bool(back == original)

"""The contract, its schemas and its classes say the same thing, and nothing that is unsafe to read.

The fields below are copied from EVENTS.md by hand: they are the reference that the `.avsc` files
and the classes are both held to. `?` marks a nullable field; its default is null.
"""

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from datetime import datetime
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any

import pytest

from metaledger.schemas import events
from metaledger.schemas.catalogue import SCHEMAS, Schema, latest
from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind
from metaledger.schemas.events import EVENT_BY_TYPE, EVENTS
from metaledger.schemas.hypervisor import IdSource
from metaledger.schemas.image import Mode, PropertyChange
from metaledger.schemas.instance import RelocationCause, SnapshotPurpose, Verdict
from metaledger.schemas.meta import Meta, Origin

META = """
    event_id string, deployment_id string = default, aggregate string, stream_id string,
    epoch int, stream_seq long, occurred_at time, service string, host string,
    origin Origin = OBSERVED, missed long = 0, request_id string?, global_request_id string?,
    user_id string?, project_id string?, causation_id string?
"""
PROPERTY_CHANGE = """
    mode Mode, set map, removed strings?, seen strings?, exempt strings, before map?, after map?,
    before_digest string?, after_digest string?, altered strings
"""
DISK_SOURCE = "kind SourceKind, image_id string?, function string?"
DISK_LAYOUT = """
    version string, backend string, format string, size_bytes long, source DiskSource,
    location string?, extra map
"""
DATA = {
    "ImageRegistered": """
        image_id string, name string?, status string, owner string?, visibility string?,
        disk_format string?, container_format string?, min_disk long?, min_ram long?,
        protected boolean?, tags strings, properties map, altered strings, attributes map""",
    "SnapshotUploaded": """
        image_id string, instance_uuid string?, size long, checksum string?, os_hash_algo string?,
        os_hash_value string?, status string, change PropertyChange""",
    "ImageDataUploaded": """
        image_id string, size long, checksum string?, os_hash_algo string?, os_hash_value string?,
        status string, change PropertyChange""",
    "ImageUpdated": "image_id string, attributes map, tags strings?, change PropertyChange",
    "ImageDeleted": "image_id string, deleted_at time",
    "HypervisorRegistered": """
        hypervisor_id string, id_source IdSource, host string, hypervisor_hostname string?,
        hypervisor_type string?""",
    "HypervisorHostChanged": "hypervisor_id string, from_host string, to_host string",
    "HypervisorRemoved": "hypervisor_id string",
    "InstanceBooted": """
        instance_uuid string, image_ref string?, system_metadata map, flavor string?,
        hypervisor_id string?, host string?, altered strings""",
    "InstanceSystemMetadataSaved": """
        instance_uuid string, operation string, before map?, after map, altered strings""",
    "SnapshotTaken": """
        instance_uuid string, snapshot_image_id string, image_ref string?,
        purpose SnapshotPurpose, properties map, altered strings""",
    "InstanceRebuilt": """
        instance_uuid string, previous_image_ref string?, image_ref string, before map?,
        after map?, altered strings""",
    "InstanceRebuildRolledBack": """
        instance_uuid string, image_ref string?, after map?, altered strings""",
    "InstanceRescued": """
        instance_uuid string, rescue_image_ref string, rescue_metadata map, altered strings""",
    "InstanceUnrescued": "instance_uuid string",
    "InstanceRelocated": """
        instance_uuid string, cause RelocationCause, from_hypervisor_id string?,
        to_hypervisor_id string?, from_host string?, to_host string?""",
    "InstanceDeleted": "instance_uuid string, deleted_at time",
    "DiskCreationStarted": "instance_uuid string, disk string, layout DiskLayout",
    "DiskCreated": "instance_uuid string, disk string, layout DiskLayout?",
    "DiskCreationFailed": "instance_uuid string, disk string, error string",
    "DiskLayoutBackfilled": "instance_uuid string, disk string, layout DiskLayout",
    "DiskLayoutChanged": "instance_uuid string, disk string, layout DiskLayout, reason string",
    "DiskDeleted": "instance_uuid string, disk string",
    "DestroyJudged": """
        instance_uuid string, hypervisor_id string, host string, verdict Verdict,
        reason string""",
    "SourceProgressed": """
        oldest_unsent_at time?, rows_waiting long, rows_max long, unrecorded_aggregates long,
        last_error string?""",
    "GapAccepted": """
        gap_stream_id string, gap_epoch int, from_seq long, to_seq long, reason string""",
    "RecordSkipped": "topic_id string, log_partition long, log_offset long, reason string",
}
SYMBOLS = {
    "Origin": ["OBSERVED", "IMPORTED", "RECONCILED", "UNKNOWN"],
    "Mode": ["MERGE", "PURGE", "UNKNOWN"],
    "IdSource": ["NATIVE", "FILE", "DERIVED", "UNKNOWN"],
    "SnapshotPurpose": ["SNAPSHOT", "BACKUP", "SHELVE", "UNKNOWN"],
    "RelocationCause": [
        "SCHEDULED",
        "EVACUATION",
        "LIVE_MIGRATION",
        "COLD_MIGRATION",
        "RESIZE",
        "UNSHELVE",
        "UNKNOWN",
    ],
    "Verdict": ["ALLOW", "DENY", "UNKNOWN"],
    "SourceKind": ["IMAGE", "FUNCTION", "UNKNOWN"],
}
SHARED = (Meta, PropertyChange, DiskLayout, DiskSource)
RECORDS = {
    "Meta": META,
    "PropertyChange": PROPERTY_CHANGE,
    "DiskLayout": DISK_LAYOUT,
    "DiskSource": DISK_SOURCE,
    **DATA,
}
CLASSES: dict[str, type] = {**{cls.__name__: cls for cls in SHARED}, **EVENT_BY_TYPE}
ENUMS: dict[str, type[StrEnum]] = {
    cls.__name__: cls
    for cls in (Origin, Mode, IdSource, SnapshotPurpose, RelocationCause, Verdict, SourceKind)
}

# A field as both sides are brought to: its name, its type, its default.
Line = tuple[str, str, object]
NO_DEFAULT = "no default"


def contract_lines(text: str) -> list[Line]:
    lines = []
    for entry in " ".join(text.split()).split(", "):
        field, _, default = entry.partition(" = ")
        name, kind = field.split()
        lines.append((name, kind, default or implied_default(kind)))
    return lines


def implied_default(kind: str) -> object:
    empty: dict[str, object] = {"map": {}, "strings": []}
    return None if kind.endswith("?") else empty.get(kind, NO_DEFAULT)


def avro_kind(node: Any) -> str:
    match node:
        case "string" | "int" | "long" | "boolean":
            return str(node)
        case {"type": "long", "logicalType": "timestamp-micros", **rest} if not rest:
            return "time"
        case {"type": "array", "items": "string", **rest} if not rest:
            return "strings"
        case {"type": "map", "values": ["null", "string"], **rest} if not rest:
            return "map"
        case ["null", inner]:
            return avro_kind(inner) + "?"
        case {"type": "record" | "enum", "name": name}:
            return str(name)
    raise AssertionError(f"the contract has no such type: {node}")


def avro_lines(record: Mapping[str, Any]) -> list[Line]:
    return [
        (node["name"], avro_kind(node["type"]), as_text(node.get("default", NO_DEFAULT)))
        for node in record["fields"]
    ]


def class_kind(hint: Any, name: str) -> str:
    """A class does not tell an int of 32 bits from one of 64, so `name` has to."""
    if typing.get_origin(hint) in {typing.Union, UnionType}:
        (inner,) = (each for each in typing.get_args(hint) if each is not NoneType)
        return class_kind(inner, name) + "?"
    if hint == Sequence[str]:
        return "strings"
    if hint == Mapping[str, str | None]:
        return "map"
    if hint is int:
        return "int" if name.endswith("epoch") else "long"
    return {str: "string", bool: "boolean", datetime: "time"}.get(hint) or hint.__name__


def class_lines(cls: type) -> list[Line]:
    hints = typing.get_type_hints(cls)
    return [
        (each.name, class_kind(hints[each.name], each.name), class_default(each))
        for each in fields(cls)
    ]


def class_default(field: Field[Any]) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    if field.default is MISSING:
        return NO_DEFAULT
    return [] if field.default == () else as_text(field.default)


def as_text(default: object) -> object:
    return str(default) if isinstance(default, int | StrEnum) else default


def nodes_of(node: Any) -> Iterator[Any]:
    """A node and all nodes in it."""
    yield node
    match node:
        case list():
            inner = node
        case {"type": "record", "fields": members}:
            inner = [member["type"] for member in members]
        case {"type": "array", "items": items}:
            inner = [items]
        case {"type": "map", "values": values}:
            inner = [values]
        case _:
            inner = []
    for each in inner:
        yield from nodes_of(each)


def named(record: Any, kind: str) -> dict[str, Any]:
    return {
        node["name"]: node
        for node in nodes_of(record)
        if isinstance(node, dict) and node["type"] == kind
    }


ALL = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: f"{each.type}.v{each.version}")
NEWEST = pytest.mark.parametrize("event_type", sorted(DATA))


def test_the_events_are_those_of_the_contract() -> None:
    assert {cls.__name__ for cls in EVENTS} == set(DATA)
    assert {schema.type for schema in SCHEMAS} == set(DATA)
    assert set(typing.get_args(events.EventData)) == set(EVENTS)


@NEWEST
def test_the_newest_schema_has_the_fields_of_the_contract(event_type: str) -> None:
    meta, *data = avro_lines(latest(event_type).source)
    assert meta == ("meta", "Meta", NO_DEFAULT)
    assert data == contract_lines(DATA[event_type])


@NEWEST
def test_the_shared_records_and_enums_are_the_same_in_every_schema(event_type: str) -> None:
    source = latest(event_type).source
    for name, record in named(source["fields"], "record").items():
        assert avro_lines(record) == contract_lines(RECORDS[name]), name
    for name, enum in named(source["fields"], "enum").items():
        assert enum["symbols"] == SYMBOLS[name], name


@pytest.mark.parametrize("name", RECORDS)
def test_the_class_has_the_fields_of_the_contract(name: str) -> None:
    assert class_lines(CLASSES[name]) == contract_lines(RECORDS[name])


@pytest.mark.parametrize("name", SYMBOLS)
def test_the_enum_has_the_symbols_of_the_contract(name: str) -> None:
    assert [str(member) for member in ENUMS[name]] == SYMBOLS[name]


@ALL
def test_every_schema_is_safe_to_read(schema: Schema) -> None:
    names = []
    for node in nodes_of(schema.source):
        if node == "null":
            continue
        avro_kind(node)  # refuses what is none of the contract's few forms, as array of null
        if isinstance(node, list):
            records = [each for each in node if isinstance(each, dict) and "fields" in each]
            assert len(records) <= 1, "no unions of records; one may be null"
        if isinstance(node, dict) and "name" in node:
            names.append(node["name"])
        if isinstance(node, dict) and node["type"] == "enum":
            assert node["default"] == "UNKNOWN" == node["symbols"][-1]
    # A name that is used again without its definition could be a recursive type.
    assert len(names) == len(set(names))


@ALL
def test_every_schema_stands_where_its_name_says(schema: Schema) -> None:
    assert schema.source["name"] == schema.type
    assert schema.source["namespace"] == "metaledger"
    assert schema.source["doc"]
    assert schema.subject == f"metaledger.{schema.type}"


def test_the_versions_of_a_type_are_counted_from_one_without_a_hole() -> None:
    for event_type in DATA:
        versions = [schema.version for schema in SCHEMAS if schema.type == event_type]
        assert versions == list(range(1, len(versions) + 1))


def test_a_fingerprint_names_one_schema() -> None:
    # The canonical form leaves out defaults and logical types: versions that differ in these alone
    # could not be told apart on the wire.
    assert len({schema.fingerprint for schema in SCHEMAS}) == len(SCHEMAS)

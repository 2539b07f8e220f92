"""An event's bytes: they give the same event back, to any reader of Avro, and harm none."""

import hashlib
import io
import json
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import avro.io
import avro.schema
import pytest
from fastavro import parse_schema, schemaless_reader
from hypothesis import given
from hypothesis import strategies as st

from metaledger.schemas.catalogue import SCHEMAS, Schema, latest
from metaledger.schemas.codec import EVENT_BYTES_MAX, Codec
from metaledger.schemas.errors import (
    ChecksumMismatch,
    EventTooLarge,
    MalformedRecord,
    UnknownSchema,
    UsageError,
)
from metaledger.schemas.events import Event
from metaledger.schemas.framing import SchemaIds, header, read_schema_ids
from metaledger.schemas.image import ImageDeleted, ImageUpdated, Mode, PropertyChange
from metaledger.schemas.writing import ELEMENTS_MAX

from .samples import AT, CHANGE, DATA, EVENTS, UPDATED, event
from .strategies import events

IDS = SchemaIds({schema.fingerprint: 100 + n for n, schema in enumerate(SCHEMAS)})
SINGLE_OBJECT = Codec()
CONFLUENT = Codec(ids=IDS)


def changed(**changes: Any) -> Event:
    """A good event with another head."""
    return Event(replace(UPDATED.meta, **changes), UPDATED.data)


def with_property(key: str, value: str | None) -> Event:
    change = PropertyChange(mode=Mode.MERGE, set={key: value})
    return event(ImageUpdated(image_id="i", change=change))


def as_avro(value: Any) -> Any:
    """A value of the contract as a reader of Avro gives it."""
    if is_dataclass(value):
        return {field.name: as_avro(getattr(value, field.name)) for field in fields(value)}
    return list(value) if isinstance(value, tuple) else value


@given(events(), st.sampled_from([SINGLE_OBJECT, CONFLUENT]))
def test_what_was_encoded_is_decoded_to_the_same_event(told: Event, codec: Codec) -> None:
    encoded = codec.encode(told)
    assert CONFLUENT.decode(encoded.value, encoded.sha256) == told
    assert codec.encode(told) == encoded


@given(events())
def test_independent_readers_find_the_same_data(told: Event) -> None:
    payload = CONFLUENT.encode(told).value[5:]
    source = latest(told.type).source
    by_fastavro: Any = schemaless_reader(io.BytesIO(payload), parse_schema(source), None)
    schema = avro.schema.parse(json.dumps(source))
    decoder = avro.io.BinaryDecoder(io.BytesIO(payload))
    by_apache: Any = avro.io.DatumReader(schema).read(decoder)
    assert by_fastavro == by_apache
    assert by_apache["meta"]["occurred_at"] == told.meta.occurred_at
    del by_apache["meta"]
    assert by_apache == as_avro(told.data)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: f"{each.type}.v{each.version}")
def test_the_frame_names_the_schema_as_the_specification_says(schema: Schema) -> None:
    canonical = json.dumps(canonical_form(schema.source), separators=(",", ":"))
    expected = b"\xc3\x01" + crc_64_avro(canonical.encode()).to_bytes(8, "little")
    assert header(schema, None) == expected
    schema_id = IDS.by_fingerprint[schema.fingerprint].to_bytes(4, "big")
    assert header(schema, IDS) == b"\0" + schema_id


@pytest.mark.parametrize("told", EVENTS, ids=lambda each: each.type)
def test_an_event_is_written_in_its_newest_schema(told: Event) -> None:
    newest = latest(told.type)
    assert SINGLE_OBJECT.encode(told).value.startswith(header(newest, None))
    assert CONFLUENT.encode(told).value.startswith(header(newest, IDS))


def canonical_form(node: Any) -> Any:
    """Avro specification, "Transforming into Parsing Canonical Form", as far as we need it.

    (Apache's library for Python leaves a `{"type": "long"}` where a logical type was.)
    """
    if isinstance(node, list):
        return [canonical_form(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = ("name", "type", "fields", "symbols", "items", "values")
    form = {name: canonical_form(node[name]) for name in kept if name in node}
    if "symbols" in form:
        form["symbols"] = node["symbols"]
    if "name" in form and node["type"] in ("record", "enum"):
        form["name"] = "metaledger." + node["name"]
    return form["type"] if set(form) == {"type"} else form


def crc_64_avro(data: bytes) -> int:
    """Avro specification, "Schema Fingerprints", bit by bit."""
    empty = 0xC15D213AA4D7A795
    crc = empty
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (empty if crc & 1 else 0)
    return crc


@pytest.mark.parametrize("codec", [SINGLE_OBJECT, CONFLUENT], ids=["plain", "registry"])
def test_both_frames_are_read_where_a_registry_is_configured(codec: Codec) -> None:
    encoded = codec.encode(UPDATED)
    assert CONFLUENT.decode(encoded.value, encoded.sha256) == UPDATED


def test_without_a_registry_its_ids_ask_for_its_configuration() -> None:
    encoded = CONFLUENT.encode(UPDATED)
    with pytest.raises(UnknownSchema, match="configure the registry"):
        SINGLE_OBJECT.decode(encoded.value, encoded.sha256)


def test_a_schema_without_an_id_is_not_written() -> None:
    with pytest.raises(UsageError, match="schema register"):
        Codec(ids=SchemaIds()).encode(UPDATED)


def test_a_fingerprint_of_tomorrow_asks_for_an_upgrade() -> None:
    value = b"\xc3\x01" + bytes(8) + b"anything"
    with pytest.raises(UnknownSchema, match="upgrade"):
        SINGLE_OBJECT.decode(value, hashlib.sha256(value).digest())


@pytest.mark.parametrize(
    ("told", "flaw"),
    [
        (with_property("key", "a\0b"), r"data\.change\.set: a NUL"),
        (with_property("a\0b", None), r"data\.change\.set: a NUL"),
        (changed(service="\0"), r"meta\.service: a NUL"),
        (changed(user_id="a\0"), r"meta\.user_id: a NUL"),
        (event(ImageUpdated(image_id="i", tags=("a", "\0"), change=CHANGE)), r"data\.tags"),
        (with_property("key", "\ud800"), "UnicodeEncodeError"),
        (changed(epoch=2**31), r"meta\.epoch: no integer of 32 bits"),
        (changed(missed=2**63), r"meta\.missed: no integer of 64 bits"),
        (changed(missed=3.9), r"meta\.missed: no integer"),
        (changed(occurred_at=datetime(2026, 1, 1)), r"meta\.occurred_at: .* without an offset"),  # noqa: DTZ001
        (event(ImageDeleted(image_id="i", deleted_at=datetime(2026, 1, 1))), r"data\.deleted_at"),  # noqa: DTZ001
        (changed(service=None), "meta: TypeError"),
        (changed(aggregate="image:another"), "not the aggregate of the data"),
        (changed(event_id="1"), "no UUID"),
        (changed(event_id="01932A5D-AC96-774B-BCCE-B302099A8057"), "in lower case"),
        (changed(stream_seq=0), "no number"),
        (changed(epoch=0), "no number"),
        (changed(stream_id=""), "no number"),
        (Event(replace(UPDATED.meta, aggregate="glance"), DATA[6]), "<kind>:<id>"),
        (Event(replace(UPDATED.meta, aggregate="image:"), DATA[6]), "<kind>:<id>"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_no_store_could_hold_is_neither_written_nor_read(told: Event, flaw: str) -> None:
    with pytest.raises(MalformedRecord, match=flaw):
        SINGLE_OBJECT.encode(told)


def test_what_was_written_before_lets_nothing_pass_that_is_only_equal() -> None:
    assert SINGLE_OBJECT.encode(changed(missed=1)) == SINGLE_OBJECT.encode(changed(missed=1))
    with pytest.raises(MalformedRecord, match=r"meta\.missed: no integer"):
        SINGLE_OBJECT.encode(changed(missed=1.0))


def test_an_error_does_not_carry_the_data() -> None:
    with pytest.raises(MalformedRecord) as caught:
        SINGLE_OBJECT.encode(with_property("key", "\x1b]0;x\a" + "\ud800" * 10_000))
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_an_event_owes_nothing_to_what_was_read_before_it() -> None:
    codec = Codec()
    held = {"os_type": "linux", "os_version": "13"}
    change = PropertyChange(mode=Mode.PURGE, set=held, before={"os_type": "linux"}, after=held)
    told = event(ImageUpdated(image_id="a", change=change))
    encoded = codec.encode(told)
    first = codec.decode(encoded.value, encoded.sha256)
    assert isinstance(first.data, ImageUpdated)
    for found in (first.data.change.set, first.data.change.before, first.data.change.after):
        assert isinstance(found, dict)
        found["os_type"] = "changed by whoever read it"
    assert codec.decode(encoded.value, encoded.sha256) == told


def test_a_changed_byte_is_noticed_before_anything_is_decoded() -> None:
    encoded = SINGLE_OBJECT.encode(UPDATED)
    for at in range(0, len(encoded.value), 7):
        changed_bytes = bytearray(encoded.value)
        changed_bytes[at] ^= 1
        with pytest.raises(ChecksumMismatch):
            SINGLE_OBJECT.decode(bytes(changed_bytes), encoded.sha256)


def test_a_record_without_a_checksum_is_refused() -> None:
    with pytest.raises(ChecksumMismatch):
        SINGLE_OBJECT.decode(SINGLE_OBJECT.encode(UPDATED).value, b"")


def test_an_event_of_just_the_cap_passes_and_one_byte_more_does_not() -> None:
    codec = Codec(event_bytes_max=EVENT_BYTES_MAX)
    spare = EVENT_BYTES_MAX - len(codec.encode(with_property("key", "x" * 800_000)).value)
    fitting = codec.encode(with_property("key", "x" * (800_000 + spare)))
    assert len(fitting.value) == EVENT_BYTES_MAX
    assert codec.decode(fitting.value, fitting.sha256).type == UPDATED.type
    with pytest.raises(EventTooLarge, match="900001"):
        codec.encode(with_property("key", "x" * (800_001 + spare)))
    larger = fitting.value + b"\0"
    with pytest.raises(EventTooLarge):
        codec.decode(larger, hashlib.sha256(larger).digest())


@pytest.mark.parametrize("name", ["tags", "attributes"])
def test_of_elements_just_the_most_pass_and_one_more_does_not(name: str) -> None:
    def told(count: int) -> Event:
        texts = tuple(map(str, range(count)))
        return event(replace(DATA[3], **{name: texts if name == "tags" else dict.fromkeys(texts)}))

    fitting = SINGLE_OBJECT.encode(told(ELEMENTS_MAX))
    assert SINGLE_OBJECT.decode(fitting.value, fitting.sha256) == told(ELEMENTS_MAX)
    with pytest.raises(EventTooLarge, match=f"{name}: more than 10000 elements"):
        SINGLE_OBJECT.encode(told(ELEMENTS_MAX + 1))


def test_a_lowered_cap_leaves_the_history_readable() -> None:
    encoded = SINGLE_OBJECT.encode(UPDATED)
    assert Codec(event_bytes_max=10).decode(encoded.value, encoded.sha256) == UPDATED


def test_times_keep_their_microsecond_from_the_first_to_the_last() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    for at in (datetime(1, 1, 1, tzinfo=UTC), last, AT):
        told = changed(occurred_at=at)
        encoded = SINGLE_OBJECT.encode(told)
        assert SINGLE_OBJECT.decode(encoded.value, encoded.sha256) == told


class Autumn(tzinfo):
    """The hour that a zone has twice when its summer ends (PEP 495)."""

    def utcoffset(self, at: datetime | None) -> timedelta:
        return timedelta(hours=1 if at is not None and at.fold else 2)


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    first = datetime(2026, 10, 25, 2, 30, tzinfo=Autumn())
    for at, hour in ((first, 0), (first.replace(fold=1), 1)):
        encoded = SINGLE_OBJECT.encode(changed(occurred_at=at))
        told = SINGLE_OBJECT.decode(encoded.value, encoded.sha256)
        assert told.meta.occurred_at == datetime(2026, 10, 25, hour, 30, tzinfo=UTC)


def test_the_file_of_schema_ids_is_read_back(tmp_path: Any) -> None:
    path = tmp_path / "ids.json"
    path.write_text(IDS.to_json())
    assert read_schema_ids(path) == IDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '"ImageDeleted.v1"',
        '{"ImageDeleted.v1": "7"}',
        '{"ImageDeleted.v1": 7.5}',
        '{"ImageDeleted.v1": true}',
        '{"ImageDeleted.v1": -1}',
        '{"ImageDeleted.v1": 0}',
        '{"ImageDeleted.v1": 4294967296}',
        '{"ImageDeleted.v1": null}',
        '{"ImageDeleted.v1": 7, "ImageUpdated.v1": 7}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_file_that_holds_no_schema_ids_is_refused(tmp_path: Any, text: str) -> None:
    path = tmp_path / "ids.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="not a file of schema ids"):
        read_schema_ids(path)

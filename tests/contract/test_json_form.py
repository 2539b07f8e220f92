"""The JSON form: what is an event is read exactly, and what is none is named by its path."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import InvalidEvent
from metaledger.schemas.events import Draft, Event, StreamNumber, recorded
from metaledger.schemas.image import ImageDeleted, ImageUpdated, Mode
from metaledger.schemas.jsonform import parse_line, to_json
from metaledger.schemas.meta import Context, Origin
from metaledger.schemas.times import time_text
from metaledger.schemas.writing import ELEMENTS_MAX

from .samples import AT, UPDATED
from .strategies import events

CONTEXT = Context(service="emit", host="laptop", user_id="me")
NUMBER = StreamNumber(stream_id="spool", epoch=1, stream_seq=1)
ID = "01932a5d-ac96-774b-bcce-b302099a8057"


def deleted(at: Any = "2026-11-21T13:43:32Z", meta: Any = None, **data: Any) -> str:
    """A line that deletes an image."""
    data = {"image_id": "i", "deleted_at": at, **data}
    return json.dumps({"type": "ImageDeleted", "meta": meta or {}, "data": data})


def updated(meta: Any = None, **data: Any) -> str:
    """A line that updates an image."""
    data = {"image_id": "i", "change": {"mode": "MERGE"}, **data}
    return json.dumps({"type": "ImageUpdated", "meta": meta or {}, "data": data})


def changed(**change: Any) -> str:
    """A line that changes properties."""
    return updated(change={"mode": "MERGE", **change})


def judged(verdict: str) -> str:
    """A line that tells a verdict."""
    data = {"instance_uuid": "i", "hypervisor_id": "h", "host": "c", "verdict": verdict}
    return json.dumps({"type": "DestroyJudged", "data": {**data, "reason": "r"}})


def started(layout: Any) -> str:
    """A line that tells of a disk to come."""
    data = {"instance_uuid": "i", "disk": "disk", "layout": layout}
    return json.dumps({"type": "DiskCreationStarted", "data": data})


def gap(**members: Any) -> str:
    """A line whose data does not name its aggregate."""
    data = {"gap_stream_id": "s", "gap_epoch": 1, "from_seq": 1, "to_seq": 2, "reason": "r"}
    return json.dumps({"type": "GapAccepted", "data": data, **members})


@given(events(), st.booleans())
def test_an_event_is_read_back_from_its_json(told: Event, ascii_only: bool) -> None:
    line = json.dumps(to_json(told), ensure_ascii=ascii_only)
    draft = parse_line(line, CONTEXT)
    assert recorded(draft, event_id="", number=NUMBER, occurred_at=AT) == told


def test_what_the_meta_leaves_out_stays_open_or_comes_from_the_context() -> None:
    draft = parse_line(deleted(), CONTEXT)
    at = datetime(2026, 11, 21, 13, 43, 32, tzinfo=UTC)
    assert draft == Draft(
        data=ImageDeleted(image_id="i", deleted_at=at), aggregate="image:i", context=CONTEXT
    )
    assert draft.event_id is draft.occurred_at is draft.number is None


def test_what_the_meta_gives_stands() -> None:
    meta = {
        "event_id": ID.upper(),
        "aggregate": "image:i",
        "stream_id": "s",
        "epoch": 2,
        "stream_seq": 3,
        "occurred_at": "2026-11-21T13:43:32.516137Z",
        "origin": "IMPORTED",
        "missed": 4,
        "user_id": None,
        "project_id": "p",
        "deployment_id": "north",
    }
    draft = parse_line(deleted(meta=meta), CONTEXT)
    assert draft.event_id == ID
    assert draft.number == StreamNumber(stream_id="s", epoch=2, stream_seq=3)
    assert (draft.occurred_at, draft.origin, draft.missed) == (AT, Origin.IMPORTED, 4)
    assert draft.context == Context(
        service="emit", host="laptop", project_id="p", deployment_id="north"
    )


def test_what_the_data_leaves_out_is_empty_or_null() -> None:
    change: Any = parse_line(updated(), CONTEXT).data
    assert (change.attributes, change.tags, change.change.set) == ({}, None, {})
    assert (change.change.mode, change.change.removed, change.change.exempt) == (
        Mode.MERGE,
        None,
        (),
    )


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("line", "path", "expected", "got"),
    [
        ("", "", "a JSON object", "Expecting value at column 1"),
        ("   ", "", "a JSON object", "Expecting value"),
        ("{", "", "a JSON object", "column 2"),
        ("\ufeff" + deleted(), "", "a JSON object", "BOM"),
        (deleted() + deleted(), "", "a JSON object", "Extra data"),
        ("[]", "", "an object", "an array"),
        ('"x"', "", "an object", "'x'"),
        ("NaN", "", "JSON (RFC 8259)", "NaN"),
        (deleted(at=float("inf")), "", "JSON (RFC 8259)", "Infinity"),
        (
            '{"type": "ImageDeleted", "data": ' + "9" * 5000 + "}",
            "",
            "a JSON object",
            "4300 digits",
        ),
        (DEEP, "", "an event", "nested too deeply"),
        ('{"type": "a", "type": "b"}', "", "each key once", "'type' twice"),
        ('{"type": "ImageDeleted", "extra": 1}', "", "type, meta and data", "'extra'"),
        ("{}", "type", "schema list", "None"),
        ('{"type": ["ImageDeleted"]}', "type", "schema list", "an array"),
        ('{"type": "imageDeleted"}', "type", "schema list", "'imageDeleted'"),
        ('{"type": "ImageDeleted"}', "data", "an object", "nothing"),
        ('{"type": "ImageDeleted", "data": null}', "data", "an object", "None"),
        ('{"type": "ImageDeleted", "data": {}}', "data.image_id", "a value", "nothing"),
        (deleted(nam="x"), "data", "one of image_id, deleted_at", "field 'nam'"),
        (deleted(image_id=7), "data.image_id", "a string", "7"),
        (deleted(image_id=None), "data.image_id", "a string", "None"),
        (deleted(image_id="a\0b"), "data.image_id", "without NUL", "'a\\x00b'"),
        (deleted(image_id="\ud800"), "data.image_id", "without lone surrogates", "'\\ud800'"),
        (deleted(image_id=""), "meta.aggregate", "<kind>:<id>", "'image:'"),
        (
            deleted(image_id="\x1b[31m" + "x" * 99, meta={"aggregate": "y:z"}),
            "meta.aggregate",
            "'image:\\x1b[31mxx",
            "'y:z'",
        ),
        (
            updated(change="TWICE").replace('"TWICE"', '{"a": 1, "a": 2}'),
            "data.change",
            "each key once",
            "'a' twice",
        ),
        (
            updated(tags="TWICE").replace('"TWICE"', '{"a": 1, "a": 2}'),
            "data.tags",
            "an array",
            "RepeatedKey(name='a')",
        ),
        (updated(change=None), "data.change", "an object", "None"),
        (updated(change={}), "data.change.mode", "a value", "nothing"),
        (updated(tags="a"), "data.tags", "an array", "'a'"),
        (updated(tags=["a", None]), "data.tags[1]", "a string", "None"),
        (updated(tags=["a"] * 10_001), "data.tags", "at most 10000 elements", "10001"),
        (updated(attributes=[]), "data.attributes", "an object", "an array"),
        (updated(attributes={"a": 1}), "data.attributes['a']", "a string", "1"),
        (updated(attributes={"a": False}), "data.attributes['a']", "a string", "False"),
        (updated(attributes={"a": []}), "data.attributes['a']", "a string", "an array"),
        (updated(attributes={"a\0": "x"}), "data.attributes, the key", "without NUL", "'a\\x00'"),
        (updated(attributes={"a": [[[]]]}), "data.attributes['a']", "a string", "an array"),
        (changed(mode="merge"), "data.change.mode", "one of MERGE, PURGE", "'merge'"),
        (changed(mode="UNKNOWN"), "data.change.mode", "one of MERGE, PURGE", "'UNKNOWN'"),
        (changed(mode={}), "data.change.mode", "one of MERGE, PURGE", "an object"),
        (judged("MAYBE"), "data.verdict", "one of ALLOW, DENY, UNKNOWN", "'MAYBE'"),
        (started({}), "data.layout.version", "a value", "nothing"),
        (
            started({"source": {"kind": "UNKNOWN"}}),
            "data.layout.source.kind",
            "one of IMAGE, FUNCTION",
            "'UNKNOWN'",
        ),
        (changed(set=None), "data.change.set", "an object", "None"),
        (changed(removed={"a": 1}), "data.change.removed", "an array", "an object"),
        (changed(more=1), "data.change", "one of mode, set, ", "field 'more'"),
        (
            changed(set={"a": "1", "b": "2"}).replace('"b"', '"a"'),
            "data.change.set",
            "each key once",
            "'a' twice",
        ),
        (deleted(meta=[1]), "meta", "an object", "an array"),
        (deleted(meta={"seq": 1}), "meta", "one of event_id, ", "field 'seq'"),
        (deleted(meta={"event_id": "1"}), "meta.event_id", "a UUID", "'1'"),
        (deleted(meta={"event_id": "{" + ID + "}"}), "meta.event_id", "a UUID", "'{0193"),
        (deleted(meta={"event_id": "1_" * 16}), "meta.event_id", "a UUID", "'1_1_"),
        (deleted(meta={"event_id": None}), "meta.event_id", "a string", "None"),
        (deleted(meta={"missed": 1.0}), "meta.missed", "an integer of 64 bits", "1.0"),
        (deleted(meta={"missed": 1 << 63}), "meta.missed", "an integer of 64 bits", "9223"),
        (deleted(meta={"missed": True}), "meta.missed", "an integer of 64 bits", "True"),
        (deleted(meta={"missed": "1"}), "meta.missed", "an integer of 64 bits", "'1'"),
        (deleted(meta={"missed": 10**4000}), "meta.missed", "an integer of 64 bits", "1000"),
        (deleted(meta={"epoch": 1}), "meta.stream_id", "together, or none", "nothing"),
        (
            deleted(meta={"stream_id": "s", "epoch": 1 << 31, "stream_seq": 1}),
            "meta.epoch",
            "an integer of 32 bits",
            "2147483648",
        ),
        (
            deleted(meta={"stream_id": "s", "epoch": 1, "stream_seq": 0}),
            "meta.stream_seq",
            "numbers from 1",
            "0",
        ),
        (deleted(meta={"origin": "UNKNOWN"}), "meta.origin", "one of OBSERVED", "'UNKNOWN'"),
        (deleted(meta={"aggregate": "image:j"}), "meta.aggregate", "'image:i'", "'image:j'"),
        (deleted(meta={"occurred_at": None}), "meta.occurred_at", "a string", "None"),
        (gap(), "meta.aggregate", "a value", "nothing"),
        (gap(meta=None), "meta", "an object", "None"),
        (gap(meta={"aggregate": "glance"}), "meta.aggregate", "<kind>:<id>", "'glance'"),
    ],
    ids=lambda each: each[:60] if isinstance(each, str) else None,
)
def test_what_is_no_event_is_named(line: str, path: str, expected: str, got: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        parse_line(line, CONTEXT)
    assert caught.value.path == path
    assert expected in caught.value.expected
    assert got in caught.value.got
    assert str(caught.value).isprintable()
    assert len(caught.value.got) < 200


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-11-21T13:43:32Z", 32_000_000),
        ("2026-11-21t13:43:32z", 32_000_000),
        ("2026-11-21 13:43:32+00:00", 32_000_000),
        ("2026-11-21T14:43:32.5+01:00", 32_500_000),
        ("2026-11-21T13:43:32.516137-00:00", 32_516_137),
        ("2026-11-21T13:43:32.516137000Z", 32_516_137),
        ("2026-11-21T13:43:32.50000000000000000000Z", 32_500_000),
    ],
)
def test_an_rfc_3339_time_is_read_exactly(text: str, micros: int) -> None:
    data: Any = parse_line(deleted(at=text), CONTEXT).data
    at = data.deleted_at
    assert at == datetime(2026, 11, 21, 13, 43, *divmod(micros, 1_000_000), tzinfo=UTC)
    assert at.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T13:43:32", "with an offset"),
        ("2026-11-21T13:43:32.516137", "with an offset"),
        ("2026-11-21", "RFC 3339"),
        ("2026-W47-6T13:43:32Z", "RFC 3339"),
        ("20261121T134332Z", "RFC 3339"),
        ("2026-11-21T134332+0000", "RFC 3339"),
        ("2026-11-21T13:43+00:00", "RFC 3339"),
        ("2026-11-21T13:43:32,5Z", "RFC 3339"),
        ("2026-11-21T13:43:32.Z", "RFC 3339"),
        ("2026-11-21T13:43:32.5161371Z", "to the microsecond"),
        ("2026-11-21T13:43:32+00:00:30", "RFC 3339"),
        ("2026-11-21T13:43:32+24:00", "RFC 3339"),
        ("2026-11-21T24:00:00Z", "RFC 3339"),
        ("2026-11-21T13:43:60Z", "a time that exists"),
        ("2026-11-31T13:43:32Z", "a time that exists"),
        ("2025-02-29T13:43:32Z", "a time that exists"),
        ("0000-01-01T00:00:00Z", "a time that exists"),
        ("0001-01-01T00:00:00+01:00", "a time that exists"),
        ("9999-12-31T23:59:59-01:00", "a time that exists"),
        ("+2026-11-21T13:43:32Z", "RFC 3339"),
        ("٢٠٢٦-11-21T13:43:32Z", "RFC 3339"),
        ("2026-11-21T13:43:32Z\n", "RFC 3339"),
        (" 2026-11-21T13:43:32Z", "RFC 3339"),
        ("1795268612", "RFC 3339"),
        (1795268612, "a string"),
    ],
)
def test_another_time_is_refused_and_never_guessed(text: Any, expected: str) -> None:
    with pytest.raises(InvalidEvent, match=r"data\.deleted_at") as caught:
        parse_line(deleted(at=text), CONTEXT)
    assert expected in caught.value.expected


@given(st.datetimes(timezones=st.timezones()), st.datetimes(timezones=st.just(UTC)))
def test_the_text_of_a_time_sorts_as_the_times_do(one: datetime, other: datetime) -> None:
    try:
        one = one.astimezone(UTC)
    except OverflowError:
        return  # before year 1 or after 9999 in UTC: no time of the ledger
    assert (time_text(one) < time_text(other)) == (one < other)
    assert len(time_text(one)) == len("2026-11-21T13:43:32.516137Z")


@pytest.mark.parametrize("depth", range(880, 1010, 3))
def test_no_depth_of_nesting_gets_past_the_check_for_it(depth: int) -> None:
    line = deleted(image_id="DEEP").replace('"DEEP"', "[" * depth + "]" * depth)
    with pytest.raises(InvalidEvent):
        parse_line(line, CONTEXT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.data())
def test_any_change_of_a_line_is_an_event_that_can_be_written_or_an_error(
    source: st.DataObject,
) -> None:
    top = to_json(UPDATED)
    parent: Any = top
    while True:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = source.draw(st.sampled_from(keys))
        if (
            not isinstance(parent[key], dict | list)
            or not parent[key]
            or source.draw(st.booleans())
        ):
            break
        parent = parent[key]
    parent[key] = source.draw(json_values)
    try:
        draft = parse_line(json.dumps(top), CONTEXT)
    except InvalidEvent as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    Codec().encode(recorded(draft, event_id=ID, number=NUMBER, occurred_at=AT))


def test_a_long_line_with_one_key_twice_is_refused_quickly() -> None:
    members = {str(n): "" for n in range(90_000)}
    line = updated(attributes=members).replace('"89999"', '"89998"')
    with pytest.raises(InvalidEvent, match="'89998' twice"):
        parse_line(line, CONTEXT)


@pytest.mark.parametrize(
    "value",
    ["[" + "[]," * 100_000 + "0]", "[" + '"","a",' * 60_000 + "0]", '{"a":' + '"",' * 300_000],
    ids=["arrays", "texts", "quotation marks"],
)
def test_a_line_of_more_values_than_an_event_has_is_refused_before_they_are_made(
    value: str,
) -> None:
    line = updated(tags="THESE").replace('"THESE"', value)
    with pytest.raises(InvalidEvent, match="too many values"):
        parse_line(line, CONTEXT)


@pytest.mark.parametrize("text", ["[,{" * 100_000, '\\"[,{' * 50_000, '\\\\\\"",' * 60_000])
def test_what_stands_in_a_text_is_no_value(text: str) -> None:
    draft = parse_line(changed(set={"k": text, 'k"': "\\"}), CONTEXT)
    assert isinstance(draft.data, ImageUpdated)
    assert draft.data.change.set == {"k": text, 'k"': "\\"}


def test_an_event_of_the_most_elements_everywhere_is_read() -> None:
    texts = [str(n) for n in range(ELEMENTS_MAX)]
    values: dict[str, None] = dict.fromkeys(texts)
    change = dict.fromkeys(("removed", "seen", "exempt", "altered"), texts)
    maps = dict.fromkeys(("set", "before", "after"), values)
    line = updated(tags=texts, attributes=values, change={"mode": "MERGE", **change, **maps})
    draft = parse_line(line, CONTEXT)
    assert isinstance(draft.data, ImageUpdated)
    assert draft.data.change.altered == tuple(texts)

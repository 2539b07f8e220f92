"""The JSON form: one object a line, `{"type": …, "meta": {…}, "data": {…}}` (EVENTS.md).

Reading is strict: an unknown type or field, a repeated key, a wrong type, a missing field, a naive
time, a value that cannot be represented raises InvalidEvent with the path of the field and what was
expected. What `meta` leaves out stays open in the Draft, and is filled in when it is recorded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import datetime

from metaledger.schemas.codec import DATA_SHAPES, META_SHAPE
from metaledger.schemas.errors import InvalidEvent
from metaledger.schemas.events import Draft, Event, StreamNumber, is_event_id
from metaledger.schemas.meta import Context, Meta
from metaledger.schemas.shape import Raw, RepeatedKey, as_object
from metaledger.schemas.times import shown, time_text

_TOP = ("type", "meta", "data")
_NUMBER = ("stream_id", "epoch", "stream_seq")
# What `meta` may leave out although an event must have it; never seen by anybody.
_PLACEHOLDERS = {
    "event_id": "00000000-0000-0000-0000-000000000000",
    "stream_id": "",
    "epoch": 0,
    "stream_seq": 0,
    "occurred_at": "1970-01-01T00:00:00Z",
}


def parse_line(line: str, context: Context) -> Draft:
    """The draft of a line; `context` fills what its `meta` leaves out. Raises InvalidEvent."""
    top = _load(line)
    for name in top:
        if name not in _TOP:
            raise InvalidEvent("", expected="type, meta and data", got=f"field {shown(name)}")
    event_type = top.get("type")
    shape = DATA_SHAPES.get(event_type) if isinstance(event_type, str) else None
    if shape is None:
        expected = "one of " + ", ".join(sorted(DATA_SHAPES))
        raise InvalidEvent("type", expected=expected, got=shown(event_type))
    if "data" not in top:
        raise InvalidEvent("data", expected="an object", got="nothing")
    data = shape.parse(top["data"], "data")
    return _draft(data, as_object(top.get("meta", {}), "meta"), context)


def to_json(event: Event) -> dict[str, Raw]:
    """The event as JSON-able data: what `parse_line` reads back to the same event."""
    return {"type": event.type, "meta": plain(event.meta), "data": plain(event.data)}


def plain(value: Raw) -> Raw:
    """A value of the contract as JSON-able data: records to objects, times to text."""
    if isinstance(value, datetime):
        return time_text(value)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value


def _load(line: str) -> dict[str, Raw]:
    try:
        top = json.loads(line, object_pairs_hook=_members, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidEvent("", expected="an event", got="JSON nested too deeply") from None
    except json.JSONDecodeError as error:
        got = f"{error.msg} at column {error.colno}"
        raise InvalidEvent("", expected="a JSON object", got=got) from error
    # int() refuses more than 4,300 digits with a plain ValueError.
    except ValueError as error:
        raise InvalidEvent("", expected="a JSON object", got=str(error)) from error
    return as_object(top, "")


def _members(pairs: Sequence[tuple[str, Raw]]) -> dict[str, Raw] | RepeatedKey:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return RepeatedKey(name)
        seen.add(name)
    return members


def _no_constant(name: str) -> None:
    raise InvalidEvent("", expected="JSON (RFC 8259)", got=name)


def _draft(data: Raw, given: Mapping[str, Raw], context: Context) -> Draft:
    aggregate = data.aggregate
    filled = {**_PLACEHOLDERS, "service": context.service, "host": context.host}
    if aggregate is not None:
        filled["aggregate"] = aggregate
    meta: Meta = META_SHAPE.parse({**filled, **given}, "meta")
    if aggregate is not None and meta.aggregate != aggregate:
        raise InvalidEvent("meta.aggregate", expected=shown(aggregate), got=shown(meta.aggregate))
    if not all(meta.aggregate.partition(":")):
        raise InvalidEvent("meta.aggregate", expected="<kind>:<id>", got=shown(meta.aggregate))
    names = [field.name for field in fields(Context) if field.name in given]
    return Draft(
        data=data,
        aggregate=meta.aggregate,
        context=replace(context, **{name: getattr(meta, name) for name in names}),
        origin=meta.origin,
        missed=meta.missed,
        event_id=_event_id(meta.event_id) if "event_id" in given else None,
        occurred_at=meta.occurred_at if "occurred_at" in given else None,
        number=_number(meta, given),
    )


def _event_id(text: str) -> str:
    event_id = text.lower()
    if not is_event_id(event_id):
        raise InvalidEvent("meta.event_id", expected="a UUID", got=shown(text))
    return event_id


def _number(meta: Meta, given: Mapping[str, Raw]) -> StreamNumber | None:
    present = [name for name in _NUMBER if name in given]
    if not present:
        return None
    if len(present) < len(_NUMBER):
        missing = next(name for name in _NUMBER if name not in given)
        expected = "stream_id, epoch and stream_seq together, or none"
        raise InvalidEvent(f"meta.{missing}", expected=expected, got="nothing")
    if not meta.stream_id or meta.epoch < 1 or meta.stream_seq < 1:
        got = f"{shown(meta.stream_id)}, {meta.epoch}, {meta.stream_seq}"
        raise InvalidEvent("meta.stream_seq", expected="numbers from 1 of a named stream", got=got)
    return StreamNumber(stream_id=meta.stream_id, epoch=meta.epoch, stream_seq=meta.stream_seq)

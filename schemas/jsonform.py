"""The JSON form: one object a line, `{"type": …, "meta": {…}, "data": {…}}` (EVENTS.md).

Reading is strict: an unknown type or field, a repeated key, a wrong type, a missing field, a naive
time, a value that cannot be represented raises InvalidEvent with the path of the field and what was
expected. What `meta` leaves out stays open in the Draft, and is filled in when it is recorded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import datetime

from metaledger.schemas.codec import DATA_SHAPES, parse_meta
from metaledger.schemas.errors import InvalidEvent
from metaledger.schemas.events import Draft, Event, StreamNumber, is_event_id
from metaledger.schemas.meta import Context, Origin
from metaledger.schemas.shape import Raw, RepeatedKey, as_object
from metaledger.schemas.times import shown, time_text

_TOP = ("type", "meta", "data")
_NUMBER = ("stream_id", "epoch", "stream_seq")
# Nine arrays and maps of 10,000 elements (`writing.ELEMENTS_MAX`), and the few fields around them.
_SEPARATORS_MAX = 100_000
# A value is one string, or two where it has a key, and each has two of them.
_QUOTES_MAX = 4 * _SEPARATORS_MAX
_CONTEXT = tuple(field.name for field in fields(Context))


def parse_line(line: str, context: Context) -> Draft:
    """The draft of a line; `context` fills what its `meta` leaves out. Raises InvalidEvent."""
    top = _load(line)
    for name in top:
        if name not in _TOP:
            raise InvalidEvent("", expected="type, meta and data", got=f"field {shown(name)}")
    event_type = top.get("type")
    shape = DATA_SHAPES.get(event_type) if isinstance(event_type, str) else None
    if shape is None:
        # There are too many of them for one line.
        expected = "one of the types that `metaledger schema list` shows"
        raise InvalidEvent("type", expected=expected, got=shown(event_type))
    if "data" not in top:
        raise InvalidEvent("data", expected="an object", got="nothing")
    part = "data"
    try:
        data = shape.parse(top["data"])
        part = "meta"
        return _draft(data, parse_meta(top.get("meta", {})), context)
    except InvalidEvent as error:
        raise error.within(part) from error.__cause__


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
    if len(line) > _SEPARATORS_MAX and _has_too_many_values(line):
        raise InvalidEvent("", expected="an event", got="JSON of too many values")
    try:
        top = _DECODER.decode(line)
    except RecursionError:
        raise InvalidEvent("", expected="an event", got="JSON nested too deeply") from None
    except json.JSONDecodeError as error:
        got = f"what is none ({error.msg} at column {error.colno})"
        if line.startswith("\ufeff"):
            got = "a BOM at column 1"
        raise InvalidEvent("", expected="a JSON object", got=got) from error
    # int() refuses more than 4,300 digits with a plain ValueError.
    except ValueError as error:
        raise InvalidEvent("", expected="a JSON object", got=str(error)) from error
    return as_object(top)


def _has_too_many_values(line: str) -> bool:
    """Whether it would become more values than an event has; they take 20 times their bytes."""
    if _separators(line) <= _SEPARATORS_MAX:
        return False
    # What stands in strings does not count; an escaped quotation mark ends none of them.
    bare = line.replace("\\\\", "").replace('\\"', "")
    if bare.count('"') > _QUOTES_MAX:
        return True
    return _separators("".join(bare.split('"')[::2])) > _SEPARATORS_MAX


def _separators(text: str) -> int:
    return sum(map(text.count, ",[{"))


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


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant)


def _draft(data: Raw, given: Mapping[str, Raw], context: Context) -> Draft:
    who = {name: given[name] for name in _CONTEXT if name in given}
    event_id = given.get("event_id")
    return Draft(
        data=data,
        aggregate=_aggregate(data.aggregate, given.get("aggregate")),
        context=replace(context, **who) if who else context,
        origin=given.get("origin", Origin.OBSERVED),
        missed=given.get("missed", 0),
        event_id=None if event_id is None else _event_id(event_id),
        occurred_at=given.get("occurred_at"),
        number=_number(given),
    )


def _aggregate(of_data: str | None, given: str | None) -> str:
    aggregate = of_data if given is None else given
    if aggregate is None:
        raise InvalidEvent(".aggregate", expected="a value", got="nothing")
    if of_data is not None and aggregate != of_data:
        raise InvalidEvent(".aggregate", expected=shown(of_data), got=shown(aggregate))
    if not all(aggregate.partition(":")):
        raise InvalidEvent(".aggregate", expected="<kind>:<id>", got=shown(aggregate))
    return aggregate


def _event_id(text: str) -> str:
    event_id = text.lower()
    if not is_event_id(event_id):
        raise InvalidEvent(".event_id", expected="a UUID", got=shown(text))
    return event_id


def _number(given: Mapping[str, Raw]) -> StreamNumber | None:
    present = [name for name in _NUMBER if name in given]
    if not present:
        return None
    if len(present) < len(_NUMBER):
        missing = next(name for name in _NUMBER if name not in given)
        expected = "stream_id, epoch and stream_seq together, or none"
        raise InvalidEvent(f".{missing}", expected=expected, got="nothing")
    number = StreamNumber(**{name: given[name] for name in _NUMBER})
    if not number.stream_id or number.epoch < 1 or number.stream_seq < 1:
        got = f"{shown(number.stream_id)}, {number.epoch}, {number.stream_seq}"
        raise InvalidEvent(".stream_seq", expected="numbers from 1 of a named stream", got=got)
    return number

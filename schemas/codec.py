"""An event's bytes: typed event to framed Avro with its SHA-256, and back.

The bounds of RELIABILITY.md, "Avro": a size cap before anything is read, the checksum before
anything is decoded, writer schemas from the catalogue only, the payload consumed to its last byte,
nothing passed on that a store could not hold (`writing`, `reading`) or that belongs elsewhere
(`events`, `head_flaw`), and one family of errors (ContractError) for everything that is wrong with
the bytes; UnknownSchema alone is not one of them, for it asks for an upgrade and must park nothing.
"""

import hashlib
from dataclasses import dataclass

from metaledger.schemas.catalogue import SCHEMAS, Schema, latest
from metaledger.schemas.errors import ChecksumMismatch, EventTooLarge, MalformedRecord
from metaledger.schemas.events import EVENT_BY_TYPE, EVENTS, Event, EventData, Written, head_flaw
from metaledger.schemas.framing import SchemaIds, header, unframe
from metaledger.schemas.meta import Meta
from metaledger.schemas.reading import Read, Unreadable, compile_fields_reader, compile_reader
from metaledger.schemas.shape import (
    Shape,
    classes_of,
    compile_fields,
    compile_shape,
    members_parser,
)
from metaledger.schemas.times import shown
from metaledger.schemas.writing import TooMany, Unwritable, Write, repeating_writer

# Kafka refuses a record of more than 1,000,000 bytes by default; the rest is for key and headers.
EVENT_BYTES_MAX = 900_000


@dataclass(frozen=True, slots=True)
class Encoded:
    """A framed record and its SHA-256, which goes beside it from here to the read model."""

    value: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Codec:
    """Encodes and decodes events.

    With `ids` it writes the Confluent frame, without them Avro's single-object frame; with `ids` it
    reads both.
    """

    ids: SchemaIds | None = None
    event_bytes_max: int = EVENT_BYTES_MAX

    def encode(self, event: Event) -> Encoded:
        """The event's bytes. Raises EventTooLarge, and MalformedRecord for what `decode` would not
        take back: a NUL, a lone surrogate, a naive time, the head of another aggregate.
        """
        return self.encode_written(event.meta, write_data(event.data))

    def encode_written(self, meta: Meta, data: Written) -> Encoded:
        """As `encode`, with the bytes that `write_data` gave."""
        meta_bytes = _bytes_of(meta, _write_meta, f"{data.type} cannot be recorded: meta")
        if (flaw := head_flaw(meta, data.aggregate)) is not None:
            raise MalformedRecord(f"{data.type} cannot be recorded: {flaw}")
        value = header(latest(data.type), self.ids) + meta_bytes + data.value
        if len(value) > self.event_bytes_max:
            raise EventTooLarge(
                f"{data.type} of {shown(meta.aggregate)} has {len(value)} bytes, and "
                f"event_bytes_max is {self.event_bytes_max}"
            )
        return Encoded(value, hashlib.sha256(value).digest())

    def decode(self, value: bytes, sha256: bytes) -> Event:
        """The event of a record. Raises ContractError for what is wrong with the bytes, and
        UnknownSchema where this build is too old for them.
        """
        # A cap that was lowered must not make the history before it unreadable.
        bytes_max = max(self.event_bytes_max, EVENT_BYTES_MAX)
        if len(value) > bytes_max:
            raise EventTooLarge(f"the record has {len(value)} bytes, and at most {bytes_max} pass")
        if hashlib.sha256(value).digest() != sha256:
            raise ChecksumMismatch("the record's bytes do not match its SHA-256")
        schema, start = unframe(value, self.ids)
        read_meta, read_data = _READERS[schema.fingerprint]
        part = "meta"
        try:
            meta, end = read_meta(value, start)
            part = "data"
            data, end = read_data(value, end)
        except Unreadable as flaw:
            raise MalformedRecord(f"the record is no {schema.type}: {part}{flaw}") from None
        except (IndexError, ValueError, OverflowError) as error:
            raise MalformedRecord(f"the record is no {schema.type}: {shown(error)}") from error
        if end != len(value):
            raise MalformedRecord(
                f"the record has {len(value)} bytes, and its {schema.type} ends at {end}"
            )
        if (told := head_flaw(meta, data.aggregate)) is not None:
            raise MalformedRecord(f"the record is no {schema.type}: {told}")
        return Event(meta, data)


def write_data(data: EventData | Written) -> Written:
    """The data's part of an event's bytes. Raises MalformedRecord, and EventTooLarge for too many
    elements.
    """
    if isinstance(data, Written):
        return data
    event_type = type(data).__name__
    value = _bytes_of(data, DATA_SHAPES[event_type].write, f"{event_type} cannot be recorded: data")
    return Written(event_type, data.aggregate, value)


def _bytes_of(value: object, write: Write, cannot: str) -> bytes:
    try:
        return write(value)
    except TooMany as flaw:
        raise EventTooLarge(f"{cannot}{flaw}") from None
    except Unwritable as flaw:
        raise MalformedRecord(f"{cannot}{flaw}") from None
    except _NOT_OF_ITS_TYPE as error:
        raise MalformedRecord(f"{cannot}: {shown(error)}") from error


# What writing a value of another type than the field's ends in; a lone surrogate is a ValueError.
_NOT_OF_ITS_TYPE = (ValueError, TypeError, OverflowError, AttributeError, KeyError)


def _data_shape(schema: Schema) -> Shape:
    fields = schema.source["fields"][1:]
    return compile_fields(fields, EVENT_BY_TYPE[schema.type], _CLASSES)


def _readers(schema: Schema) -> tuple[Read, Read]:
    head, *rest = schema.source["fields"]
    data = compile_fields_reader(rest, EVENT_BY_TYPE[schema.type], _CLASSES)
    return compile_reader(head["type"], _CLASSES), data


_CLASSES = classes_of((*EVENTS, Meta))
_NEWEST = {event_type: latest(event_type) for event_type in EVENT_BY_TYPE}
# Every event type's first field is `meta`, and a test holds all of them to the same one.
_META_FIELDS = next(iter(_NEWEST.values())).source["fields"][0]["type"]["fields"]
_write_meta = repeating_writer(
    {node["name"]: compile_shape(node["type"], _CLASSES).write for node in _META_FIELDS},
    always_new={"event_id", "aggregate", "stream_seq", "occurred_at"},
)
# Those that are given, for the JSON form may leave out any of them.
parse_meta = members_parser(
    {node["name"]: compile_shape(node["type"], _CLASSES).parse for node in _META_FIELDS}
)
DATA_SHAPES = {name: _data_shape(schema) for name, schema in _NEWEST.items()}
_READERS = {schema.fingerprint: _readers(schema) for schema in SCHEMAS}

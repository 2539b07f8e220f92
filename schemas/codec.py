"""An event's bytes: typed event to framed Avro with its SHA-256, and back.

The bounds of RELIABILITY.md, "Avro": a size cap before anything is read, the checksum before
anything is decoded, writer schemas from the catalogue only, the payload consumed to its last byte,
nothing passed on that a store could not hold (`shape`, `flaw`) or that belongs elsewhere (`events`,
`head_flaw`), and one family of errors (ContractError) for everything that is wrong with the bytes;
UnknownSchema alone is not one of them, for it asks for an upgrade and must park nothing.
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

from fastavro import schemaless_reader, schemaless_writer

from metaledger.schemas.catalogue import Schema, latest
from metaledger.schemas.errors import ChecksumMismatch, EventTooLarge, MalformedRecord
from metaledger.schemas.events import EVENT_BY_TYPE, EVENTS, Event, head_flaw
from metaledger.schemas.framing import SchemaIds, header, unframe
from metaledger.schemas.meta import Meta
from metaledger.schemas.shape import Shape, classes_of, compile_fields
from metaledger.schemas.times import shown

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
        schema = latest(event.type)
        target = io.BytesIO()
        target.write(header(schema, self.ids))
        try:
            datum = _DATA[event.type].dump(event.data)
            datum["meta"] = _META.dump(event.meta)
            flaw = _flaw(event.type, datum) or head_flaw(event)
            if flaw is None:
                schemaless_writer(target, schema.parsed, datum)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            raise MalformedRecord(
                f"{event.type} cannot be written as Avro: {shown(error)}"
            ) from error
        if flaw is not None:
            raise MalformedRecord(f"{event.type} cannot be recorded: {flaw}")
        value = target.getvalue()
        if len(value) > self.event_bytes_max:
            raise EventTooLarge(
                f"{event.type} of {shown(event.meta.aggregate)} has {len(value)} bytes, and "
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
        source = io.BytesIO(value)
        source.seek(start)
        try:
            datum: Any = schemaless_reader(source, schema.parsed, _reader_schema(schema))
            flaw = _flaw(schema.type, datum)
            event = _event(schema.type, datum)
        # fastavro raises whatever its reading ran into: EOFError, IndexError, OverflowError …
        except Exception as error:
            raise MalformedRecord(f"the record is no {schema.type}: {shown(error)}") from error
        flaw = flaw or head_flaw(event)
        if flaw is not None:
            raise MalformedRecord(f"the record is no {schema.type}: {flaw}")
        if source.tell() != len(value):
            rest = len(value) - source.tell()
            raise MalformedRecord(f"the record has {rest} bytes after its {schema.type}")
        return event


@dataclass(frozen=True, slots=True)
class _Record:
    """What a record's shape always has."""

    dump: Any
    load: Any
    flaw: Any


def _flaw(event_type: str, datum: dict[str, Any]) -> str | None:
    if (found := _META.flaw(datum["meta"])) is not None:
        return f"meta{found}"
    found = _DATA[event_type].flaw(datum)
    return None if found is None else f"data{found}"


def _event(event_type: str, datum: dict[str, Any]) -> Event:
    meta = _META.load(datum.pop("meta"))
    return Event(meta, _DATA[event_type].load(datum))


def _reader_schema(writer: Schema) -> Any:  # noqa: ANN401 (fastavro's own form)
    """None for the newest version: resolution costs, and changes nothing there."""
    newest = latest(writer.type)
    return None if newest is writer else newest.parsed


def _shapes() -> tuple[Shape, dict[str, Shape]]:
    classes = classes_of((*EVENTS, Meta))
    newest = [latest(event_type) for event_type in EVENT_BY_TYPE]
    # Every event type's first field is `meta`, and a test holds all of them to the same one.
    head = newest[0].source["fields"][0]["type"]["fields"]
    data = {
        schema.type: compile_fields(
            schema.source["fields"][1:], EVENT_BY_TYPE[schema.type], classes
        )
        for schema in newest
    }
    return compile_fields(head, Meta, classes), data


META_SHAPE, DATA_SHAPES = _shapes()
_META = _Record(META_SHAPE.dump, META_SHAPE.load, META_SHAPE.flaw)
_DATA = {name: _Record(shape.dump, shape.load, shape.flaw) for name, shape in DATA_SHAPES.items()}

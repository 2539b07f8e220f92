"""The stored forms of what the projector remembers: a memory's row, a record that waits. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping as Row

from metaledger.projector.folds import Projection
from metaledger.projector.memory import Cause, Memory, Parked
from metaledger.projector.rows import Values
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import LogRecord, Position

_NUMBERS: "msgspec.msgpack.Decoder[list[tuple[str, int, int]]]" = msgspec.msgpack.Decoder(
    list[tuple[str, int, int]]
)
_ENCODER = msgspec.msgpack.Encoder()


class States:
    """Reads the states of aggregates, each as its projection's type."""

    def __init__(self, projections: Sequence[Projection[Any]]) -> None:
        self._decoders = {
            projection.aggregate_kind: msgspec.msgpack.Decoder(projection.state_type)
            for projection in projections
        }

    def memory(self, row: Row) -> Memory:
        """The memory of a row of `aggregate_states`; what waits is not loaded with it."""
        name = row["aggregate"]
        state = row["state"]
        numbers = _NUMBERS.decode(row["numbers"])
        parked = _parked(row)
        return Memory(
            name=name,
            partition=row["log_partition"],
            is_stored=True,
            state=None if state is None else self._decoders[name.partition(":")[0]].decode(state),
            numbers={(stream_id, epoch): seq for stream_id, epoch, seq in numbers},
            last_valid_at=row["last_valid_at"],
            parked=parked,
            quarantined=row["quarantined"],
            stored_bytes=len(state or b"") + len(row["numbers"]),
            waiting={} if parked is None else None,
        )


def state_values(memory: Memory) -> Values:
    """The row of a memory, which notes its size; a test compares it with the table's columns."""
    state = None if memory.state is None else _ENCODER.encode(memory.state)
    numbers = _ENCODER.encode(
        [(stream_id, epoch, seq) for (stream_id, epoch), seq in memory.numbers.items()]
    )
    memory.stored_bytes = len(state or b"") + len(numbers)
    parked = memory.parked
    awaited = parked.awaited if parked else None
    return (
        memory.name,
        memory.partition,
        state,
        numbers,
        memory.last_valid_at,
        memory.quarantined,
        parked.since if parked else None,
        parked.cause.value if parked else None,
        parked.offset if parked else None,
        awaited.stream_id if awaited else None,
        awaited.epoch if awaited else None,
        awaited.stream_seq if awaited else None,
    )


def stored_record(row: Row) -> LogRecord:
    """The log's record, as it was read, from a row that kept its bytes."""
    return LogRecord(
        position=Position(row["log_partition"], row["log_offset"]),
        recorded_at=row["recorded_at"],
        key=f"{row['aggregate_kind']}:{row['aggregate_id']}",
        value=row["value"],
        sha256=row["sha256"],
        event_id=row["event_id"],
        number=_number(row["stream_id"], row["epoch"], row["stream_seq"]),
    )


def _parked(row: Row) -> Parked | None:
    if row["parked_since"] is None:
        return None
    return Parked(
        cause=Cause(row["parked_reason"]),
        since=row["parked_since"],
        offset=row["parked_offset"],
        awaited=_number(row["awaited_stream_id"], row["awaited_epoch"], row["awaited_seq"]),
    )


def _number(stream_id: str | None, epoch: int | None, seq: int | None) -> StreamNumber | None:
    if stream_id is None or epoch is None or seq is None:
        return None
    return StreamNumber(stream_id=stream_id, epoch=epoch, stream_seq=seq)

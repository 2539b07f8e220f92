"""The log: append and read, nothing else. The contract that every backend keeps; no backend here.

One file a backend (`embedded`, `kafka`); `tests/log` holds the conformance suite that each passes.
The log is append-only, ordered within a partition and kept for ever. A record's partition follows
from its key alone, so what has one key has one order. Which records a log takes is the same for all
of them (`record`). In the life of an event this is its third form: bytes at a position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from metaledger.schemas.events import StreamNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecord:
    """A record to append. `key` is the aggregate; what stands beside the value names the event even
    where the value cannot be decoded.
    """

    key: str
    value: bytes
    sha256: bytes
    event_id: str
    number: StreamNumber


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a record stands. Offsets grow within a partition; they may have holes."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A record as it was read: hostile input, nothing of it verified.

    `recorded_at` is the log's append time. `sha256` is empty, `key`, `event_id` and `number` are
    None where the log holds none or nothing readable.
    """

    position: Position
    recorded_at: datetime
    key: str | None
    value: bytes
    sha256: bytes
    event_id: str | None
    number: StreamNumber | None


@dataclass(frozen=True, slots=True)
class Refused:
    """This record will never be taken as it is (too large); other keys are not affected."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """This record may or may not be in the log: append it again."""

    reason: str


Outcome = Position | Refused | Unsent

# The next offset of each partition asked for; one that is left out is read from offset 0.
Positions = Callable[[Sequence[int]], Mapping[int, int]]


class LogWriter(Protocol):
    """Appends. One writer at a time and process; made after a fork, never before."""

    def append(self, records: Sequence[NewRecord]) -> Sequence[Outcome]:
        """Appends the records and waits: one outcome a record, in their order.

        A Position means durable, on as many replicas as the log asks for. Of one key, the records
        given are appended in their order and up to the first that is not: behind a Refused or
        Unsent one, those of its key are Unsent and not in the log. Never blocks longer than the
        log's send timeout; an unreachable log is Unsent. Raises LogRefused where the log is no
        longer the one that was opened.
        """
        ...

    def close(self) -> None:
        """Gives back what the writer holds; nothing waits in it."""
        ...


class LogReader(Protocol):
    """Reads the partitions that it owns: all of them, or its share of a group's."""

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[LogRecord]:
        """The next records, in order within each partition; empty when none came in time.

        A partition that the reader comes to own is read from where `positions` says, asked at that
        moment and in the caller's thread. Few large records may be fewer than `records_max`: what
        one call gives is bounded in bytes too. Raises Unreachable (try again), LogRefused (the
        position is not in the log, or the log is no longer the one that was opened).
        """
        ...

    def owned(self) -> frozenset[int]:
        """The partitions that are read now; with a group they change inside `poll`."""
        ...

    def restart(self) -> None:
        """Forgets how far it has read, and asks `positions` again: after a commit whose outcome is
        unknown, or that another projector overtook.
        """
        ...

    def close(self) -> None:
        """Leaves the group and gives back what the reader holds."""
        ...


class Log(Protocol):
    """A log that was opened and found fit. Opening raises Unreachable within 10 s, LogRefused where
    its settings would lose history, UsageError where it does not exist.
    """

    @property
    def topic_id(self) -> str:
        """The log's identity: another id means that it was made anew."""
        ...

    @property
    def partitions(self) -> int:
        """How many there are; fixed for the log's life."""
        ...

    def writer(self) -> LogWriter:
        """A new writer, for this process."""
        ...

    def reader(self, positions: Positions, *, group: str | None = None) -> LogReader:
        """A new reader; `positions` gives the next offset of each partition asked for. With a group
        the partitions are spread over all its readers, which is no promise of exclusiveness:
        correctness rests on the compare-and-set of the checkpoint. A log of one partition may leave
        the group aside, and every reader reads it.
        """
        ...

    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """Per partition the first offset that is there and the end (next offset to be written)."""
        ...

    def close(self) -> None:
        """Gives back what the log holds."""
        ...

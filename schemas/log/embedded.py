"""The log in one SQLite file: no server, many processes, one partition.

Rules: WAL and `synchronous=FULL`, so that a returned append survives a power cut; every append is
one `BEGIN IMMEDIATE` transaction, so offsets have no holes and `recorded_at` never goes back;
triggers allow nothing but the next offset. The file appears complete or not at all, and is never
made by reading. Producers keep their counters in the same file and number and append in one
transaction: `transaction` and `append_in`.

Not here: groups. There is one partition, and every reader reads it.

Connections are closed before a fork: a child that inherited one would hold no lock and not know it.

    log = create_embedded_log(Path("metaledger.db"))
    outcomes = log.writer().append(records)
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, NoResultFound

from metaledger.schemas.errors import LogRefused, Unreachable
from metaledger.schemas.identity import Clock, NewId, system_clock, uuid7
from metaledger.schemas.log import (
    LogReader,
    LogRecord,
    LogWriter,
    NewRecord,
    Outcome,
    Position,
    Positions,
    Unsent,
)
from metaledger.schemas.log._embedded_file import (
    BEGIN,
    check_head,
    create_file,
    engine_of,
    file_identity,
    sqlite_errors,
)
from metaledger.schemas.log.record import readable_number, readable_text, readable_time, sift
from metaledger.schemas.times import time_text

# The relay and the projector end within 5 s of a SIGTERM, and waiting for a lock hears no signal.
BUSY_TIMEOUT_S: Final = 4.0

_PARTITION: Final = 0
_WAIT_S: Final = 0.05
# 18 records of the largest size; with events of 1 kB it is never met.
_READ_BYTES_MAX: Final = 16 * 2**20
_TOPIC_ID: Final = "SELECT topic_id FROM ledger"
_LAST: Final = "SELECT offset, recorded_at FROM records ORDER BY offset DESC LIMIT 1"
_BOUNDS: Final = "SELECT coalesce(min(offset), 0), coalesce(max(offset) + 1, 0) FROM records"
_APPEND: Final = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READ: Final = "SELECT * FROM records WHERE offset >= ? ORDER BY offset LIMIT ?"


def create_embedded_log(
    path: Path,
    *,
    clock: Clock = system_clock,
    new_id: NewId = uuid7,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
) -> "EmbeddedLog":
    """Opens the log, and makes it first where there is none: for those who write.

    Several processes may do so at once. Raises as `open_embedded_log`.
    """
    if not path.exists():
        create_file(path, clock=clock, new_id=new_id)
    return open_embedded_log(path, clock=clock, busy_timeout_s=busy_timeout_s)


def open_embedded_log(
    path: Path, *, clock: Clock = system_clock, busy_timeout_s: float = BUSY_TIMEOUT_S
) -> "EmbeddedLog":
    """Opens a log that is there. Raises UsageError (no such file), LogRefused (no log of ours)."""
    path = path.absolute()
    with _OPENING:
        if file_identity(path) not in {log.file for log in _OPEN}:
            check_head(path)
        log = EmbeddedLog(path, clock=clock, busy_timeout_s=busy_timeout_s)
        _OPEN.add(log)
    return log


class EmbeddedLog:
    """An open log; the protocol `Log`, and appending inside the caller's own transaction.

    Usable from several threads, and on both sides of a fork.
    """

    def __init__(self, path: Path, *, clock: Clock, busy_timeout_s: float) -> None:
        """Use `open_embedded_log`, which looks at the file first."""
        self._path = path
        self._clock = clock
        self._engine = engine_of(path, busy_timeout_s)
        self._reads = self._engine.execution_options(**{BEGIN: "BEGIN"})
        self._file = file_identity(path)
        self._topic_id = self._look_inside()

    @property
    def topic_id(self) -> str:
        """Drawn when the file was made."""
        return self._topic_id

    @property
    def partitions(self) -> int:
        """One."""
        return 1

    @property
    def file(self) -> tuple[int, int] | None:
        """The identity of the file that was opened."""
        return self._file

    @property
    def engine(self) -> Engine:
        """Connections to the file; each transaction of it is a writing one (BEGIN IMMEDIATE)."""
        return self._engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One writing transaction, for counters and records together.

        Raises Unreachable (locked for too long, disk full), LogRefused.
        """
        with sqlite_errors(self._path), self._engine.begin() as connection:
            yield connection

    def append_in(self, connection: Connection, records: Sequence[NewRecord]) -> list[Outcome]:
        """Appends inside the caller's transaction: a Position is durable when that has committed.

        The connection must be in a writing transaction of this file, as `transaction` gives one.
        Never Unsent but behind a Refused of the same key. Raises SQLAlchemy's errors.
        """
        self._check_in_place()
        wanted, outcomes = sift(records)
        if not wanted:
            return outcomes
        last_offset, last_time = connection.exec_driver_sql(_LAST).one_or_none() or (-1, "")
        recorded_at = time_text(max(self._clock(), readable_time(last_time)))
        rows: list[tuple[Any, ...]] = []
        for offset, index in enumerate(wanted, start=last_offset + 1):
            record = records[index]
            number = record.number
            rows.append(
                (
                    offset,
                    recorded_at,
                    record.key,
                    number.stream_id,
                    number.epoch,
                    number.stream_seq,
                    record.event_id,
                    record.value,
                    record.sha256,
                )
            )
            outcomes[index] = Position(_PARTITION, offset)
        connection.exec_driver_sql(_APPEND, rows)
        return outcomes

    def writer(self) -> LogWriter:
        """Several may write at once, in any process."""
        return _Writer(self)

    def reader(self, positions: Positions, *, group: str | None = None) -> LogReader:  # noqa: ARG002
        """The group has no effect: there is one partition, and every reader reads it."""
        return _Reader(self, positions)

    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """From 0 to the end."""
        with self._reading() as connection:
            first, end = connection.exec_driver_sql(_BOUNDS).one()
        return {_PARTITION: (first, end)}

    def close(self) -> None:
        """Closes its connections; the last one of all processes folds the WAL into the file."""
        with _OPENING:
            self._engine.dispose()
            _OPEN.discard(self)

    def read(self, offset: int, *, records_max: int) -> list[LogRecord]:
        """At most `records_max` records from the offset on, and some 16 MB of them."""
        records: list[LogRecord] = []
        bytes_read = 0
        with self._reading() as connection:
            for row in connection.exec_driver_sql(_READ, (offset, records_max)):
                record = _record(row)
                records.append(record)
                bytes_read += len(record.value)
                if bytes_read >= _READ_BYTES_MAX:
                    break
        return records

    def _look_inside(self) -> str:
        try:
            with self._reading() as connection:
                connection.exec_driver_sql(_LAST).one_or_none()
                return str(connection.exec_driver_sql(_TOPIC_ID).scalar_one())
        except (DBAPIError, NoResultFound) as error:
            raise LogRefused(f"{self._path} is not laid out as a Metaledger log") from error

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        self._check_in_place()
        with sqlite_errors(self._path), self._reads.connect() as connection:
            yield connection

    def _check_in_place(self) -> None:
        """An open connection stays with a file that was moved away or deleted, and loses all."""
        if file_identity(self._path) != self._file:
            raise LogRefused(
                f"{self._path} was moved, deleted or made anew while it was open: put the log back "
                "in its place and start again"
            )


class _Writer:
    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log

    def append(self, records: Sequence[NewRecord]) -> Sequence[Outcome]:
        try:
            with self._log.transaction() as connection:
                return self._log.append_in(connection, records)
        except Unreachable as error:
            return [Unsent(str(error))] * len(records)

    def close(self) -> None:
        """Holds nothing of its own."""


class _Reader:
    def __init__(self, log: EmbeddedLog, positions: Positions) -> None:
        self._log = log
        self._positions = positions
        self._next_offset: int | None = None

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[LogRecord]:
        deadline = time.monotonic() + timeout_s
        offset = self._start() if self._next_offset is None else self._next_offset
        while True:
            records = self._log.read(offset, records_max=records_max)
            if records:
                offset = records[-1].position.offset + 1
            self._next_offset = offset
            left_s = deadline - time.monotonic()
            if records or left_s <= 0:
                return records
            time.sleep(min(_WAIT_S, left_s))

    def owned(self) -> frozenset[int]:
        return frozenset({_PARTITION})

    def restart(self) -> None:
        self._next_offset = None

    def close(self) -> None:
        """Holds nothing of its own."""

    def _start(self) -> int:
        offset = self._positions([_PARTITION]).get(_PARTITION, 0)
        first, end = self._log.bounds()[_PARTITION]
        if not first <= offset <= end:
            raise LogRefused(
                f"offset {offset} is not in the log, which has {first} to {end}: it is not the log "
                "that this position was taken in"
            )
        return offset


def _record(row: Any) -> LogRecord:  # noqa: ANN401 (a row of SQLite may hold any type)
    offset, recorded_at, key, stream_id, epoch, stream_seq, event_id, value, sha256 = row
    return LogRecord(
        position=Position(_PARTITION, offset),
        recorded_at=readable_time(recorded_at),
        key=readable_text(key),
        value=_bytes(value),
        sha256=_bytes(sha256),
        event_id=readable_text(event_id),
        number=readable_number(readable_text(stream_id), epoch, stream_seq),
    )


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()


# Those that this process has open; held while one is opened, closed, or left to a child.
_OPEN: WeakSet[EmbeddedLog] = WeakSet()
_OPENING = Lock()


def _close_before_fork() -> None:
    _OPENING.acquire()
    for log in _OPEN:
        log.engine.dispose()


os.register_at_fork(
    before=_close_before_fork,
    after_in_parent=_OPENING.release,
    after_in_child=_OPENING.release,
)

"""Records to append, and readers read to their end."""

import hashlib
from collections.abc import Sequence

from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import LogReader, LogRecord, NewRecord

# An empty poll with this timeout is the end of the log; a full one returns at once.
PATIENCE_S = 1.5


def record(key: str, seq: int, value: bytes | None = None) -> NewRecord:
    held = f"{key} {seq}".encode() if value is None else value
    return NewRecord(
        key=key,
        value=held,
        sha256=hashlib.sha256(held).digest(),
        event_id=f"{key}/{seq}",
        number=StreamNumber(stream_id="stream", epoch=1, stream_seq=seq),
    )


def interleaved(*, keys: int, each: int) -> list[NewRecord]:
    return [record(f"image:{key}", seq) for seq in range(1, each + 1) for key in range(keys)]


def read_all(reader: LogReader, *, records_max: int = 1_000) -> list[LogRecord]:
    found: list[LogRecord] = []
    while batch := reader.poll(records_max=records_max, timeout_s=PATIENCE_S):
        assert len(batch) <= records_max
        found.extend(batch)
    return found


def read_count(reader: LogReader, count: int) -> list[LogRecord]:
    """Reads until there are as many; fails when the log ends before."""
    found: list[LogRecord] = []
    while len(found) < count:
        batch = reader.poll(records_max=1_000, timeout_s=30)
        assert batch, f"the log ended after {len(found)} of {count} records"
        found.extend(batch)
    return found


def by_key(records: Sequence[LogRecord]) -> dict[str | None, list[str | None]]:
    ids: dict[str | None, list[str | None]] = {}
    for found in records:
        ids.setdefault(found.key, []).append(found.event_id)
    return ids

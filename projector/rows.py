"""The rows that a batch changes, brought down to one change a key. Pure.

The last row of a key wins. What no earlier batch has written is copied in without looking; the rest
is merged; what was written before and is to go is removed, and what came and went within the batch
never was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from metaledger.projector.folds import Fact
from metaledger.projector.intake import Read
from metaledger.projector.memory import Row
from metaledger.schemas.log import LogRecord, Position
from metaledger.schemas.tables import SHARED_TABLES, TABLES
from metaledger.schemas.tables.ledger import ledger_events, parked_events, quarantined_bytes

Key = tuple[Any, ...]
Values = tuple[Any, ...]


@dataclass(slots=True)
class Change:
    """What happens to one table; values stand in the order of the table's columns."""

    copied: list[Values] = field(default_factory=list)
    merged: list[Values] = field(default_factory=list)
    removed: list[Key] = field(default_factory=list)


class Rows:
    """Gathers a batch's rows."""

    def __init__(self) -> None:
        # None: the row is to go.
        self._written: dict[str, dict[Key, Row | None]] = {name: {} for name in _ALL}
        # What no earlier batch has written, which is what a key's first change in this one says.
        self._new: dict[str, dict[Key, Row | None]] = {name: {} for name in _ALL}
        self._events: list[Values] = []

    def put(self, table: str, row: Row, *, is_new: bool) -> None:
        """The row as it is now, with all its columns."""
        new, written = self._new[table], self._written[table]
        key = _KEYS[table](row)
        if key in new or (is_new and key not in written):
            new[key] = row
        else:
            written[key] = row

    def remove(self, table: str, key: Key) -> None:
        """The row is to go, whoever wrote it."""
        rows = self._new[table] if key in self._new[table] else self._written[table]
        rows[key] = None

    def event(self, item: Read, fact: Fact) -> None:
        """An event was admitted."""
        self._events.append(_event_values(item, fact))

    def park(self, item: Read) -> None:
        """The record waits."""
        row = {**_coordinates(item), "value": item.record.value, "sha256": item.record.sha256}
        self.put(parked_events.name, row, is_new=True)

    def unpark(self, position: Position) -> None:
        """The record waits no longer."""
        self.remove(parked_events.name, (position.partition, position.offset))

    def keep_bytes(self, record: LogRecord) -> None:
        """The record goes to quarantine."""
        row = {
            "log_partition": record.position.partition,
            "log_offset": record.position.offset,
            "value": record.value,
            "sha256": record.sha256,
        }
        self.put(quarantined_bytes.name, row, is_new=True)

    def changes(self) -> dict[str, Change]:
        """All of it, table by table."""
        changes = {
            table: _change(table, new, self._written[table])
            for table, new in self._new.items()
            if new or self._written[table]
        }
        if self._events:
            changes[ledger_events.name] = Change(copied=self._events)
        return changes


def quarantine_row(item: Read, *, parks: bool) -> Row:
    """The row of a record that goes to quarantine; it has a problem."""
    problem = item.problem
    if problem is None:
        raise ValueError("a record without a problem has no place in quarantine")
    return {
        **_coordinates(item),
        "reason": problem.reason.value,
        "error": problem.error,
        "parks": parks,
        "digest": item.digest,
        "skipped_by_event": None,
    }


def _coordinates(item: Read) -> Row:
    kind, _, aggregate_id = item.key.partition(":") if item.key else (None, None, None)
    number = item.number
    return {
        "log_partition": item.record.position.partition,
        "log_offset": item.record.position.offset,
        "aggregate_kind": kind,
        "aggregate_id": aggregate_id,
        "event_id": item.event_id,
        "stream_id": number.stream_id if number else None,
        "epoch": number.epoch if number else None,
        "stream_seq": number.stream_seq if number else None,
        "recorded_at": item.record.recorded_at,
    }


def _change(table: str, new: Mapping[Key, Row | None], written: Mapping[Key, Row | None]) -> Change:
    values = _VALUES[table]
    return Change(
        copied=[values(row) for row in new.values() if row is not None],
        merged=[values(row) for row in written.values() if row is not None],
        removed=[key for key, row in written.items() if row is None],
    )


def _event_values(item: Read, fact: Fact) -> Values:
    """The row of `ledger_events`; a test compares it with the table's columns."""
    event = fact.event
    meta = event.meta
    kind, _, aggregate_id = meta.aggregate.partition(":")
    return (
        fact.position.partition,
        fact.position.offset,
        meta.event_id,
        event.type,
        kind,
        aggregate_id,
        meta.stream_id,
        meta.epoch,
        meta.stream_seq,
        meta.occurred_at,
        fact.at,
        fact.recorded_at,
        meta.origin,
        meta.service,
        meta.host,
        meta.deployment_id,
        meta.missed,
        meta.request_id,
        meta.global_request_id,
        meta.user_id,
        meta.project_id,
        meta.causation_id,
        item.data,
    )


def _getter(names: list[str]) -> Callable[[Row], Values]:
    if len(names) == 1:
        return lambda row: (row[names[0]],)
    return itemgetter(*names)


_ALL = {table.name: table for table in (*SHARED_TABLES, *TABLES)}
_KEYS = {
    name: _getter([column.name for column in table.primary_key.columns])
    for name, table in _ALL.items()
}
_VALUES = {name: _getter([column.name for column in table.columns]) for name, table in _ALL.items()}

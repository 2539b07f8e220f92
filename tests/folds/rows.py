"""Small tables that a fold's rows are put into, and what drives the folds in the tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from metaledger.projector.folds import PROJECTIONS, Put
from metaledger.schemas.events import Event
from metaledger.schemas.tables import METADATA, TABLES
from metaledger.schemas.tables.ledger import marks

from .histories import fact

_PRIMARY_KEYS = {
    table.name: tuple(column.name for column in table.primary_key)
    for table in METADATA.sorted_tables
}
_COLUMNS = {table.name: set(table.columns.keys()) for table in METADATA.sorted_tables}


@dataclass
class RowTables:
    """Tables in memory, as strict as a database: rows are complete, and new ones are new.

    `marks` say what is to be looked at, not what is: two that are equal may differ there.
    """

    tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = field(
        default_factory=lambda: {table.name: {} for table in TABLES if table is not marks}
    )
    marks: list[tuple[str, str]] = field(default_factory=list, compare=False)

    def put(self, changes: Iterable[Put]) -> None:
        """Takes the rows as they are now."""
        for change in changes:
            assert change.row.keys() == _COLUMNS[change.table]
            if change.table == marks.name:
                self.marks.append((change.row["aggregate_kind"], change.row["aggregate_id"]))
                continue
            key = tuple(change.row[name] for name in _PRIMARY_KEYS[change.table])
            assert change.is_new == (key not in self.tables[change.table]), (change.table, key)
            self.tables[change.table][key] = dict(change.row)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table's rows in the order of their keys."""
        found = self.tables[table]
        return [found[key] for key in sorted(found)]


@dataclass
class Folding:
    """Folds events one after the other into `tables`; `sleep` is what lies between two batches."""

    tables: RowTables = field(default_factory=RowTables)
    states: dict[str, Any] = field(default_factory=dict)
    offset: int = 0

    def take(self, events: Sequence[Event]) -> "Folding":
        """Folds the events."""
        for each in events:
            projection = projection_of(each.meta.aggregate)
            state = self.states.get(each.meta.aggregate)
            step = projection.fold(state, fact(each, self.offset))
            self.offset += 1
            self.states[each.meta.aggregate] = step.state
            self.tables.put(step.changes)
        return self

    def sleep(self) -> None:
        """All states become bytes, and states again."""
        for aggregate, state in self.states.items():
            stored = msgspec.msgpack.encode(state)
            state_type = projection_of(aggregate).state_type
            self.states[aggregate] = msgspec.msgpack.decode(stored, type=state_type)


def projection_of(aggregate: str) -> Any:
    """The projection that folds the aggregate's events."""
    kind = aggregate.partition(":")[0]
    return next(each for each in PROJECTIONS if each.aggregate_kind == kind)

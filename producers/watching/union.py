"""Aggregates with the rows of all their tables, read in one statement, for each is a round trip
inside somebody's request.

Rules: only reads. The caller holds the aggregates' counters already, so nobody else who records
changes them. On MariaDB the reads lock (`FOR UPDATE`), in one order: as the tables are given. Under
its repeatable read a plain read shows what was true when the transaction began, not what it is
about to change. Elsewhere they need no lock: PostgreSQL reads what is committed, and where it is
asked for a snapshot the counter's lock fails if the counter moved after that; SQLite has one
writer.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from metaledger.producers.prepared import Prepared

IDS_MAX = 500  # in one IN list; SQLite before 3.32 took 999 parameters

# From the column that holds the id to a condition.
Which = Callable[[ColumnElement[Any]], ColumnElement[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Main:
    """The table whose rows are the aggregates: the column of their ids, and what is read of them by
    name.
    """

    table: Table
    key: Column[Any]
    read: Mapping[str, ColumnElement[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A table whose rows are parts of aggregates: the column of the aggregate's id, and what is
    read of a part.
    """

    table: Table
    key: Column[Any]
    name: Column[Any] | None = None
    value: Column[Any] | None = None


class MainRow(NamedTuple):
    """An aggregate's own row, as its `read` names the columns."""

    id: str
    columns: Mapping[str, Any]
    deleted: Any


class PartRow(NamedTuple):
    """One part of an aggregate: its table, primary key, the aggregate's id, name and value."""

    table: str
    row_id: Any
    id: str
    name: Any
    value: Any
    deleted: Any


class Union:
    """The statements that read one kind of aggregate."""

    def __init__(self, main: Main, *parts: Part) -> None:
        self._main = main
        self._parts = parts
        self._names = tuple(main.read)
        self._statements = {dialect: self._of(dialect) for dialect in _DIALECTS}

    def rows(self, connection: Connection, ids: Sequence[str]) -> Iterator[MainRow | PartRow]:
        """All rows of these, locked in the order of their ids where reading locks."""
        return self._read(connection, ids, self._statements[connection.dialect.name])

    def committed(self, connection: Connection, ids: Sequence[str]) -> Iterator[MainRow | PartRow]:
        """As `rows`, on a connection whose snapshots are not stale (read committed): no locks."""
        dialect = connection.dialect.name
        # All but PostgreSQL have the same functions.
        plain = "sqlite" if dialect in _SNAPSHOTS_ARE_STALE else dialect
        return self._read(connection, ids, self._statements[plain])

    def _read(
        self, connection: Connection, ids: Sequence[str], statement: "_Statements"
    ) -> Iterator[MainRow | PartRow]:
        # All rows at once: the driver has them, and one by one they take SQLAlchemy longer.
        ordered = sorted(set(ids))
        if len(ordered) == 1:
            yield from self._told(statement.of_one.execute(connection, {"id": ordered[0]}).all())
            return
        for start in range(0, len(ordered), IDS_MAX):
            named = {"ids": ordered[start : start + IDS_MAX]}
            yield from self._told(connection.execute(statement.of_many, named).all())

    def _told(self, rows: Sequence[Any]) -> Iterator[MainRow | PartRow]:
        for row in rows:
            source, row_id, id_, name, value, deleted = json.loads(row[0]) if len(row) == 1 else row
            if row_id is None:
                values = json.loads(value) if isinstance(value, str) else value
                yield MainRow(id_, dict(zip(self._names, values, strict=True)), deleted)
            else:
                yield PartRow(source, row_id, id_, name, value, deleted)

    def _of(self, dialect: str) -> "_Statements":
        return _Statements(
            of_one=Prepared(self._union(dialect, lambda key: key == bindparam("id"))),
            of_many=self._union(dialect, lambda key: key.in_(bindparam("ids", expanding=True))),
        )

    def _union(self, dialect: str, which: Which) -> CompoundSelect[Any]:
        # The main table comes first, and a part with name and value second: so PostgreSQL finds a
        # type for each column.
        selects = [
            self._select_main(dialect, which),
            *(_select(dialect, it, which) for it in self._parts),
        ]
        if dialect not in _SNAPSHOTS_ARE_STALE:
            return union_all(*selects)
        # In brackets, or a lock would stand before UNION.
        return union_all(*(it.with_for_update().self_group() for it in selects))

    def _select_main(self, dialect: str, which: Which) -> Select[Any]:
        """Its columns as one value, a JSON array, for PyMySQL reads each column of each row in
        Python: twenty columns would take it longer than the round trip.
        """
        main = self._main
        build = func.json_build_array if dialect == "postgresql" else func.json_array
        # PostgreSQL alone has a type for JSON; MariaDB's CAST would choose a character set.
        array = build(*main.read.values())
        value = cast(array, Text) if dialect == "postgresql" else array
        columns = (null(), main.key, null(), value, main.table.c.deleted)
        return select(*_in_row(dialect, _source(main.table), *columns)).where(which(main.key))


@dataclass(frozen=True, slots=True)
class _Statements:
    """A dialect's statement for many, and the one that a request nearly always needs: it costs
    less, for SQLAlchemy writes an IN list anew each time.
    """

    of_one: Prepared
    of_many: CompoundSelect[Any]


def _select(dialect: str, part: Part, which: Which) -> Select[Any]:
    """A table's rows as (source, row id, aggregate's id, name, value, deleted)."""
    name = null() if part.name is None else part.name
    value = null() if part.value is None else part.value
    columns = (part.table.c.id, part.key, name, value, part.table.c.deleted)
    return select(*_in_row(dialect, _source(part.table), *columns)).where(which(part.key))


def _in_row(dialect: str, *columns: ColumnElement[Any]) -> Sequence[ColumnElement[Any]]:
    """The columns of a row; all of them in one JSON array where PyMySQL would read them, and what
    it is told of each, in Python.
    """
    return [func.json_array(*columns)] if dialect in _SNAPSHOTS_ARE_STALE else columns


def _source(table: Table) -> ColumnElement[Any]:
    return literal_column(f"'{table.name}'")


_SNAPSHOTS_ARE_STALE = frozenset({"mysql", "mariadb"})
_DIALECTS = ("postgresql", "sqlite", *sorted(_SNAPSHOTS_ARE_STALE))

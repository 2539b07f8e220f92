"""Which aggregates a statement touches, read from the statement itself. No SQL is run here.

Covers what SQLAlchemy hands to the engine as an expression: Insert, Update, Delete (an ORM flush, a
bulk `Query.update` and Core look alike there), and the `DeleteFromSelect` of `glance-manage db
purge`, which deletes live properties too: a key that was added again keeps its old `deleted_at`,
and that is what it goes by. Not covered, for the engine sees no expression: SQL as text. What such
SQL did shows at the aggregate's next change, as an anomaly (`history_gap`).

A statement of these kinds that is not understood raises NotUnderstood: better counted than passed
over. A deletion of rows that were no longer live tells nothing and touches nothing, so a purge of a
hundred thousand old rows costs one query a table. Watched tables have a column `deleted`, and `id`
is their primary key.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    CursorResult,
    Select,
    Table,
    literal,
    select,
    true,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import DMLWhereBase
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList
from sqlalchemy.sql.expression import (
    ClauseElement,
    Delete,
    Insert,
    SelectBase,
    Update,
    UpdateBase,
)

from metaledger.producers.watching.service import Watched
from metaledger.schemas.errors import MetaledgerError

Row = Mapping[str, Any]
# The aggregate that a row belongs to, by table and primary key.
Owners = Mapping[tuple[str, Any], str]


class NotUnderstood(MetaledgerError):
    """A statement changes aggregates, and which ones cannot be read from it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A statement that changes a watched table; `rows` are its parameters, at least one."""

    statement: UpdateBase
    table: Table
    watched: Watched
    rows: Sequence[Row]

    @property
    def registers(self) -> bool:
        """Whether it makes aggregates, which then did not exist before."""
        return isinstance(self.statement, Insert) and self.watched.registers

    @property
    def drops(self) -> bool:
        """Whether it deletes rows for good, rather than marks them."""
        return isinstance(self.statement, Delete)

    def aggregate(self, id_: object) -> str:
        """The aggregate with the id."""
        return f"{self.watched.kind}:{id_}"


def target_of(
    statement: ClauseElement,
    multiparams: Any,  # noqa: ANN401
    params: Any,  # noqa: ANN401
    tables: Mapping[str, Watched],
) -> Target | None:
    """The arguments of `before_execute`, where they change what a table tells; else None."""
    # Most statements only read.
    if not isinstance(statement, UpdateBase):
        return None
    table = getattr(statement, "table", None)
    if not isinstance(table, Table) or (watched := tables.get(table.name)) is None:
        return None
    if watched.when is not None and not watched.when():
        return None
    rows, tells = multiparams or [params or {}], watched.tells
    if isinstance(statement, Update) and tells and not tells(_set_columns(statement, rows)):
        return None
    return Target(statement, table, watched, rows)


def named(target: Target, owners: Owners) -> frozenset[str] | None:
    """What the statement names; None where it does not, and the database has to be asked.

    A row that is named by its own key stands for its aggregate where `owners` knows it. An Insert
    that leaves the aggregate's own id to a default names none: an empty set.
    """
    if isinstance(target.statement, Insert):
        if target.statement.select is not None:
            return None
        inserted = frozenset(_inserted(target))
        if not inserted and not target.registers:
            raise NotUnderstood(f"an INSERT into {target.table.name} computes its owner's id")
        return inserted
    where, table = _where(target), target.table
    if where is None:
        return None
    found: set[str] = set()
    for row in target.rows:
        ids = _pinned(where, table, target.watched.key, row)
        if ids is not None:
            found.update(target.aggregate(it) for it in ids)
            continue
        keys = _pinned(where, table, "id", row)
        its = None if keys is None else [owners.get((table.name, key)) for key in keys]
        if its is None or None in its:
            return None
        found.update(it for it in its if it is not None)
    return frozenset(found)


def query_of_ids(target: Target) -> Select[Any]:
    """The ids that the statement's WHERE or SELECT finds, to be run once with each of its rows.

    Raises NotUnderstood.
    """
    if isinstance(target.statement, Insert):
        return _selected(target.statement, target.watched.key)
    where = _where(target)
    if where is None:
        raise NotUnderstood(f"{type(target.statement).__name__} on {target.table.name}")
    query = select(target.table.c[target.watched.key]).where(where)
    if not isinstance(target.statement, Update):
        deleted = target.table.c.deleted
        # A boolean in Glance, and in Nova the row's own id.
        query = query.where(deleted == literal(0, deleted.type))
    return query


def made(target: Target, result: CursorResult[Any]) -> set[str]:
    """What an Insert that named nothing made. Raises NotUnderstood, InvalidRequestError."""
    ids = set[str]()
    if target.watched.key == "id":
        ids = {key[0] for key in result.inserted_primary_key_rows if key and key[0] is not None}
    if not ids:
        raise NotUnderstood(f"an INSERT into {target.table.name} computes its ids")
    return {target.aggregate(it) for it in ids}


def _set_columns(statement: Update, rows: Sequence[Row]) -> frozenset[str]:
    """The names of the columns that it sets, and of some parameters beside."""
    # There is no public way; `values` takes names, columns, and attributes of the ORM.
    values: Any = getattr(statement, "_values", None) or ()
    ordered: Any = getattr(statement, "_ordered_values", None) or ()
    columns = (*values, *(column for column, _ in ordered))
    return frozenset(getattr(it, "key", it) for it in columns).union(*rows)


def _selected(statement: Insert, key: str) -> Select[Any]:
    """The key of INSERT … SELECT; an ORM's Select has columns by their place alone."""
    names = list(statement._select_names or ())  # noqa: SLF001 (there is no public way)
    if key not in names or not isinstance(statement.select, SelectBase):
        raise NotUnderstood(f"INSERT … SELECT without {key}")
    found = statement.select.subquery()
    return select(list(found.c)[names.index(key)])


def _inserted(target: Target) -> Iterator[str]:
    key = target.watched.key
    given = [row[key] for row in target.rows if row.get(key) is not None]
    if given:
        yield from map(target.aggregate, given)
        return
    # The values stand in the statement itself: `image_id`, or `image_id_m1` … where it has many.
    for name, value in target.statement.compile().params.items():
        if value is not None and re.fullmatch(rf"{key}(_m\d+)?", name):
            yield target.aggregate(value)


def _where(target: Target) -> ColumnElement[bool] | None:
    statement = target.statement
    if isinstance(statement, DMLWhereBase):
        where = statement.whereclause
        # Without a WHERE all rows are meant.
        return true() if where is None else where
    found, column = getattr(statement, "select", None), getattr(statement, "column", None)
    if isinstance(found, Select) and isinstance(column, ColumnElement):
        # A subquery in FROM, for MySQL knows no LIMIT in one of IN.
        return column.in_(select(found.subquery()))
    return None


def _pinned(where: Any, table: Table, name: str, row: Row) -> Sequence[Any] | None:  # noqa: ANN401
    """The values of which a conjunction asks a column to have one; None where it asks nothing."""
    if isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        found = (_pinned(term, table, name, row) for term in where.clauses)
        return next((values for values in found if values is not None), None)
    if not isinstance(where, BinaryExpression) or not isinstance(where.right, BindParameter):
        return None
    left = where.left
    if not isinstance(left, ColumnClause) or left.name != name:
        return None
    if getattr(left.table, "name", None) != table.name:
        return None
    value = row.get(where.right.key, where.right.effective_value)
    if where.operator is operators.eq:
        return [value]
    return list(value) if where.operator is operators.in_op else None

"""Which images a statement touches, read from the statement itself. No SQL is run here.

Covers what SQLAlchemy hands to the engine as an expression: Insert, Update, Delete (an ORM flush, a
bulk `Query.update` and Core look alike there), and Glance's own `DeleteFromSelect` of
`glance-manage db purge`, which deletes live properties too: a key that was added again keeps its
old `deleted_at`, and that is what it goes by. Not covered, for the engine sees no expression: SQL
as text. What such SQL did shows at the image's next change, as an anomaly (`history_gap`).

A statement of these kinds that is not understood raises NotUnderstood: better counted than passed
over. A deletion of rows that were no longer live tells nothing and touches nothing, so a purge of a
hundred thousand old images costs one query a table.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnClause, ColumnElement, CursorResult, Select, Table, false, select, true
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

from metaledger.schemas.errors import MetaledgerError

# The tables that tell of an image, each with the column that names it.
WATCHED = {
    "images": "id",
    "image_properties": "image_id",
    "image_tags": "image_id",
    "image_locations": "image_id",
}
PROPERTIES = "image_properties"

Row = Mapping[str, Any]
# The image that a row belongs to: (table, primary key) to image id.
Owners = Mapping[tuple[str, Any], str]


class NotUnderstood(MetaledgerError):
    """A statement changes images, and which ones cannot be read from it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A statement that changes a watched table; `rows` are its parameters, at least one."""

    statement: UpdateBase
    table: Table
    rows: Sequence[Row]

    @property
    def registers(self) -> bool:
        """Whether it makes images, which then did not exist before."""
        return isinstance(self.statement, Insert) and self.table.name == "images"

    @property
    def drops_properties(self) -> bool:
        """Whether it deletes rows of properties for good, rather than marks them."""
        return isinstance(self.statement, Delete) and self.table.name == PROPERTIES

    @property
    def image_column(self) -> ColumnElement[Any]:
        """The column that names the image."""
        return self.table.c[WATCHED[self.table.name]]


def target_of(statement: ClauseElement, multiparams: Any, params: Any) -> Target | None:  # noqa: ANN401
    """The arguments of `before_execute`, where they change a watched table; else None."""
    # Most statements only read.
    if not isinstance(statement, UpdateBase):
        return None
    table = getattr(statement, "table", None)
    if not isinstance(table, Table) or table.name not in WATCHED:
        return None
    return Target(statement, table, multiparams or [params or {}])


def named_images(target: Target, owners: Owners) -> frozenset[str] | None:
    """The ids that the statement names; None where it does not, and the database has to be asked.

    A row that is named by its own key stands for its image where `owners` knows it. An Insert that
    leaves an image's own id to a default names none: an empty set.
    """
    if isinstance(target.statement, Insert):
        if target.statement.select is not None:
            return None
        inserted = frozenset(_inserted(target))
        if not inserted and not target.registers:
            raise NotUnderstood(f"an INSERT into {target.table.name} computes its image's id")
        return inserted
    where, table = _where(target), target.table
    if where is None:
        return None
    named: set[str] = set()
    for row in target.rows:
        found = _pinned(where, table, WATCHED[table.name], row)
        if found is None and (keys := _pinned(where, table, "id", row)) is not None:
            found = [owners.get((table.name, key)) for key in keys]
        if found is None or None in found:
            return None
        named.update(found)
    return frozenset(named)


def query_of_images(target: Target) -> Select[Any]:
    """The ids that the statement's WHERE or SELECT finds, to be run once with each of its rows.

    Raises NotUnderstood.
    """
    if isinstance(target.statement, Insert):
        return _selected(target.statement, WATCHED[target.table.name])
    where = _where(target)
    if where is None:
        raise NotUnderstood(f"{type(target.statement).__name__} on {target.table.name}")
    query = select(target.image_column).where(where)
    if not isinstance(target.statement, Update):
        query = query.where(target.table.c.deleted == false())
    return query


def made_images(result: CursorResult[Any]) -> set[str]:
    """The ids that an Insert into `images` gave. Raises NotUnderstood, InvalidRequestError."""
    made = {key[0] for key in result.inserted_primary_key_rows if key and key[0] is not None}
    if not made:
        raise NotUnderstood("an INSERT into images computes its ids")
    return made


def _selected(statement: Insert, key: str) -> Select[Any]:
    """The image's column of INSERT … SELECT; an ORM's Select has columns by their place alone."""
    names = list(statement._select_names or ())  # noqa: SLF001 (there is no public way)
    if key not in names or not isinstance(statement.select, SelectBase):
        raise NotUnderstood(f"INSERT … SELECT without {key}")
    found = statement.select.subquery()
    return select(list(found.c)[names.index(key)])


def _inserted(target: Target) -> Iterator[str]:
    key = WATCHED[target.table.name]
    given = [row[key] for row in target.rows if row.get(key) is not None]
    if given:
        yield from given
        return
    # The values stand in the statement itself: `image_id`, or `image_id_m1` … where it has many.
    for name, value in target.statement.compile().params.items():
        if value is not None and re.fullmatch(rf"{key}(_m\d+)?", name):
            yield value


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

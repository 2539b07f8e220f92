"""Many rows as one array a column, for PostgreSQL: it takes half of what a list of VALUES takes.

There SQLAlchemy names each value of each row anew, and the server parses and plans each of them. An
array goes as one text, in the server's own form: of a list psycopg2 makes an expression for each
value. The rows keep their order, so locks are taken in it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    TableValuedAlias,
    Text,
    TypeDecorator,
    any_,
    bindparam,
    cast,
    column,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY

from metaledger.producers.tables import microseconds


class ArrayText(TypeDecorator[Sequence[Any]]):
    """The text of an array of what our tables hold: one parameter, whatever it has."""

    impl = Text
    cache_ok = True

    # typing.override asks for Python 3.12; SQLAlchemy passes all by position.
    def process_bind_param(  # type: ignore[explicit-override]
        self, value: Sequence[Any] | None, _dialect: Dialect
    ) -> str | None:
        """From texts, bytes, integers, or aware times."""
        return None if value is None else "{" + ",".join([_member(it) for it in value]) + "}"


def _member(value: str | bytes | int | datetime | None) -> str:
    if isinstance(value, str):
        if "\\" in value or '"' in value:
            value = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{value}"'
    if isinstance(value, bytes):
        return rf'"\\x{value.hex()}"'
    if isinstance(value, datetime):
        return str(microseconds(value))
    return "NULL" if value is None else str(value)


def unnested(*columns: Column[Any]) -> TableValuedAlias:
    """A table with these columns; a statement on it takes `arrays`."""
    given = (cast(bindparam(it.name, type_=ArrayText()), ARRAY(it.type)) for it in columns)
    table = func.unnest(*given).table_valued(*(column(it.name, it.type) for it in columns))
    return table.render_derived(name="given")


def in_array(column: Column[Any], name: str) -> ColumnElement[bool]:
    """Whether the column is one of the parameter's values, however many, as one parameter."""
    return column == any_(cast(bindparam(name, type_=ArrayText()), ARRAY(column.type)))


def arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of one or more rows by column."""
    return {name: [row[name] for row in rows] for name in rows[0]}

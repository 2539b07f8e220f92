"""Bulk writing for SQLite: few statements of as many rows as one takes.

While a statement runs, Python's driver leaves the interpreter to other threads. With `executemany`
it asks for it back with every row, and waits up to 5 ms for a thread that is busy.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import JSON, Column, ColumnElement, Connection, Table, func, select
from sqlalchemy.types import TypeEngine

from metaledger.projector.rows import Values
from metaledger.schemas.tables import UtcTime
from metaledger.schemas.times import time_text

Encode = Callable[[Any], Any]
# In one statement, since SQLite 3.32 of 2020.
_VARIABLES_MAX = 32_766


class SqliteBulk:
    """See `Bulk`."""

    def among(
        self, column: ColumnElement[Any], values: Sequence[str] | Sequence[int]
    ) -> ColumnElement[bool]:
        """One JSON array: SQLite has a limit on parameters, and none on this."""
        listed = func.json_each(msgspec.json.encode(values).decode()).table_valued("value")
        return column.in_(select(listed.c.value))

    def form(self, table: Table, rows: Sequence[Values]) -> list[Values]:
        """The rows, in the types that SQLite has."""
        columns = zip(table.columns, zip(*rows, strict=True), strict=True)
        return list(zip(*(_encoded(column, values) for column, values in columns), strict=True))

    def copy(self, connection: Connection, table: Table, form: list[Values]) -> None:
        """A row that is there already is an error."""
        self._insert(connection, table, form, "")

    def merge(self, connection: Connection, table: Table, form: list[Values]) -> None:
        """A row that is there already is replaced in place."""
        keys = {column.name for column in table.primary_key.columns}
        sets = ", ".join(
            f"{column.name} = excluded.{column.name}"
            for column in table.columns
            if column.name not in keys
        )
        self._insert(connection, table, form, f" ON CONFLICT DO UPDATE SET {sets}")

    def _insert(
        self, connection: Connection, table: Table, form: list[Values], otherwise: str
    ) -> None:
        names = ", ".join(column.name for column in table.columns)
        row = f"({', '.join('?' for _ in table.columns)})"
        rows_max = _VARIABLES_MAX // len(table.columns)
        for start in range(0, len(form), rows_max):
            rows = form[start : start + rows_max]
            values = ", ".join([row] * len(rows))
            statement = f"INSERT INTO {table.name} ({names}) VALUES {values}{otherwise}"
            connection.exec_driver_sql(statement, tuple(chain.from_iterable(rows)))


def _encoded(column: Column[Any], values: Sequence[Any]) -> Sequence[Any]:
    encode = _encoder(column.type)
    if encode is None:
        return values
    return [None if value is None else encode(value) for value in values]


def _encoder(kind: TypeEngine[Any]) -> Encode | None:
    """None where the driver takes the value as it is."""
    if isinstance(kind, UtcTime):
        return _time
    return _json if isinstance(kind, JSON) else None


@lru_cache(maxsize=4_096)  # the rows of an event share its time
def _time(value: datetime) -> str:
    return time_text(value)


def _json(value: Any) -> str:  # noqa: ANN401 (bytes are JSON already)
    return (value if isinstance(value, bytes) else msgspec.json.encode(value)).decode()

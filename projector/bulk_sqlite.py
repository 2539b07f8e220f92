"""Bulk writing for SQLite: one prepared statement for many rows."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import JSON, ColumnElement, Connection, Table, func, select
from sqlalchemy.types import TypeEngine

from metaledger.projector.rows import Values
from metaledger.schemas.tables import UtcTime
from metaledger.schemas.times import time_text

Encode = Callable[[Any], Any]


class SqliteBulk:
    """See `Bulk`."""

    def among(
        self, column: ColumnElement[Any], values: Sequence[str] | Sequence[int]
    ) -> ColumnElement[bool]:
        """One JSON array: SQLite has a limit on parameters, and none on this."""
        listed = func.json_each(msgspec.json.encode(values).decode()).table_valued("value")
        return column.in_(select(listed.c.value))

    def copy(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """A row that is there already is an error."""
        self._insert(connection, table, rows, "")

    def merge(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """A row that is there already is replaced in place."""
        keys = {column.name for column in table.primary_key.columns}
        sets = ", ".join(
            f"{column.name} = excluded.{column.name}"
            for column in table.columns
            if column.name not in keys
        )
        self._insert(connection, table, rows, f" ON CONFLICT DO UPDATE SET {sets}")

    def _insert(
        self, connection: Connection, table: Table, rows: Sequence[Values], otherwise: str
    ) -> None:
        names = ", ".join(column.name for column in table.columns)
        marks = ", ".join("?" for _ in table.columns)
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks}){otherwise}"
        connection.exec_driver_sql(statement, list(_encoded(table, rows)))


def _encoded(table: Table, rows: Sequence[Values]) -> Iterator[Values]:
    encoders = [
        (index, encode)
        for index, column in enumerate(table.columns)
        if (encode := _encoder(column.type)) is not None
    ]
    for row in rows:
        values = list(row)
        for index, encode in encoders:
            if values[index] is not None:
                values[index] = encode(values[index])
        yield tuple(values)


def _encoder(kind: TypeEngine[Any]) -> Encode | None:
    """None where the driver takes the value as it is."""
    if isinstance(kind, UtcTime):
        return _time
    return _json if isinstance(kind, JSON) else None


def _time(value: datetime) -> str:
    return time_text(value)


def _json(value: Any) -> str:  # noqa: ANN401 (bytes are JSON already)
    return (value if isinstance(value, bytes) else msgspec.json.encode(value)).decode()

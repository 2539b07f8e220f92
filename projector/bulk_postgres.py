"""Bulk writing for PostgreSQL: COPY, straight into the table or through a temporary one."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from io import StringIO
from typing import Any

import msgspec
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    Table,
    Text,
    any_,
    literal,
)
from sqlalchemy.types import TypeEngine

from metaledger.projector.rows import Values
from metaledger.schemas.tables import UtcTime

Encode = Callable[[Any], str]

# COPY's text format (PostgreSQL, "COPY", "File Formats").
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"


class PostgresBulk:
    """See `Bulk`."""

    def among(
        self, column: ColumnElement[Any], values: Sequence[str] | Sequence[int]
    ) -> ColumnElement[bool]:
        """One array."""
        kind = BigInteger() if isinstance(column.type, Integer) else Text()
        return column == any_(literal(list(values), ARRAY(kind)))

    def copy(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """Straight into the table: a row that is there already is an error."""
        _copy(connection, _place(connection, table), table, rows)

    def merge(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """Through a temporary table, which the connection keeps and every commit empties."""
        place = _place(connection, table)
        waiting = f"ml_merge_{table.name}"
        names = ", ".join(column.name for column in table.columns)
        key = ", ".join(column.name for column in table.primary_key.columns)
        sets = ", ".join(
            f"{column.name} = excluded.{column.name}"
            for column in table.columns
            if not column.primary_key
        )
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {waiting} (LIKE {place}) ON COMMIT DELETE ROWS"
        )
        _copy(connection, waiting, table, rows)
        connection.exec_driver_sql(
            f"INSERT INTO {place} ({names}) SELECT {names} FROM {waiting} "
            f"ON CONFLICT ({key}) DO UPDATE SET {sets}"
        )


def _place(connection: Connection, table: Table) -> str:
    places = connection.get_execution_options()["schema_translate_map"]
    return f"{places.get(table.schema, table.schema)}.{table.name}"


def _copy(connection: Connection, place: str, table: Table, rows: Iterable[Values]) -> None:
    encoders = [_encoder(column.type) for column in table.columns]
    names = ", ".join(column.name for column in table.columns)
    lines = StringIO()
    for row in rows:
        fields = [
            _NULL if value is None else encode(value)
            for encode, value in zip(encoders, row, strict=True)
        ]
        lines.write("\t".join(fields))
        lines.write("\n")
    lines.seek(0)
    cursor = connection.connection.cursor()
    try:
        cursor.copy_expert(f"COPY {place} ({names}) FROM STDIN", lines)
    finally:
        cursor.close()


def _encoder(kind: TypeEngine[Any]) -> Encode:
    match kind:
        case UtcTime():
            return _time
        case JSON():
            return _json
        case LargeBinary():
            return _bytes
        case Boolean():
            return _boolean
        case Integer():
            return str
        case Text():
            return _text
        case _:
            raise TypeError(f"no table has a column of {kind}")


def _text(value: str) -> str:
    return value.translate(_ESCAPES)


def _time(value: datetime) -> str:
    return value.isoformat()


def _json(value: Any) -> str:  # noqa: ANN401 (bytes are JSON already)
    text = (value if isinstance(value, bytes) else msgspec.json.encode(value)).decode()
    return text.translate(_ESCAPES)


def _bytes(value: bytes) -> str:
    return "\\\\x" + value.hex()


def _boolean(value: bool) -> str:
    return "t" if value else "f"

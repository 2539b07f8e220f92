"""Bulk writing for PostgreSQL: COPY, straight into the table or through a temporary one."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from typing import Any

import msgspec
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
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

# COPY's CSV format (PostgreSQL, "COPY", "File Formats"), in which a backslash is an ordinary
# character: JSON and bytes have nothing to escape. Delimiter, quote and null are control characters
# that a value hardly ever has, so most batches have nothing to quote either.
_DELIMITER = "\t"
_QUOTE = "\x01"
_NULL = "\x02"
_FORMAT = "FORMAT csv, DELIMITER E'\\t', QUOTE E'\\x01', NULL E'\\x02'"
# The thread that writes has to wait for its turn with every chunk that it reads.
_CHUNK_BYTES = 1 << 20


class PostgresBulk:
    """See `Bulk`."""

    def among(
        self, column: ColumnElement[Any], values: Sequence[str] | Sequence[int]
    ) -> ColumnElement[bool]:
        """One array."""
        kind = BigInteger() if isinstance(column.type, Integer) else Text()
        return column == any_(literal(list(values), ARRAY(kind)))

    def form(self, table: Table, rows: Sequence[Values]) -> bytes:
        """The lines that COPY reads."""
        return _lines(table, rows).encode()

    def copy(self, connection: Connection, table: Table, form: bytes) -> None:
        """Straight into the table: a row that is there already is an error."""
        _copy(connection, _place(connection, table), table, form)

    def merge(self, connection: Connection, table: Table, form: bytes) -> None:
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
        _copy(connection, waiting, table, form)
        connection.exec_driver_sql(
            f"INSERT INTO {place} ({names}) SELECT {names} FROM {waiting} "
            f"ON CONFLICT ({key}) DO UPDATE SET {sets}"
        )


def _place(connection: Connection, table: Table) -> str:
    places = connection.get_execution_options()["schema_translate_map"]
    return f"{places.get(table.schema, table.schema)}.{table.name}"


def _copy(connection: Connection, place: str, table: Table, lines: bytes) -> None:
    names = ", ".join(column.name for column in table.columns)
    cursor = connection.connection.cursor()
    try:
        statement = f"COPY {place} ({names}) FROM STDIN ({_FORMAT})"
        cursor.copy_expert(statement, BytesIO(lines), _CHUNK_BYTES)
    finally:
        cursor.close()


def _lines(table: Table, rows: Sequence[Values]) -> str:
    """The rows as COPY reads them, column by column: there are few columns and many rows."""
    columns = list(zip(*rows, strict=True))
    nulls = sum(
        values.count(None)
        for column, values in zip(table.columns, columns, strict=True)
        if column.nullable
    )
    fields = [
        _fields(column, values) for column, values in zip(table.columns, columns, strict=True)
    ]
    lines = _joined(fields)
    if (
        lines.count(_DELIMITER) == len(rows) * (len(fields) - 1)
        and lines.count("\n") == len(rows)
        and "\r" not in lines
        and _QUOTE not in lines
        and lines.count(_NULL) == nulls
    ):
        return lines
    # A value has one of our own characters in it: all of them are quoted.
    return _joined(
        [
            [_NULL if value is None else _quoted(field) for value, field in zip(*pair, strict=True)]
            for pair in zip(columns, fields, strict=True)
        ]
    )


def _joined(fields: Sequence[Sequence[str]]) -> str:
    return "\n".join(map(_DELIMITER.join, zip(*fields, strict=True))) + "\n"


def _quoted(field: str) -> str:
    return _QUOTE + field.replace(_QUOTE, _QUOTE * 2) + _QUOTE


def _fields(column: Column[Any], values: Sequence[Any]) -> Sequence[str]:
    """A column's values as text."""
    encode = _encoder(column.type)
    if column.nullable:
        return [
            _NULL if value is None else value if encode is None else encode(value)
            for value in values
        ]
    return values if encode is None else [encode(value) for value in values]


def _encoder(kind: TypeEngine[Any]) -> Encode | None:
    """How a value that is not None becomes text; None where it is text."""
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
            return None
        case _:
            raise TypeError(f"no table has a column of {kind}")


@lru_cache(maxsize=4_096)  # the rows of an event share its time
def _time(value: datetime) -> str:
    return value.isoformat()


def _json(value: Any) -> str:  # noqa: ANN401 (bytes are JSON already)
    return (value if isinstance(value, bytes) else msgspec.json.encode(value)).decode()


def _bytes(value: bytes) -> str:
    return "\\x" + value.hex()


def _boolean(value: bool) -> str:
    return "t" if value else "f"

"""Bulk writing for PostgreSQL: COPY, straight into the table or through a temporary one."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from io import BytesIO
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
# Null is one control character: with \\N every line would have something to escape.
_NULL = "\x02"
_NULL_ESCAPED = "\\x02"
_ESCAPES = str.maketrans(
    {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", _NULL: _NULL_ESCAPED}
)
_CHUNK_BYTES = 1 << 16


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
    encoders = [
        (index, encode)
        for index, column in enumerate(table.columns)
        if (encode := _encoder(column.type)) is not None
    ]
    lines = BytesIO("".join([_line(row, encoders) for row in rows]).encode())
    names = ", ".join(column.name for column in table.columns)
    statement = f"COPY {place} ({names}) FROM STDIN WITH (NULL E'{_NULL_ESCAPED}')"
    cursor = connection.connection.cursor()
    try:
        cursor.copy_expert(statement, lines, _CHUNK_BYTES)
    finally:
        cursor.close()


def _line(row: Values, encoders: Sequence[tuple[int, Encode]]) -> str:
    """A row as a line; most have nothing to escape, which one look at the whole line tells."""
    fields = list(row)
    nulls = fields.count(None)
    for index, encode in encoders:
        if fields[index] is not None:
            fields[index] = encode(fields[index])
    if nulls:
        line = "\t".join([_NULL if field is None else field for field in fields])
    else:
        line = "\t".join(fields)
    if (
        "\\" in line
        or "\n" in line
        or "\r" in line
        or line.count("\t") != len(fields) - 1
        or line.count(_NULL) != nulls
    ):
        line = "\t".join(
            [_NULL if field is None else field.translate(_ESCAPES) for field in fields]
        )
    return line + "\n"


def _encoder(kind: TypeEngine[Any]) -> Encode | None:
    """How a value that is not None becomes text; None where it is text."""
    match kind:
        case UtcTime():
            return datetime.isoformat
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


def _json(value: Any) -> str:  # noqa: ANN401 (bytes are JSON already)
    return (value if isinstance(value, bytes) else msgspec.json.encode(value)).decode()


def _bytes(value: bytes) -> str:
    return "\\x" + value.hex()


def _boolean(value: bool) -> str:
    return "t" if value else "f"

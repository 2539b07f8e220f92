"""What the questions of all files here are made of: text with typed parameters, and its rows."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Boolean, Connection, TextualSelect, bindparam, text
from sqlalchemy.types import TypeEngine

from metaledger.schemas.tables import JsonValue, UtcTime

Row = dict[str, Any]
# As of the end of time is now.
END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)

_TIMES = (
    "occurred_at",
    "recorded_at",
    "registered_at",
    "registration_told_at",
    "data_uploaded_at",
    "booted_at",
    "boot_told_at",
    "deleted_at",
    "removed_at",
    "taken_at",
    "since",
    "due_since",
    "valid_from",
    "valid_to",
    "ended_at",
    "oldest_unsent_at",
    "reported_at",
    "last_recorded_at",
)
_DOCUMENTS = ("details", "driver_info", "extra", "failure", "relocation")
# SQLite has numbers for them.
_FLAGS = ("declared_lost", "parks")


def query(sql: str, *times: str) -> TextualSelect:
    """A query whose known columns and named parameters have the types of the tables."""
    typed = dict[str, TypeEngine[Any]]((name, UtcTime()) for name in _TIMES if name in sql)
    typed |= {name: JsonValue for name in _DOCUMENTS if name in sql}
    typed |= {name: Boolean() for name in _FLAGS if name in sql}
    return (
        text(sql).bindparams(*(bindparam(name, type_=UtcTime()) for name in times)).columns(**typed)
    )


def rows(connection: Connection, asked: TextualSelect, **given: object) -> list[Row]:
    """The answer to a query."""
    return [dict(row) for row in connection.execute(asked, given).mappings()]


def as_it_was(row: Row, at: datetime) -> Row:
    """The interval without an end that came later."""
    if row["valid_to"] is None or row["valid_to"] <= at:
        return row
    later = ("valid_to", "end_reason", *(name for name in row if name.startswith("ended_by_")))
    return {**row, **dict.fromkeys(later)}

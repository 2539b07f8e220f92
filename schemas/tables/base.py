"""What all tables are made of: one MetaData, the types of times and JSON, the form of a view.

Table modules import from here and from nowhere else of `tables`. A table without a schema belongs
to a generation (PostgreSQL: `ml_g1`; SQLite: the file); one with `schema=SHARED` is kept once for
all generations (PostgreSQL: `metaledger`; SQLite: the same file). The store says where each stands
by SQLAlchemy's `schema_translate_map`; no module names a generation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, MetaData, Select, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from metaledger.schemas.times import time_text

SHARED = "metaledger"

# For tables whose rows change in place: a page that a load has filled has room for new versions of
# its rows, and PostgreSQL need not touch another page nor an index (a HOT update).
# In a table's `info`, for SQLAlchemy 2.0 knows no such thing of a table.
CHANGES_IN_PLACE = {"fillfactor": 70}

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """An aware time in UTC: timestamptz, and in SQLite the one text form that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    # typing.override asks for Python 3.12.
    def load_dialect_impl(  # type: ignore[explicit-override]
        self, dialect: Dialect
    ) -> TypeEngine[Any]:
        """Text for SQLite, timestamptz for all others."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(  # type: ignore[explicit-override]
        self, value: datetime | None, dialect: Dialect
    ) -> Any:  # noqa: ANN401 (text or a time)
        """To the database; a naive time is refused."""
        if value is None:
            return None
        text = time_text(value)
        return text if dialect.name == "sqlite" else value

    def process_result_value(  # type: ignore[explicit-override]
        self,
        value: Any,  # noqa: ANN401 (text or a time)
        dialect: Dialect,
    ) -> datetime | None:
        """From the database, always in UTC whatever the session's time zone."""
        if value is None:
            return None
        time = datetime.fromisoformat(value) if dialect.name == "sqlite" else value
        return time.astimezone(UTC)


# JSONB on PostgreSQL, JSON text elsewhere; None is SQL's NULL and never the JSON null.
JsonValue = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view with a public name: what it selects, and a comment on it and on each column."""

    name: str
    comment: str
    columns: Mapping[str, str]
    select: Select[Any]

"""The outbox's tables at rest, in a service's own database or a spool's file. No statements here.

Written by the service's transactions: `outbox` (insert only) and `counters`. Written by the relay
alone: `sent` and `relay`, and deletions from `outbox`. The two sides share no row that both update,
so a relay never waits for a service's transaction, and never makes one wait, deadlock or fail to
serialise. `stream` changes at installation and reseed only.

Times are stored as microseconds since 1970 (UTC): one form on every database, exact and sorting.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

FORMAT_VERSION = 1
# 255 characters of 4 bytes fit a key of InnoDB (3,072 bytes) with the other columns beside.
AGGREGATE_CHARS_MAX = 255
STREAM_ID_CHARS_MAX = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """How many since 1970; exact."""
    return (time - _EPOCH) // _MICROSECOND


def moment(microseconds: int | None) -> datetime | None:
    """The time, in UTC, so many after 1970."""
    return None if microseconds is None else _EPOCH + microseconds * _MICROSECOND


class Microseconds(TypeDecorator[datetime]):
    """An aware time as microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    # typing.override asks for Python 3.12; SQLAlchemy passes all by position.
    def process_bind_param(  # type: ignore[explicit-override]
        self, value: datetime | None, _dialect: Dialect
    ) -> int | None:
        """From an aware time."""
        return None if value is None else microseconds(value)

    def process_result_value(  # type: ignore[explicit-override]
        self, value: int | None, _dialect: Dialect
    ) -> datetime | None:
        """To an aware time in UTC."""
        return moment(value)


class Exact(TypeDecorator[str]):
    """Text that compares byte by byte.

    MariaDB's default collation takes `A` for `a`, and its `utf8mb4_bin` still takes `a ` for `a`.
    """

    impl = String
    cache_ok = True

    def __init__(self, chars_max: int) -> None:
        super().__init__(chars_max)
        self.chars_max = chars_max

    # typing.override asks for Python 3.12.
    def load_dialect_impl(  # type: ignore[explicit-override]
        self, dialect: Dialect
    ) -> TypeEngine[Any]:
        """The dialect's text."""
        if dialect.name not in {"mysql", "mariadb"}:
            return String(self.chars_max)
        # MariaDB and MySQL name it differently, and one dialect's name may stand for both.
        is_mariadb = getattr(dialect, "is_mariadb", False)
        collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        return mysql.VARCHAR(self.chars_max, charset="utf8mb4", collation=collation)


_AGGREGATE = Exact(AGGREGATE_CHARS_MAX)
_STREAM_ID = Exact(STREAM_ID_CHARS_MAX)
_ID = BigInteger().with_variant(Integer, "sqlite")
_VALUE = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
_SHA256 = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}

METADATA = MetaData()

outbox = Table(
    "metaledger_outbox",
    METADATA,
    Column("id", _ID, primary_key=True, comment="Names the row; says nothing about the order."),
    Column("aggregate", _AGGREGATE, nullable=False, comment="What one order holds for."),
    Column("stream_id", _STREAM_ID, nullable=False, comment="The stream that numbered the event."),
    Column("epoch", Integer, nullable=False, comment="The stream's epoch."),
    Column("stream_seq", BigInteger, nullable=False, comment="Its number, from 1 an aggregate."),
    Column("event_id", Exact(36), nullable=False, comment="The event's identity."),
    Column("occurred_at", Microseconds, nullable=False, comment="Microseconds since 1970 (UTC)."),
    Column("sha256", _SHA256, nullable=False, comment="SHA-256 of value."),
    Column("value", _VALUE, nullable=False, comment="The framed Avro bytes, sent as they are."),
    Index("metaledger_outbox_number", "aggregate", "stream_id", "epoch", "stream_seq", unique=True),
    comment="Events that wait for the relay to append them to the log.",
    sqlite_autoincrement=True,
    **_OPTIONS,
)

counters = Table(
    "metaledger_counters",
    METADATA,
    Column("aggregate", _AGGREGATE, primary_key=True, comment="What one order holds for."),
    Column("epoch", Integer, nullable=False, comment="The epoch of seq."),
    Column("seq", BigInteger, nullable=False, comment="The last number given; 0: none yet."),
    Column(
        "unrecorded_since",
        Microseconds,
        nullable=True,
        index=True,
        comment="A change went unrecorded at this time and nothing mended it since; else null.",
    ),
    comment="The numbers given to each aggregate's events; its row is the ordering lock.",
    **_OPTIONS,
)

sent = Table(
    "metaledger_sent",
    METADATA,
    Column("aggregate", _AGGREGATE, primary_key=True, comment="What one order holds for."),
    Column("epoch", Integer, nullable=False, comment="The epoch of seq."),
    Column("seq", BigInteger, nullable=False, comment="The last number that the log has."),
    Column(
        "held_until",
        Microseconds,
        nullable=True,
        index=True,
        comment="The log refused the next event; it is offered again at this time. Else null.",
    ),
    Column("held_reason", Text, nullable=True, comment="Why the log refused it."),
    comment="How far each aggregate's events are in the log.",
    **_OPTIONS,
)

stream = Table(
    "metaledger_stream",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="Always 1."),
    Column("stream_id", _STREAM_ID, nullable=False, comment="This installation's stream."),
    Column("epoch", Integer, nullable=False, comment="Raised by `metaledger outbox reseed`."),
    Column("epoch_began_at", Microseconds, nullable=False, comment="When that was."),
    Column("format_version", Integer, nullable=False, comment="Of these tables."),
    Column("created_at", Microseconds, nullable=False, comment="When the tables were installed."),
    comment="The stream of events that this database's outbox is; one row.",
    **_OPTIONS,
)

relay = Table(
    "metaledger_relay",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="Always 1."),
    Column("lease_owner", String(255), nullable=True, comment="The relay that may send now."),
    Column("lease_expires_at", Microseconds, nullable=True, comment="Another may take over then."),
    Column("last_error", Text, nullable=True, comment="What went wrong last; null: all is well."),
    Column("last_error_at", Microseconds, nullable=True, comment="When that was."),
    Column("progress_at", Microseconds, nullable=True, comment="The last SourceProgressed."),
    Column("topic_id", String(255), nullable=True, comment="The log that this epoch goes to."),
    Column("log_partitions", Integer, nullable=True, comment="How many partitions that log has."),
    comment="The relay's lease and state; one row.",
    **_OPTIONS,
)

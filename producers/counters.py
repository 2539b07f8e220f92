"""The statements on counters: numbers are taken here, one dialect's way each. No decision is here.

A counter's row is the ordering lock of its aggregate: whoever has written it holds it until the end
of the transaction, and the next number is given out after that. So number n + 1 is never visible to
a relay that cannot see number n. Rows are written in sorted order, or two writers of several
aggregates would wait for each other.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    ScalarSelect,
    and_,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from metaledger.producers.tables import FORMAT_VERSION, counters, stream
from metaledger.schemas.errors import UsageError, VersionMismatch

# Of the relay's own events, each of which tells all: a lost one is no lost change.
PROGRESS_PREFIX = "stream:"

# SQLite's old limit of variables in a statement is 999.
_IN_LIST_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The installation's stream."""

    stream_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """An aggregate's counter, locked until the end of the transaction.

    `seq` is the last number given out, of any epoch; 0: no event of the aggregate was ever recorded
    here. `unrecorded_since`: since then the ledger lacks a change (one could not be recorded, or
    the database was restored), and the next event should be RECONCILED; None: it lacks nothing.
    """

    seq: int
    epoch: int
    unrecorded_since: datetime | None

    @property
    def is_new(self) -> bool:
        """Whether nothing of the aggregate was ever recorded here: import its before-image."""
        return self.seq == 0

    @property
    def unrecorded(self) -> bool:
        """Whether the ledger lacks a change of the aggregate."""
        return self.unrecorded_since is not None


@dataclass(frozen=True, slots=True)
class Taken:
    """Counters by aggregate, and the stream whose numbers they count."""

    stream: Stream
    counters: Mapping[str, Counter]


def read_stream(connection: Connection) -> Stream:
    """The stream. Raises UsageError where it is not installed, VersionMismatch, DBAPIError."""
    return _stream(connection.execute(_SELECT_STREAM).one_or_none())


def take(connection: Connection, increments: Mapping[str, int]) -> Taken:
    """Locks the counters, in sorted order, and gives out so many numbers of each (0: none).

    What it returns is the counters after that: the numbers given are the last ones up to `seq`. A
    counter of an older epoch begins anew with its first number of this one. Raises as `read_stream`
    does.
    """
    if not increments:
        return Taken(read_stream(connection), {})
    rows: list[dict[str, Any]] = [
        {"aggregate": name, "seq": increments[name]} for name in sorted(increments)
    ]
    dialect = connection.dialect
    taken: list[Any]
    if dialect.insert_executemany_returning:
        # SQLAlchemy cuts a list into batches, which takes it longer than a statement of one row.
        given = rows[0] if len(rows) == 1 else rows
        taken = list(connection.execute(_RETURNING_UPSERTS[dialect.name], given))
        source = _stream(taken[0])
    else:  # MySQL, and SQLite before 3.35
        connection.execute(_UPSERTS[dialect.name], rows)
        source, taken = read_stream(connection), []
        # A locking read: under MySQL's repeatable read a plain one may be stale.
        for names in _chunks([row["aggregate"] for row in rows]):
            which = counters.c.aggregate.in_(names)
            taken += connection.execute(select(*_COUNTER).where(which).with_for_update()).all()
    found = {
        row.aggregate: Counter(seq=row.seq, epoch=row.epoch, unrecorded_since=row.unrecorded_since)
        for row in taken
    }
    return Taken(source, found)


def mark(connection: Connection, aggregates: Collection[str], at: datetime) -> None:
    """Marks counters that `take` has locked as lacking a change; an older mark stands."""
    for names in _chunks(sorted(aggregates)):
        which = and_(counters.c.aggregate.in_(names), counters.c.unrecorded_since.is_(None))
        connection.execute(update(counters).where(which).values(unrecorded_since=at))


def mark_all(connection: Connection, at: datetime) -> None:
    """Marks every counter of a service's aggregate that ever gave out a number."""
    which = and_(
        counters.c.seq > 0,
        counters.c.unrecorded_since.is_(None),
        ~counters.c.aggregate.startswith(PROGRESS_PREFIX),
    )
    connection.execute(update(counters).where(which).values(unrecorded_since=at))


def unmark(connection: Connection, aggregates: Collection[str]) -> None:
    """Takes the mark from counters that `take` has locked."""
    for names in _chunks(sorted(aggregates)):
        which = counters.c.aggregate.in_(names)
        connection.execute(update(counters).where(which).values(unrecorded_since=None))


def _stream(row: Any) -> Stream:  # noqa: ANN401 (a Row of any columns, or None)
    if row is None or row.stream_id is None:
        raise UsageError("the outbox is not installed here: run `metaledger outbox install`")
    if row.format_version != FORMAT_VERSION:
        raise VersionMismatch(
            f"the outbox's tables have format {row.format_version}, and this build reads and "
            f"writes {FORMAT_VERSION}: run `metaledger outbox install` of the newer version"
        )
    return Stream(stream_id=row.stream_id, epoch=row.stream_epoch)


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _IN_LIST_MAX):
        yield names[start : start + _IN_LIST_MAX]


_COUNTER = (
    counters.c.aggregate,
    counters.c.epoch,
    counters.c.seq,
    counters.c.unrecorded_since,
)
_STREAM = (
    stream.c.stream_id,
    stream.c.epoch.label("stream_epoch"),
    stream.c.format_version,
)
_SELECT_STREAM = select(*_STREAM).where(stream.c.id == 1)

# What an upsert does to a row that is there, in this order: MariaDB assigns from left to right, and
# what comes later sees what came before. No parameter follows the rows, for PyMySQL makes one
# statement of many rows only then.
_CHANGES = (
    ("seq", "CASE WHEN {old}.epoch < {epoch} AND {seq} > 0 THEN {seq} ELSE {old}.seq + {seq} END"),
    ("epoch", "CASE WHEN {old}.epoch < {epoch} AND {seq} > 0 THEN {epoch} ELSE {old}.epoch END"),
)


def _of_stream(column: ColumnElement[Any]) -> ScalarSelect[Any]:
    """A column of the stream in a statement on counters, which saves its own round trip."""
    return select(column).where(stream.c.id == 1).scalar_subquery()


def _upsert(dialect: str) -> Insert:
    new = "VALUES({})" if dialect in _MYSQL else "excluded.{}"
    names = {"old": counters.name, "epoch": new.format("epoch"), "seq": new.format("seq")}
    changes = [(column, text(change.format(**names))) for column, change in _CHANGES]
    # Where there is no stream the caller is told so, and undoes this.
    epoch = func.coalesce(_of_stream(stream.c.epoch), 0)
    if dialect in _MYSQL:
        return mysql.insert(counters).values(epoch=epoch).on_duplicate_key_update(changes)
    # The two dialects' statements are alike, but not of one type.
    conflicting: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    upsert: Insert = (
        conflicting(counters)
        .values(epoch=epoch)
        .on_conflict_do_update(index_elements=["aggregate"], set_=dict(changes))
    )
    return upsert


_MYSQL = frozenset({"mysql", "mariadb"})
_UPSERTS = {name: _upsert(name) for name in ("sqlite", "postgresql", *sorted(_MYSQL))}
_RETURNING_UPSERTS = {
    name: upsert.returning(*_COUNTER, *(_of_stream(it).label(it.name) for it in _STREAM))
    for name, upsert in _UPSERTS.items()
}

"""The statements on counters: numbers are taken here, one dialect's way each. No decision is here.

A counter's row is the ordering lock of its aggregate: whoever has written it holds it until the end
of the transaction, and the next number is given out after that. So number n + 1 is never visible to
a relay that cannot see number n. Rows are written in sorted order, or two writers of several
aggregates would wait for each other.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    ScalarSelect,
    TextClause,
    TextualSelect,
    and_,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from metaledger.producers import along
from metaledger.producers.tables import FORMAT_VERSION, counters, moment, stream
from metaledger.producers.unnested import arrays, unnested
from metaledger.schemas.errors import UsageError, VersionMismatch

# Of the relay's own events, each of which tells all: a lost one is no lost change.
PROGRESS_PREFIX = "stream:"

_NOT_INSTALLED = "the outbox is not installed here: run `metaledger outbox install URL`"

# SQLite's old limit of variables in a statement is 999.
_IN_LIST_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The installation's stream, and since when it counts in this epoch, if that was asked for."""

    stream_id: str
    epoch: int
    epoch_began_at: datetime | None = None


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


# One that was not there before it was locked, of an older epoch than any.
NEW = Counter(seq=0, epoch=0, unrecorded_since=None)


@dataclass(frozen=True, slots=True)
class Taken:
    """Counters by aggregate, and the stream whose numbers they count."""

    stream_id: str
    counters: Mapping[str, Counter]


def read_stream(connection: Connection) -> Stream:
    """The stream. Raises UsageError where it is not installed, VersionMismatch, DBAPIError."""
    row = connection.execute(_SELECT_STREAM).one_or_none()
    if row is None:
        raise UsageError(_NOT_INSTALLED)
    if row.format_version != FORMAT_VERSION:
        raise VersionMismatch(
            f"the outbox's tables have format {row.format_version}, and this build reads and "
            f"writes {FORMAT_VERSION}: run `metaledger outbox install URL` of the newer version"
        )
    return Stream(stream_id=row.stream_id, epoch=row.epoch, epoch_began_at=row.epoch_began_at)


def lock(connection: Connection, aggregates: Collection[str]) -> Mapping[str, Counter]:
    """Locks the counters, in sorted order, and gives out no number.

    It asks for no stream, so it costs half of `take`: where there is none, `take` says so.
    """
    return _by_aggregate(_upserted(connection, _LOCK, dict.fromkeys(aggregates, 0)))


def locking(connection: Connection, aggregate: str) -> Callable[[], Mapping[str, Counter]]:
    """As `lock`, of one; where it can be it is sent along with the connection's next statement,
    behind which what is returned has to be called.
    """
    asked = None
    if connection.dialect.insert_executemany_returning:
        asked = along.ask(connection, _LOCK_IN_COMPOUND, {"aggregate": aggregate, "seq": 0})
    if asked is None:
        locked = lock(connection, [aggregate])
        return lambda: locked

    def answer() -> Mapping[str, Counter]:
        # Nothing was sent that could bring it along.
        if asked.rows is None:
            return lock(connection, [aggregate])
        ((name, epoch, seq, since),) = asked.rows
        return {name: Counter(seq=seq, epoch=epoch, unrecorded_since=moment(since))}

    return answer


def read(connection: Connection, aggregates: Collection[str]) -> Mapping[str, Counter]:
    """The counters of these aggregates that are there, as they are committed, without a lock."""
    found: dict[str, Counter] = {}
    for names in _chunks(sorted(aggregates)):
        query = select(*_COUNTER).where(counters.c.aggregate.in_(names))
        found |= _by_aggregate(connection.execute(query).all())
    return found


def take(connection: Connection, increments: Mapping[str, int]) -> Taken:
    """Locks the counters, in sorted order, and gives out so many numbers of each (0: none).

    What it returns is the counters after that: the numbers given are the last ones up to `seq`. A
    counter of an older epoch begins anew with its first number of this one. Raises as `read_stream`
    does.
    """
    if not increments:
        return Taken(read_stream(connection).stream_id, {})
    taken = _upserted(connection, _TAKE, increments)
    stream_id = taken[0].stream_id
    if stream_id is None:
        read_stream(connection)
        # It was installed just now, behind what was taken.
        raise UsageError(_NOT_INSTALLED)
    return Taken(stream_id, _by_aggregate(taken))


def _upserted(
    connection: Connection, upsert: "_Upsert", increments: Mapping[str, int]
) -> list[Any]:
    rows: list[dict[str, Any]] = [
        {"aggregate": name, "seq": increments[name]} for name in sorted(increments)
    ]
    if not rows:
        return []
    dialect = connection.dialect
    if dialect.insert_executemany_returning:
        if len(rows) == 1:
            return [*connection.execute(upsert.of_one[dialect.name], rows[0]).all()]
        given = arrays(rows) if dialect.name == "postgresql" else rows
        return [*connection.execute(upsert.of_many[dialect.name], given).all()]
    # MySQL, and SQLite before 3.35
    connection.execute(upsert.plain[dialect.name], rows)
    found: list[Any] = []
    # A locking read: under MySQL's repeatable read a plain one may be stale.
    for names in _chunks([row["aggregate"] for row in rows]):
        which = counters.c.aggregate.in_(names)
        found += connection.execute(select(*upsert.columns).where(which).with_for_update()).all()
    return found


def _by_aggregate(rows: Iterable[Any]) -> dict[str, Counter]:
    return {
        row.aggregate: Counter(seq=row.seq, epoch=row.epoch, unrecorded_since=row.unrecorded_since)
        for row in rows
    }


def mark(connection: Connection, aggregates: Collection[str], at: datetime) -> None:
    """Marks counters that `take` has locked as lacking a change; an older mark stands."""
    for names in _chunks(sorted(aggregates)):
        which = and_(counters.c.aggregate.in_(names), counters.c.unrecorded_since.is_(None))
        connection.execute(update(counters).where(which).values(unrecorded_since=at))


def marked(connection: Connection, prefix: str, *, after: str, names_max: int) -> list[str]:
    """The marked aggregates whose names begin so, in order, behind a name."""
    query = (
        select(counters.c.aggregate)
        .where(
            counters.c.unrecorded_since.is_not(None),
            counters.c.aggregate.startswith(prefix, autoescape=True),
            counters.c.aggregate > after,
        )
        .order_by(counters.c.aggregate)
        .limit(names_max)
    )
    return list(connection.scalars(query))


def mark_all(connection: Connection, at: datetime) -> None:
    """Marks every counter of a service's aggregate that ever gave out a number."""
    which = and_(
        counters.c.seq > 0,
        counters.c.unrecorded_since.is_(None),
        ~counters.c.aggregate.startswith(PROGRESS_PREFIX),
    )
    connection.execute(update(counters).where(which).values(unrecorded_since=at))


def unmark(connection: Connection, aggregates: Collection[str]) -> None:
    """Takes the mark from counters that are locked."""
    for names in _chunks(sorted(aggregates)):
        which = counters.c.aggregate.in_(names)
        connection.execute(update(counters).where(which).values(unrecorded_since=None))


def unmark_all(connection: Connection) -> None:
    """Takes every mark."""
    which = counters.c.unrecorded_since.is_not(None)
    connection.execute(update(counters).where(which).values(unrecorded_since=None))


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _IN_LIST_MAX):
        yield names[start : start + _IN_LIST_MAX]


_COUNTER = (
    counters.c.aggregate,
    counters.c.epoch,
    counters.c.seq,
    counters.c.unrecorded_since,
)
_SELECT_STREAM = select(stream).where(stream.c.id == 1)

# What an upsert does to a row that is there, in this order: MariaDB assigns from left to right, and
# what comes later sees what came before. No parameter follows the rows, for PyMySQL makes one
# statement of many rows only then.
_CHANGES = (
    ("seq", "CASE WHEN {old}.epoch < {epoch} AND {seq} > 0 THEN {seq} ELSE {old}.seq + {seq} END"),
    ("epoch", "CASE WHEN {old}.epoch < {epoch} AND {seq} > 0 THEN {epoch} ELSE {old}.epoch END"),
)
# Writing a row locks it, whatever is written.
_NO_CHANGES = (("seq", "{old}.seq"),)


def _of_stream(column: ColumnElement[Any]) -> ScalarSelect[Any]:
    """A column of the stream in a statement on counters: no round trip of its own, but a third of
    what the rest of the statement costs. Null where there is none, or one of another format.
    """
    of_format = and_(
        stream.c.id == literal_column("1"),
        stream.c.format_version == literal_column(f"{FORMAT_VERSION}"),
    )
    return select(column).where(of_format).scalar_subquery()


@dataclass(frozen=True, slots=True)
class _Upsert:
    """An upsert of counters by dialect: one that returns these columns, and one that cannot.

    `of_one` is what a request nearly always needs, of one row and as text: SQLAlchemy 2.0 compiles
    an upsert anew each time, which takes as long as the database does.
    """

    columns: Sequence[ColumnElement[Any]]
    plain: Mapping[str, Insert]
    of_one: Mapping[str, TextualSelect]
    of_many: Mapping[str, ReturningInsert[Any]]


def _upsert(
    columns: Sequence[ColumnElement[Any]],
    changes: Sequence[tuple[str, str]],
    epoch: ColumnElement[int],
) -> _Upsert:
    plain = {name: _upsert_of(name, changes, epoch) for name in _DIALECTS}
    returning = {name: upsert.returning(*columns) for name, upsert in plain.items()}
    of_one = {
        name: text(str(upsert.compile(dialect=_DIALECTS[name], column_keys=["aggregate", "seq"])))
        .columns(*columns)
        # Else `server_side_cursors` would make a cursor of it.
        .execution_options(stream_results=False)
        for name, upsert in returning.items()
    }
    of_many = returning | {"postgresql": _unnested(changes, epoch).returning(*columns)}
    return _Upsert(columns, plain, of_one, of_many)


def _upsert_of(
    dialect: str, changes: Sequence[tuple[str, str]], epoch: ColumnElement[int]
) -> Insert:
    written = _written(dialect, changes)
    if dialect in _MYSQL:
        return mysql.insert(counters).values(epoch=epoch).on_duplicate_key_update(written)
    # The two dialects' statements are alike, but not of one type.
    conflicting: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    upsert: Insert = (
        conflicting(counters)
        .values(epoch=epoch)
        .on_conflict_do_update(index_elements=["aggregate"], set_=dict(written))
    )
    return upsert


def _unnested(changes: Sequence[tuple[str, str]], epoch: ColumnElement[int]) -> Insert:
    """PostgreSQL's, of `arrays` of rows."""
    given = unnested(counters.c.aggregate, counters.c.seq)
    return (
        postgresql.insert(counters)
        .from_select([*given.c.keys(), "epoch"], select(given, epoch))
        .on_conflict_do_update(
            index_elements=["aggregate"], set_=dict(_written("postgresql", changes))
        )
    )


def _written(dialect: str, changes: Sequence[tuple[str, str]]) -> list[tuple[str, TextClause]]:
    new = "VALUES({})" if dialect in _MYSQL else "excluded.{}"
    names = {"old": counters.name, "epoch": new.format("epoch"), "seq": new.format("seq")}
    return [(column, text(change.format(**names))) for column, change in changes]


_MYSQL = frozenset({"mysql", "mariadb"})
_DIALECTS: dict[str, Any] = {
    "sqlite": sqlite.dialect(paramstyle="named"),
    "postgresql": postgresql.psycopg2.dialect(paramstyle="named"),  # type: ignore[no-untyped-call]
    **dict.fromkeys(sorted(_MYSQL), mysql.dialect(paramstyle="named")),
}
# An older epoch than any: the first number that is taken sets it.
_LOCK = _upsert(_COUNTER, _NO_CHANGES, literal_column("0"))
_LOCK_IN_COMPOUND = str(
    _LOCK.of_many["mariadb"].compile(
        dialect=mysql.dialect(paramstyle="pyformat"),
        column_keys=["aggregate", "seq"],
    )
)
_TAKE = _upsert(
    (*_COUNTER, _of_stream(stream.c.stream_id).label("stream_id")),
    _CHANGES,
    # Where there is no stream the caller is told so, and undoes this.
    func.coalesce(_of_stream(stream.c.epoch), literal_column("0")),
)

"""The relay's statements. No decision is here: those are in `sending`, and their order in `relay`.

Reading takes no lock. Writing touches only what no service's transaction writes: the relay's own
two tables, and deletions by id of rows that are committed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Cast,
    ColumnElement,
    Connection,
    Insert,
    any_,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from metaledger.producers.counters import PROGRESS_PREFIX
from metaledger.producers.lease import LeaseLost
from metaledger.producers.sending import Sent, Waiting
from metaledger.producers.tables import counters, outbox, sent
from metaledger.producers.unnested import arrays, unnested
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import NewRecord

T = TypeVar("T")

# SQLite's old limit of variables in a statement is 999.
_IN_LIST_MAX = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """What one reading saw: rows that wait, and how far their aggregates are sent."""

    rows: Sequence[Waiting]
    sent: Mapping[str, Sent]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How the source is, as SourceProgressed tells it."""

    rows_waiting: int
    oldest_at: datetime | None
    unrecorded_aggregates: int
    held_reason: str | None


def read_waiting(
    connection: Connection, now: datetime, *, rows_max: int, beside: Sequence[int] = ()
) -> Seen:
    """At most rows_max rows that may be sendable, roughly the oldest ones, without held ones and
    beside those with these ids.
    """
    offered = or_(sent.c.held_until.is_(None), sent.c.held_until <= now)
    query = _WAITING.where(offered).order_by(outbox.c.id)
    if beside and connection.dialect.name == "postgresql":
        others = func.unnest(_array(beside)).table_valued("id").render_derived()
        query = query.where(~exists().where(others.c.id == outbox.c.id))
        return _seen(connection, query.limit(rows_max))
    seen = _seen(connection, query.limit(rows_max + len(beside)))
    ids = set(beside)
    rows = [row for row in seen.rows if row.id not in ids]
    return Seen(rows[:rows_max], seen.sent)


def read_whole(connection: Connection, aggregates: Collection[str], *, rows_max: int) -> Seen:
    """The first rows of these aggregates by number, one complete aggregate after another.

    Of the last one rows may be left out, but none that stands before those that are there.
    """
    rows: list[Waiting] = []
    states: dict[str, Sent] = {}
    for names in _chunks(sorted(aggregates)):
        query = _WAITING.where(outbox.c.aggregate.in_(names))
        by_number = (outbox.c.aggregate, outbox.c.epoch, outbox.c.stream_seq)
        seen = _seen(connection, query.order_by(*by_number).limit(rows_max - len(rows)))
        rows += seen.rows
        states.update(seen.sent)
        if len(rows) >= rows_max:
            break
    return Seen(rows, states)


def read_records(connection: Connection, rows: Sequence[Waiting]) -> list[NewRecord]:
    """The rows' records, in the rows' order. Raises LeaseLost where another relay deleted one."""
    content: dict[int, tuple[bytes, bytes]] = {}
    query = select(outbox.c.id, outbox.c.value, outbox.c.sha256)
    for ids in _among(connection, [row.id for row in rows]):
        found = connection.execute(query.where(ids))
        content |= {id_: (value, sha256) for id_, value, sha256 in found.all()}
    if len(content) < len(rows):
        raise LeaseLost("rows that were to be sent are gone: another relay has sent them")
    return [
        NewRecord(
            key=row.aggregate,
            value=content[row.id][0],
            sha256=content[row.id][1],
            event_id=row.event_id,
            number=StreamNumber(
                stream_id=row.stream_id, epoch=row.epoch, stream_seq=row.stream_seq
            ),
        )
        for row in rows
    ]


def delete_rows(connection: Connection, ids: Sequence[int]) -> None:
    """Deletes exactly these rows."""
    for which in _among(connection, ids):
        connection.execute(delete(outbox).where(which))


def note_sent(connection: Connection, states: Mapping[str, Sent]) -> None:
    """Notes how far the aggregates are sent, and that none of them is held."""
    rows = [
        {
            "aggregate": aggregate,
            "epoch": state.epoch,
            "seq": state.seq,
            "held_until": None,
            "held_reason": None,
        }
        for aggregate, state in sorted(states.items())
    ]
    _put(connection, rows, _SENT_COLUMNS)


def note_held(connection: Connection, held: Mapping[str, str], until: datetime) -> None:
    """Notes why aggregates are held, and until when; how far they are sent stays."""
    rows = [
        {"aggregate": aggregate, "epoch": 0, "seq": 0, "held_until": until, "held_reason": reason}
        for aggregate, reason in sorted(held.items())
    ]
    _put(connection, rows, _HELD_COLUMNS)


def read_totals(connection: Connection) -> Totals:
    """Counts what waits and what is unrecorded."""
    # What the relay itself writes says nothing about how far the source is.
    own = outbox.c.aggregate.startswith(PROGRESS_PREFIX, autoescape=True)
    waiting, oldest = connection.execute(
        select(func.count(), func.min(outbox.c.occurred_at)).where(~own)
    ).one()
    unrecorded = connection.scalar(
        select(func.count()).select_from(counters).where(counters.c.unrecorded_since.is_not(None))
    )
    held = select(sent.c.held_reason).where(sent.c.held_until.is_not(None)).limit(1)
    return Totals(
        rows_waiting=waiting,
        oldest_at=oldest,
        unrecorded_aggregates=unrecorded or 0,
        held_reason=connection.scalar(held),
    )


def _seen(connection: Connection, query: Any) -> Seen:  # noqa: ANN401 (a Select of any columns)
    rows: list[Waiting] = []
    states: dict[str, Sent] = {}
    for *waiting, epoch, seq, held_until in connection.execute(query).all():
        row = Waiting(*waiting)
        rows.append(row)
        if epoch is not None:
            states[row.aggregate] = Sent(epoch, seq, held_until is not None)
    return Seen(rows, states)


def _among(connection: Connection, ids: Sequence[int]) -> Iterator[ColumnElement[bool]]:
    """Conditions that together name these rows."""
    if connection.dialect.name == "postgresql":
        # One parameter, whatever their number: a statement of 500 takes longer to make than to run.
        yield outbox.c.id == any_(_array(ids))
        return
    for part in _chunks(ids):
        yield outbox.c.id.in_(part)


def _array(ids: Sequence[int]) -> Cast[Any]:
    return cast(list(ids), postgresql.ARRAY(BigInteger))


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _IN_LIST_MAX):
        yield items[start : start + _IN_LIST_MAX]


_WAITING = select(
    outbox.c.id,
    outbox.c.aggregate,
    outbox.c.stream_id,
    outbox.c.epoch,
    outbox.c.stream_seq,
    outbox.c.event_id,
    func.length(outbox.c.value),
    sent.c.epoch.label("sent_epoch"),
    sent.c.seq.label("sent_seq"),
    sent.c.held_until,
).select_from(outbox.outerjoin(sent, sent.c.aggregate == outbox.c.aggregate))

_SENT_COLUMNS = ("epoch", "seq", "held_until", "held_reason")
_HELD_COLUMNS = ("held_until", "held_reason")


def _put(connection: Connection, rows: Sequence[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Adds rows to `sent`, or sets these columns of a row that is there."""
    if rows:
        upsert = _upsert(connection.dialect.name, columns)
        given: Any = arrays(rows) if connection.dialect.name == "postgresql" else rows
        connection.execute(upsert, given)


@lru_cache
def _upsert(dialect: str, columns: tuple[str, ...]) -> Insert:
    if dialect in {"mysql", "mariadb"}:
        upsert = mysql.insert(sent)
        return upsert.on_duplicate_key_update({name: upsert.inserted[name] for name in columns})
    # The two dialects' statements are alike, but not of one type.
    conflicting: Any = sqlite.insert(sent) if dialect == "sqlite" else postgresql.insert(sent)
    changes = {name: conflicting.excluded[name] for name in columns}
    result: Insert = conflicting.on_conflict_do_update(index_elements=["aggregate"], set_=changes)
    if dialect == "postgresql":
        result = result.from_select(list(sent.c.keys()), select(unnested(*sent.c)))
    return result

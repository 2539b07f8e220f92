"""What an operator does to an outbox: install it, look at it, begin a new epoch. Not for hooks.

Everything here opens its own short transactions on an engine, raises Unreachable where the database
cannot be reached, and needs rights that a service's own user may lack (tables are made).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, insert, inspect, select, update

from metaledger.producers import told
from metaledger.producers.counters import mark_all, read_stream, unmark_all
from metaledger.producers.database import answering, reached, reading
from metaledger.producers.settings import OUTBOX_ROWS_MAX
from metaledger.producers.tables import (
    FORMAT_VERSION,
    METADATA,
    STREAM_ID_CHARS_MAX,
    counters,
    outbox,
    relay,
    sent,
    stream,
)
from metaledger.schemas.errors import LogRefused, UsageError
from metaledger.schemas.identity import Clock, NewId, system_clock, uuid7
from metaledger.schemas.log import Log

_NAMED_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """An aggregate with something wrong, since or until when, and why."""

    aggregate: str
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus:
    """How an outbox is now.

    `unrecorded` and `held` name the oldest few, `unrecorded_aggregates` and `held_aggregates` count
    all. Held: the log refused the aggregate's next event, or that event is gone.
    """

    stream_id: str
    epoch: int
    rows_waiting: int
    rows_max: int
    oldest_row_at: datetime | None
    unrecorded_aggregates: int
    unrecorded: Sequence[Lacking]
    held_aggregates: int
    held: Sequence[Lacking]
    lease_owner: str | None
    lease_expires_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None
    progress_at: datetime | None


def install(
    engine: Engine,
    *,
    stream_id: str | None = None,
    clock: Clock = system_clock,
    new_id: NewId = uuid7,
) -> str:
    """Makes the tables and the stream where they are missing; returns the stream's id.

    Run again it changes nothing, and a `stream_id` is then only compared. Raises UsageError,
    VersionMismatch, Unreachable.
    """
    if stream_id is not None and not 0 < len(stream_id) <= STREAM_ID_CHARS_MAX:
        raise UsageError(f"a stream's id has 1 to {STREAM_ID_CHARS_MAX} characters")
    with reached(engine) as connection:
        found = install_in(connection, stream_id=stream_id, clock=clock, new_id=new_id)
    if stream_id not in {None, found}:
        raise UsageError(f"this outbox is installed already, and its stream is {found}")
    return found


def install_in(
    connection: Connection, *, stream_id: str | None = None, clock: Clock, new_id: NewId
) -> str:
    """As `install`, in the connection's own transaction (an embedded log, a spool)."""
    now = clock()
    METADATA.create_all(connection)
    if connection.execute(select(relay.c.id)).first() is None:
        connection.execute(insert(relay), {"id": 1})
    if connection.execute(select(stream.c.id)).first() is None:
        first = {
            "id": 1,
            "stream_id": stream_id or new_id(now),
            "epoch": 1,
            "epoch_began_at": now,
            "format_version": FORMAT_VERSION,
            "created_at": now,
        }
        connection.execute(insert(stream), first)
    return read_stream(connection).stream_id


def status(engine: Engine, *, rows_max: int = OUTBOX_ROWS_MAX) -> OutboxStatus:
    """The outbox's state. Raises UsageError where it is not installed, Unreachable.

    `rows_max` is what the service's settings say: the database does not know it.
    """
    with answering(engine), reading(engine) as connection:
        require_installed(connection)
        source = read_stream(connection)
        waiting, oldest = connection.execute(_WAITING).one()
        lease = connection.execute(select(relay)).one()
        unrecorded = connection.execute(_UNRECORDED.limit(_NAMED_MAX)).all()
        held = connection.execute(_HELD.limit(_NAMED_MAX)).all()
        return OutboxStatus(
            stream_id=source.stream_id,
            epoch=source.epoch,
            rows_waiting=waiting,
            rows_max=rows_max,
            oldest_row_at=oldest,
            unrecorded_aggregates=count(connection, _UNRECORDED),
            unrecorded=[
                Lacking(aggregate=name, at=at, reason=_UNRECORDED_REASON) for name, at in unrecorded
            ],
            held_aggregates=count(connection, _HELD),
            held=[Lacking(aggregate=name, at=at, reason=reason) for name, at, reason in held],
            lease_owner=lease.lease_owner,
            lease_expires_at=lease.lease_expires_at,
            last_error=lease.last_error,
            last_error_at=lease.last_error_at,
            progress_at=lease.progress_at,
        )


def bind(engine: Engine, log: Log) -> None:
    """Notes which log this epoch's events go to, or compares it with the one noted before.

    To send the rest of a numbering into another log would leave a gap behind every aggregate.
    Raises LogRefused where it is another log, or has another number of partitions; UsageError,
    Unreachable.
    """
    with reached(engine) as connection:
        require_installed(connection)
        known = connection.execute(select(relay.c.topic_id, relay.c.log_partitions)).one()
        if known.topic_id is None:
            values = {"topic_id": log.topic_id, "log_partitions": log.partitions}
            connection.execute(update(relay).values(values))
        elif (known.topic_id, known.log_partitions) != (log.topic_id, log.partitions):
            raise LogRefused(
                f"this outbox's events went to log {known.topic_id} with {known.log_partitions} "
                f"partitions, and this is {log.topic_id} with {log.partitions}: name the right "
                "ledger, or, if that log is gone for good, run `metaledger outbox reseed`"
            )


def bound_log(engine: Engine) -> str | None:
    """The log that this epoch's events go to; None: none was sent yet. Raises Unreachable."""
    with answering(engine), reading(engine) as connection:
        topic_id: str | None = connection.scalar(select(relay.c.topic_id))
        return topic_id


def waiting(connection: Connection, aggregates: Collection[str]) -> set[str]:
    """Those of at most some hundred aggregates of which an event waits for the relay."""
    query = select(outbox.c.aggregate).where(outbox.c.aggregate.in_(sorted(aggregates)))
    return set(connection.scalars(query.distinct()))


def reseed(engine: Engine, *, above: int = 0, clock: Clock = system_clock) -> int:
    """Begins a new epoch, after the service's database was restored; returns its number.

    Numbers that were given out after the backup would come again with other events: in the new
    epoch every aggregate counts from 1 again. What waits goes out under its old epoch first, and
    each aggregate counts as unrecorded until its next event mends it, or a reconciliation finds
    that it lacks nothing. Where the same backup may have been restored before, `above` is the
    highest epoch that the ledger knows. The service may run on; it waits while the counters are
    marked, and transactions that are open now may still number in the old epoch. The new epoch may
    go to another log. If broken off, do it again.

    In a spool nothing counts as unrecorded: it holds what happened and no state, so there is
    nothing that an event could tell anew.
    """
    with reached(engine) as connection:
        require_installed(connection)
        epoch = max(read_stream(connection).epoch, above) + 1
        now = clock()
        connection.execute(update(stream).values(epoch=epoch, epoch_began_at=now))
        connection.execute(update(relay).values(topic_id=None, log_partitions=None))
    # A hook holds counters and asks for the stream next, which MariaDB locks for it: who held the
    # stream and asked for counters would end the service's transaction.
    with reached(engine) as connection:
        if inspect(connection).has_table(told.disks.name):
            unmark_all(connection)
        else:
            mark_all(connection, now)
    return epoch


def require_installed(connection: Connection) -> None:
    """Raises UsageError where a table is missing."""
    missing = METADATA.tables.keys() - inspect(connection).get_table_names()
    if missing:
        raise UsageError(
            f"the outbox is not installed here ({min(missing)} is missing): run "
            "`metaledger outbox install URL`"
        )


def count(connection: Connection, query: Select[Any]) -> int:
    """How many rows the query has."""
    return connection.scalar(select(func.count()).select_from(query.subquery())) or 0


_UNRECORDED_REASON = "a change was not recorded, or the database was restored"
_WAITING = select(func.count(), func.min(outbox.c.occurred_at))
_UNRECORDED = (
    select(counters.c.aggregate, counters.c.unrecorded_since)
    .where(counters.c.unrecorded_since.is_not(None))
    .order_by(counters.c.unrecorded_since)
)
_HELD = (
    select(sent.c.aggregate, sent.c.held_until, sent.c.held_reason)
    .where(sent.c.held_until.is_not(None))
    .order_by(sent.c.held_until)
)

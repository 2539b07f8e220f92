"""The engine's listener: gathers what a transaction touches and records it just before the commit.

Rules (RELIABILITY.md, "Inside the service's transaction"):
- One mechanism for all statements: the engine event `before_execute`, so the before-image is read
  before the change, whether it comes from an ORM flush, a bulk update or Core.
- Locks are taken in one order: the aggregates' counters, sorted, then their rows. What a WHERE
  finds is asked without a lock first, and once more under the counters' locks.
- Everything is written once, in the engine event `commit`, which comes just before the commit.
- The outbox shields: its SQL and ours run in its savepoint, and it alone decides what of an error
  is swallowed, counted or raised. An aggregate whose first touch failed is left alone until the
  transaction ends, for a later before-image would hold a part of the change.
- What was gathered belongs to the connection and is forgotten on rollback (`gathered`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Insert, Select, event
from sqlalchemy.sql.expression import ClauseElement, UpdateBase

from metaledger.producers.counters import Counter
from metaledger.producers.gathering import is_autocommit
from metaledger.producers.outbox import Outbox
from metaledger.producers.watching.gathered import Dropped, Gathered, GivenUp, Touch
from metaledger.producers.watching.service import Change, Reading, Service
from metaledger.producers.watching.statements import (
    Target,
    made,
    named,
    query_of_ids,
    target_of,
)
from metaledger.schemas.errors import OutboxFull, UsageError
from metaledger.schemas.events import Draft, EventData
from metaledger.schemas.identity import Clock
from metaledger.schemas.meta import Context, Origin


class Watcher:
    """Watches one engine for one service; it has no effect where there are none of its tables."""

    def __init__(
        self,
        service: Service[Any],
        *,
        outbox: Outbox,
        context: Callable[[], Context],
        clock: Clock,
    ) -> None:
        self._service = service
        self._outbox = outbox
        self._transactions = service.transactions
        self._context = context
        self._clock = clock

    def listen(self, engine: Engine) -> None:
        """Begins to watch the engine's transactions, of whose statements `watch` tells."""
        self._outbox.listen(engine)
        for name, listener in (
            ("commit", self._commit),
            ("prepare_twophase", self._commit),
            # It finds nothing more where there was a prepare.
            ("commit_twophase", self._commit),
            ("rollback", self._forget),
            ("rollback_twophase", self._forget),
            ("rollback_savepoint", self._rollback_savepoint),
        ):
            event.listen(engine, name, listener)

    def before(
        self,
        connection: Connection,
        statement: UpdateBase,
        multiparams: Any,  # noqa: ANN401
        params: Any,  # noqa: ANN401
    ) -> None:
        """A statement is about to run."""
        target = target_of(statement, multiparams, params, self._service.tables)
        if target is None:
            return
        gathered = self._transactions.of(connection)
        its: Collection[str] | None = None
        query: Select[Any] | None = None
        with self._outbox.tolerate(connection):
            its = named(target, gathered.owners)
            query = query_of_ids(target) if its is None else None
        if is_autocommit(connection):
            self._refuse_autocommit(connection, its or ())
        elif its is not None:
            self._touch(connection, gathered, its, target)
            if target.drops:
                dropped = (Dropped(aggregate=it, table=target.table.name) for it in its)
                self._transactions.learn(connection, *dropped)
        elif query is not None:
            self._touch(connection, gathered, self._found(connection, query, target), target)
            # Under the locks nobody adds to what the WHERE finds, except rows of other aggregates.
            if not isinstance(target.statement, Insert):
                query = query.with_for_update()
            self._touch(connection, gathered, self._found(connection, query, target), target)

    def _refuse_autocommit(self, connection: Connection, aggregates: Collection[str]) -> None:
        with self._outbox.tolerate(connection, list(aggregates)):
            raise UsageError("the change is of a connection in autocommit mode: no event can be")

    def _found(self, connection: Connection, query: Select[Any], target: Target) -> set[str]:
        found: set[str] = set()
        with self._outbox.shield(connection, ()):
            for row in target.rows:
                ids = connection.scalars(query, row)
                found.update(target.aggregate(it) for it in ids if it is not None)
        return found

    def after(
        self,
        connection: Connection,
        statement: Insert,
        multiparams: Any,  # noqa: ANN401
        params: Any,  # noqa: ANN401
        result: CursorResult[Any],
    ) -> None:
        """What has its id by a default is touched once it has one; nobody else knows it."""
        target = target_of(statement, multiparams, params, self._service.tables)
        if target is None or not target.registers:
            return
        gathered = self._transactions.of(connection)
        its: Collection[str] = ()
        with self._outbox.tolerate(connection):
            if named(target, gathered.owners) == frozenset():
                its = made(target, result)
        if not is_autocommit(connection):
            self._touch(connection, gathered, its, target)

    def _touch(
        self, connection: Connection, gathered: Gathered, aggregates: Iterable[str], target: Target
    ) -> None:
        new = sorted(set(aggregates) - gathered.met)
        if not new:
            return
        with self._outbox.shield(connection, new) as body:
            # Their before-images would fill the service's memory, for events that find no room.
            if len(gathered.met) + len(new) > self._outbox.settings.outbox_rows_max:
                raise OutboxFull("a transaction changes more than outbox_rows_max aggregates")
            counters, reading = body.run(lambda: self._locked(connection, new, target))
            gathered.owners.update(reading.owners)
            touches = (
                Touch(aggregate=it, counter=counters[it], before=reading.states.get(it))
                for it in new
            )
            self._transactions.learn(connection, *touches)
        given_up = (GivenUp(aggregate=it) for it in new if it not in gathered.met)
        self._transactions.learn(connection, *given_up)

    def _locked(
        self, connection: Connection, aggregates: Sequence[str], target: Target
    ) -> tuple[Mapping[str, Counter], Reading[Any]]:
        """Their counters, and what is read of them under these locks."""
        if len(aggregates) == 1 and not target.registers:
            locked = self._outbox.locking(connection, aggregates[0])
            reading = self._service.read(connection, aggregates)
            return locked(), reading
        counters = self._outbox.lock(connection, aggregates)
        # Of one that is being made and that was never heard of nothing can be there.
        known = [it for it in aggregates if not (target.registers and counters[it].is_new)]
        return counters, self._service.read(connection, known)

    def _commit(self, connection: Connection, *_xid: object) -> None:
        gathered = self._transactions.known(connection)
        try:
            if gathered is not None and (touches := gathered.touches()):
                self._record(connection, gathered, touches)
        finally:
            self._transactions.forget(connection)

    def _forget(self, connection: Connection, *_xid: object) -> None:
        self._transactions.forget(connection)

    def _record(
        self, connection: Connection, gathered: Gathered, touches: Mapping[str, Touch]
    ) -> None:
        def record() -> None:
            states = self._service.read(connection, list(touches)).states
            drafts = list(self._drafts(connection, gathered, touches, states))
            if drafts:
                held = {it.aggregate: it.counter for it in touches.values()}
                self._outbox.record(connection, drafts, held=held)

        with self._outbox.shield_commit(connection, list(touches)) as body:
            body.run(record)

    def _drafts(
        self,
        connection: Connection,
        gathered: Gathered,
        touches: Mapping[str, Touch],
        states: Mapping[str, Any],
    ) -> Iterator[Draft]:
        context, occurred_at = self._context(), self._clock()
        notes, dropped = gathered.notes(), gathered.dropped()
        for aggregate, touch in touches.items():
            change = Change(
                aggregate=aggregate,
                before=touch.before,
                after=states.get(aggregate),
                note=notes.get(aggregate),
                dropped=dropped.get(aggregate, ()),
                occurred_at=occurred_at,
            )
            for origin, data in self._told(connection, touch, change):
                yield Draft(
                    data=data,
                    aggregate=aggregate,
                    context=context,
                    origin=origin,
                    occurred_at=occurred_at,
                )

    def _told(
        self, connection: Connection, touch: Touch, change: Change[Any]
    ) -> Iterator[tuple[Origin, EventData]]:
        """What happened, and before it what the ledger has to know first."""
        service, before = self._service, change.before
        happened = service.happened(connection, change)
        if before is not None and touch.counter.is_new and happened:
            for data in service.imported(connection, before, change.occurred_at):
                yield Origin.IMPORTED, data
        elif before is not None and touch.counter.unrecorded:
            for data in service.reconciled(connection, before, change.occurred_at):
                yield Origin.RECONCILED, data
        for data in happened:
            yield Origin.OBSERVED, data

    def _rollback_savepoint(self, connection: Connection, name: str, _context: None) -> None:
        if (gathered := self._transactions.known(connection)) is not None:
            gathered.rollback_to(name)


def watch(engine: Engine, watchers: Sequence[Watcher]) -> None:
    """Begins to watch. A request runs dozens of statements that only read, so there is one listener
    for all watchers, and it looks no further at those.
    """

    def before_execute(
        connection: Connection,
        statement: ClauseElement,
        multiparams: Any,  # noqa: ANN401
        params: Any,  # noqa: ANN401
        _options: Any,  # noqa: ANN401
    ) -> tuple[ClauseElement, Any, Any]:
        if isinstance(statement, UpdateBase):
            for watcher in watchers:
                watcher.before(connection, statement, multiparams, params)
        return statement, multiparams, params

    def after_execute(
        connection: Connection,
        statement: ClauseElement,
        multiparams: Any,  # noqa: ANN401
        params: Any,  # noqa: ANN401
        _options: Any,  # noqa: ANN401
        result: CursorResult[Any],
    ) -> None:
        if isinstance(statement, Insert):
            for watcher in watchers:
                watcher.after(connection, statement, multiparams, params, result)

    # It gives back what it got: SQLAlchemy would wrap one that gives nothing.
    event.listen(engine, "before_execute", before_execute, retval=True)
    event.listen(engine, "after_execute", after_execute)
    for watcher in watchers:
        watcher.listen(engine)

"""The engine's listener: gathers what a transaction touches and records it just before the commit.

Rules (RELIABILITY.md, "Inside the service's transaction"):
- One mechanism for all statements: the engine event `before_execute`, so the before-image is read
  before the change, whether it comes from an ORM flush, a bulk update or Core.
- Locks are taken in one order: the counters of the images, sorted, then the images' rows. What a
  WHERE finds is asked without a lock first, and once more under the counters' locks.
- Everything is written once, in the engine event `commit`, which comes just before the commit.
- The outbox shields: its SQL and ours run in its savepoint, and it alone decides what of an error
  is swallowed, counted or raised. An image whose first touch failed is left alone until the
  transaction ends, for a later before-image would hold a part of the change.
- What was gathered belongs to the connection and is forgotten on rollback (`gathered`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Insert, Select, event
from sqlalchemy.sql.expression import ClauseElement

from metaledger.producers.gathering import is_autocommit
from metaledger.producers.glance import rows
from metaledger.producers.glance.gathered import Dropped, Gathered, GivenUp, Touch, Transactions
from metaledger.producers.glance.statements import (
    Target,
    made_images,
    named_images,
    query_of_images,
    target_of,
)
from metaledger.producers.glance.tables import read_images
from metaledger.producers.outbox import Outbox
from metaledger.schemas.errors import OutboxFull, UsageError
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import Clock
from metaledger.schemas.image import ImageEvent
from metaledger.schemas.meta import Context, Origin


class Watcher:
    """Watches one engine."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        transactions: Transactions,
        context: Callable[[], Context],
        clock: Clock,
    ) -> None:
        self._outbox = outbox
        self._transactions = transactions
        self._context = context
        self._clock = clock

    def listen(self, engine: Engine) -> None:
        """Begins to watch."""
        for name, listener in (
            ("before_execute", self._before_execute),
            ("after_execute", self._after_execute),
            ("commit", self._commit),
            ("prepare_twophase", self._commit),
            # It finds nothing more where there was a prepare.
            ("commit_twophase", self._commit),
            ("rollback", self._forget),
            ("rollback_twophase", self._forget),
            ("rollback_savepoint", self._rollback_savepoint),
        ):
            event.listen(engine, name, listener)

    def _before_execute(
        self,
        connection: Connection,
        statement: ClauseElement,
        multiparams: Any,  # noqa: ANN401
        params: Any,  # noqa: ANN401
        _options: Any,  # noqa: ANN401
    ) -> None:
        target = target_of(statement, multiparams, params)
        if target is None:
            return
        gathered = self._transactions.of(connection)
        named: Collection[str] | None = None
        query: Select[Any] | None = None
        with self._outbox.tolerate(connection):
            named = named_images(target, gathered.owners)
            query = query_of_images(target) if named is None else None
        if is_autocommit(connection):
            self._refuse_autocommit(connection, named or ())
        elif named is not None:
            self._touch(connection, gathered, named, target)
            if target.drops_properties:
                dropped = (Dropped(image_id=image_id) for image_id in named)
                self._transactions.learn(connection, *dropped)
        elif query is not None:
            self._touch(connection, gathered, self._found(connection, query, target), target)
            # Under the locks nobody adds to what the WHERE finds, except rows of other images.
            if not isinstance(target.statement, Insert):
                query = query.with_for_update()
            self._touch(connection, gathered, self._found(connection, query, target), target)

    def _refuse_autocommit(self, connection: Connection, named: Collection[str]) -> None:
        with self._outbox.tolerate(connection, [f"image:{image_id}" for image_id in named]):
            raise UsageError("the change is of a connection in autocommit mode: no event can be")

    def _found(self, connection: Connection, query: Select[Any], target: Target) -> set[str]:
        found: set[str] = set()
        with self._outbox.shield(connection, ()):
            for row in target.rows:
                found.update(connection.scalars(query, row))
        return found

    def _after_execute(
        self,
        connection: Connection,
        statement: ClauseElement,
        multiparams: Any,  # noqa: ANN401
        params: Any,  # noqa: ANN401
        _options: Any,  # noqa: ANN401
        result: CursorResult[Any],
    ) -> None:
        """An image whose id was left to a default is touched once it has one; nobody else knows."""
        target = target_of(statement, multiparams, params)
        if target is None or not target.registers:
            return
        gathered = self._transactions.of(connection)
        made: Collection[str] = ()
        with self._outbox.tolerate(connection):
            if named_images(target, gathered.owners) == frozenset():
                made = made_images(result)
        if not is_autocommit(connection):
            self._touch(connection, gathered, made, target)

    def _touch(
        self, connection: Connection, gathered: Gathered, image_ids: Iterable[str], target: Target
    ) -> None:
        new = sorted(set(image_ids) - gathered.met)
        if not new:
            return
        aggregates = [f"image:{image_id}" for image_id in new]
        with self._outbox.shield(connection, aggregates):
            # Their before-images would fill the service's memory, for events that find no room.
            if len(gathered.met) + len(new) > self._outbox.settings.outbox_rows_max:
                raise OutboxFull("a transaction changes more images than outbox_rows_max")
            counters = self._outbox.lock(connection, aggregates)
            # Of an image that is being made and that was never heard of nothing can be there.
            made = {it for it in aggregates if target.registers and counters[it].is_new}
            known = [it for it, name in zip(new, aggregates, strict=True) if name not in made]
            reading = read_images(connection, known)
            gathered.owners.update(reading.owners)
            touches = (
                Touch(
                    image_id=image_id,
                    before=reading.states.get(image_id),
                    first=counters[aggregate].is_new,
                    unrecorded=counters[aggregate].unrecorded,
                )
                for image_id, aggregate in zip(new, aggregates, strict=True)
            )
            self._transactions.learn(connection, *touches)
        given_up = (GivenUp(image_id=image_id) for image_id in new if image_id not in gathered.met)
        self._transactions.learn(connection, *given_up)

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
        aggregates = [f"image:{image_id}" for image_id in touches]
        with self._outbox.shield_commit(connection, aggregates):
            states = read_images(connection, list(touches)).states
            drafts = list(self._drafts(gathered, touches, states))
            if drafts:
                self._outbox.record(connection, drafts)

    def _drafts(
        self,
        gathered: Gathered,
        touches: Mapping[str, Touch],
        states: Mapping[str, rows.ImageState],
    ) -> Iterator[Draft]:
        context, occurred_at = self._context(), self._clock()
        intents, dropped = gathered.intents(), gathered.dropped()
        for image_id, touch in touches.items():
            transition = rows.Transition(
                before=touch.before,
                after=states.get(image_id),
                intent=intents.get(image_id),
                dropped=image_id in dropped,
                occurred_at=occurred_at,
            )
            for origin, data in _told(touch, transition):
                yield Draft(
                    data=data,
                    aggregate=data.aggregate,
                    context=context,
                    origin=origin,
                    occurred_at=occurred_at,
                )

    def _rollback_savepoint(self, connection: Connection, name: str, _context: None) -> None:
        if (gathered := self._transactions.known(connection)) is not None:
            gathered.rollback_to(name)


def _told(touch: Touch, transition: rows.Transition) -> Iterator[tuple[Origin, ImageEvent]]:
    """What happened, and before it what the ledger has to know first."""
    happened = rows.events(transition)
    before = transition.before
    if before is not None and touch.first and happened:
        for data in rows.registered(before):
            yield Origin.IMPORTED, data
    elif before is not None and touch.unrecorded:
        yield Origin.RECONCILED, rows.reconciled(before, occurred_at=transition.occurred_at)
    for data in happened:
        yield Origin.OBSERVED, data

"""What this process could not record and could not even mark, until it can. No SQL, no decision.

Bounded: beyond `AGGREGATES_MAX` aggregates are counted and no longer known by name (the fold still
sees from the next before-image that something is missing). The memory is the process's own: a
child forgets what its parent remembers and will tell.
"""

import os
import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from threading import Lock

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext, Transaction

AGGREGATES_MAX = 10_000
# A transaction of the service's pays for a few of them, not for all.
_LENT_MAX = 100


@dataclass(frozen=True, slots=True)
class Lent:
    """What a transaction takes over from the memory: it is given back if that does not commit."""

    missed: int = 0
    unmarked: dict[str, datetime] = field(default_factory=dict)


class Memory:
    """Thread-safe; one an outbox."""

    def __init__(self) -> None:
        self._forget()
        _MEMORIES.add(self)

    def _forget(self) -> None:
        self._lock = Lock()
        self._missed = 0
        self._unmarked: dict[str, datetime] = {}
        self._lent: weakref.WeakKeyDictionary[Transaction, Lent] = weakref.WeakKeyDictionary()
        self._heard: weakref.WeakSet[Connection] = weakref.WeakSet()

    def listen(self, engine: Engine) -> None:
        """Hears of the engine's commits that fail; to be called where the engine is made."""
        # Of errors only an engine tells, and nothing can be added to its listeners later.
        event.listen(engine, "handle_error", self._failed)

    def missed(self, changes: int) -> None:
        """So many changes were not recorded."""
        with self._lock:
            self._missed += changes

    def remember(self, aggregates: Iterable[str], at: datetime) -> None:
        """These aggregates lack a change, and their counters do not say so."""
        with self._lock:
            for aggregate in aggregates:
                if len(self._unmarked) >= AGGREGATES_MAX:
                    return
                self._unmarked.setdefault(aggregate, at)

    def since(self, aggregate: str) -> datetime | None:
        """Since when the aggregate lacks a change that its counter does not know of."""
        return self._unmarked.get(aggregate)

    def lend(self, connection: Connection, *, first: Collection[str]) -> Lent:
        """Hands over what the connection's transaction is to write down, `first` above all."""
        if not self._missed and not self._unmarked:
            return Lent()
        transaction = connection.get_transaction()
        if transaction is None:
            return Lent()
        self._hear(connection)
        with self._lock:
            names = [name for name in first if name in self._unmarked]
            names += islice((name for name in self._unmarked if name not in first), _LENT_MAX)
            lent = Lent(self._missed, {name: self._unmarked.pop(name) for name in names})
            self._missed = 0
            before = self._lent.get(transaction, Lent())
            self._lent[transaction] = Lent(
                before.missed + lent.missed, {**before.unmarked, **lent.unmarked}
            )
        return lent

    def give_back(self, connection: Connection) -> None:
        """The connection's transaction did not write down, or did not commit, what was lent."""
        transaction = connection.get_transaction()
        if transaction is None:
            return
        with self._lock:
            lent = self._lent.pop(transaction, None)
            if lent is not None:
                self._missed += lent.missed
                self._unmarked = {**self._unmarked, **lent.unmarked}

    def _hear(self, connection: Connection) -> None:
        """Listens from the first loan on: without one a rollback costs nothing.

        Not to the engine, for another thread may be about to roll back: it would stumble.
        """
        if connection not in self._heard:
            event.listen(connection, "rollback", self.give_back)
            event.listen(connection, "rollback_twophase", self._rolled_back_twophase)
            self._heard.add(connection)

    def _rolled_back_twophase(
        self, connection: Connection, _xid: object, _is_prepared: bool
    ) -> None:
        self.give_back(connection)

    def _failed(self, context: ExceptionContext) -> None:
        """A commit that fails is no rollback to SQLAlchemy, only an error."""
        if context.connection is not None and context.statement is None:
            self.give_back(context.connection)


_MEMORIES: weakref.WeakSet[Memory] = weakref.WeakSet()


def _after_fork() -> None:
    for memory in _MEMORIES:
        memory._forget()  # noqa: SLF001 (its own module)


os.register_at_fork(after_in_child=_after_fork)

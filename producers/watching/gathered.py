"""What was gathered about aggregates in one transaction, in the order in which it was learnt. No
SQL.

Rules: it belongs to a connection's transaction and is forgotten with it. A rollback to a savepoint
forgets what was learnt since, touches with their before-images too: the next touch locks and reads
again, for in between another request may have had its turn.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection

from metaledger.producers.counters import Counter
from metaledger.producers.gathering import open_savepoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """The first touch of an aggregate: its counter, locked since, and its state before, None where
    the transaction makes it.
    """

    aggregate: str
    counter: Counter
    before: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """No before-image of it could be had; the outbox remembers it as unrecorded."""

    aggregate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """The service's own calls told something of it; the last word in a transaction holds."""

    aggregate: str
    note: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A statement that named it deleted rows of the table for good."""

    aggregate: str
    table: str


Learnt = Touch | GivenUp | Noted | Dropped
Kind = TypeVar("Kind", Touch, Noted, Dropped)


class Gathered:
    """The memory of one transaction.

    `owners`: the aggregate of each row that was read. `met`: what was touched or given up.
    """

    def __init__(self) -> None:
        self.owners: dict[tuple[str, object], str] = {}
        self.met: set[str] = set()
        self._learnt: list[tuple[Collection[str], Learnt]] = []

    def learn(self, what: Learnt, *, behind: Collection[str]) -> None:
        """Adds to the memory; `behind` are the savepoints that are open."""
        self._learnt.append((behind, what))
        self._meet(what)

    def touches(self) -> dict[str, Touch]:
        """What was touched, sorted by aggregate."""
        touched = {it.aggregate: it for it in self._all(Touch)}
        return dict(sorted(touched.items()))

    def notes(self) -> dict[str, object]:
        """The last note on each aggregate."""
        return {it.aggregate: it.note for it in self._all(Noted)}

    def dropped(self) -> Mapping[str, Collection[str]]:
        """Of each aggregate the tables of which rows were deleted for good."""
        tables: defaultdict[str, set[str]] = defaultdict(set)
        for it in self._all(Dropped):
            tables[it.aggregate].add(it.table)
        return tables

    def rollback_to(self, savepoint: str) -> None:
        """A savepoint was rolled back to: what was learnt behind it is forgotten."""
        self._learnt = [(behind, it) for behind, it in self._learnt if savepoint not in behind]
        self.met.clear()
        for _, what in self._learnt:
            self._meet(what)

    def _meet(self, what: Learnt) -> None:
        if isinstance(what, Touch | GivenUp):
            self.met.add(what.aggregate)

    def _all(self, kind: type[Kind]) -> Iterator[Kind]:
        return (it for _, it in self._learnt if isinstance(it, kind))


class Transactions:
    """The memory of every connection that is in a transaction; shared by all threads, and by all
    engines of a service, for what its calls tell names a connection and no engine.

    Without a lock, which a fork could leave locked for ever: no two threads use one connection.
    """

    def __init__(self) -> None:
        self._by_connection: WeakKeyDictionary[Connection, Gathered] = WeakKeyDictionary()

    def of(self, connection: Connection) -> Gathered:
        """The connection's memory, made if there is none."""
        return self._by_connection.setdefault(connection, Gathered())

    def learn(self, connection: Connection, *learnt: Learnt) -> None:
        """Adds to the connection's memory, until the innermost open savepoint is rolled back."""
        gathered, behind = self.of(connection), open_savepoints(connection)
        for what in learnt:
            gathered.learn(what, behind=behind)

    def note(self, connection: Connection, aggregate: str, note: object) -> None:
        """Adds what the service's own call told."""
        self.learn(connection, Noted(aggregate=aggregate, note=note))

    def known(self, connection: Connection) -> Gathered | None:
        """The connection's memory, None where nothing was learnt."""
        return self._by_connection.get(connection)

    def forget(self, connection: Connection) -> None:
        """Ends the connection's memory."""
        self._by_connection.pop(connection, None)

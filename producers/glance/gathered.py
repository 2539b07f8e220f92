"""What was gathered about images in one transaction, in the order in which it was learnt. No SQL.

Rules: it belongs to a connection's transaction and is forgotten with it. A rollback to a savepoint
forgets what was learnt since, touches with their before-images too: the next touch locks and reads
again, for in between another request may have had its turn.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection

from metaledger.producers.gathering import open_savepoints
from metaledger.producers.glance.rows import ImageState, Intent


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """The first touch of an image: the before-image, None where the transaction makes it.

    `first`: nothing of the image was ever recorded. `unrecorded`: something could not be.
    """

    image_id: str
    before: ImageState | None
    first: bool
    unrecorded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """No before-image of the image could be had; the outbox remembers it as unrecorded."""

    image_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended:
    """Glance was told to change the image's properties so; the last word in a transaction holds."""

    image_id: str
    intent: Intent


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A statement that named the image deleted rows of its properties for good."""

    image_id: str


Learnt = Touch | GivenUp | Intended | Dropped
Kind = TypeVar("Kind", Touch, Intended, Dropped)


class Gathered:
    """The memory of one transaction.

    `owners`: the image of each row that was read. `met`: images that were touched or given up.
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
        """The touched images, sorted by id."""
        touched = {it.image_id: it for it in self._all(Touch)}
        return dict(sorted(touched.items()))

    def intents(self) -> dict[str, Intent]:
        """The last intent of each image."""
        return {it.image_id: it.intent for it in self._all(Intended)}

    def dropped(self) -> frozenset[str]:
        """The images of which rows of properties were deleted for good."""
        return frozenset(it.image_id for it in self._all(Dropped))

    def rollback_to(self, savepoint: str) -> None:
        """A savepoint was rolled back to: what was learnt behind it is forgotten."""
        self._learnt = [(behind, it) for behind, it in self._learnt if savepoint not in behind]
        self.met.clear()
        for _, what in self._learnt:
            self._meet(what)

    def _meet(self, what: Learnt) -> None:
        if isinstance(what, Touch | GivenUp):
            self.met.add(what.image_id)

    def _all(self, kind: type[Kind]) -> Iterator[Kind]:
        return (it for _, it in self._learnt if isinstance(it, kind))


class Transactions:
    """The memory of every connection that is in a transaction; shared by all threads.

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

    def known(self, connection: Connection) -> Gathered | None:
        """The connection's memory, None where nothing was learnt."""
        return self._by_connection.get(connection)

    def forget(self, connection: Connection) -> None:
        """Ends the connection's memory."""
        self._by_connection.pop(connection, None)

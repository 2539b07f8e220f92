"""What was gathered about images in one transaction, in the order in which it was learnt. No SQL.

Rules: it belongs to a connection's transaction and is forgotten with it. A rollback to a savepoint
forgets what was learnt since, touches with their before-images too: the next touch locks and reads
again, for in between another request may have had its turn.
"""

from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

from sqlalchemy import Connection

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
class Intended:
    """Glance was told to change the image's properties so; the last word in a transaction holds."""

    image_id: str
    intent: Intent


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A statement that named the image deleted rows of its properties for good."""

    image_id: str


Learnt = Touch | Intended | Dropped


class Gathered:
    """The memory of one transaction.

    `owners`: the image of each row that was read. `given_up`: images of which no before-image could
    be had; the outbox remembers them as unrecorded.
    """

    def __init__(self) -> None:
        self.owners: dict[tuple[str, object], str] = {}
        self.given_up: set[str] = set()
        self._learnt: list[Learnt] = []
        self._savepoints: list[tuple[str, int]] = []

    def learn(self, what: Learnt) -> None:
        """Adds to the memory."""
        self._learnt.append(what)

    def touches(self) -> dict[str, Touch]:
        """The touched images, sorted by id."""
        touched = {it.image_id: it for it in self._learnt if isinstance(it, Touch)}
        return dict(sorted(touched.items()))

    def intents(self) -> dict[str, Intent]:
        """The last intent of each image."""
        return {it.image_id: it.intent for it in self._learnt if isinstance(it, Intended)}

    def dropped(self) -> frozenset[str]:
        """The images of which rows of properties were deleted for good."""
        return frozenset(it.image_id for it in self._learnt if isinstance(it, Dropped))

    def savepoint(self, name: str) -> None:
        """A savepoint was set."""
        self._savepoints.append((name, len(self._learnt)))

    def release(self, name: str) -> None:
        """A savepoint was released, and those within it."""
        self._close(name)

    def rollback_to(self, name: str) -> None:
        """A savepoint was rolled back to: what was learnt since is forgotten."""
        learnt = self._close(name)
        if learnt is not None:
            del self._learnt[learnt:]

    def _close(self, name: str) -> int | None:
        for index in reversed(range(len(self._savepoints))):
            if self._savepoints[index][0] == name:
                learnt = self._savepoints[index][1]
                del self._savepoints[index:]
                return learnt
        return None


class Transactions:
    """The memory of every connection that is in a transaction; shared by all threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_connection: WeakKeyDictionary[Connection, Gathered] = WeakKeyDictionary()

    def of(self, connection: Connection) -> Gathered:
        """The connection's memory, made if there is none."""
        with self._lock:
            return self._by_connection.setdefault(connection, Gathered())

    def known(self, connection: Connection) -> Gathered | None:
        """The connection's memory, None where nothing was learnt."""
        with self._lock:
            return self._by_connection.get(connection)

    def forget(self, connection: Connection) -> Gathered | None:
        """Ends the connection's memory and returns it."""
        with self._lock:
            return self._by_connection.pop(connection, None)

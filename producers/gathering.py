"""What was gathered during a transaction, written once just before its commit. Knows no events.

What was gathered belongs to the transaction: a rollback forgets it, and so does a rollback to a
savepoint for all that was gathered behind that savepoint (else there would be phantom events). With
two phases it is written before the prepare: what was prepared is all that a commit will keep.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.engine import Transaction

from metaledger.schemas.errors import UsageError

T = TypeVar("T")


class Gathering(Generic[T]):
    """Gathers on any number of connections; `write` is called in the event before the commit."""

    def __init__(self, write: Callable[[Connection, Sequence[T]], None]) -> None:
        self._write = write
        # The transaction's own object is the key: when it is over, so is what was gathered in it.
        self._gathered = weakref.WeakKeyDictionary[Transaction, list[tuple[frozenset[str], T]]]()
        self._heard = weakref.WeakSet[Connection]()

    def add(self, connection: Connection, items: Iterable[T]) -> None:
        """Adds to what the connection's transaction will write.

        Raises UsageError on a connection in autocommit mode: it has no transaction to belong to.
        """
        if is_autocommit(connection):
            raise UsageError(
                "the connection is in autocommit mode: an event needs the transaction of its change"
            )
        transaction = connection.get_transaction()
        if transaction is None:
            # SQLAlchemy begins a transaction with the first statement.
            connection.exec_driver_sql("SELECT 1")
            transaction = connection.get_transaction()
            if transaction is None:
                raise UsageError("the connection has no transaction for the event to belong to")
        self._hear(connection)
        behind = frozenset(open_savepoints(connection))
        self._gathered.setdefault(transaction, []).extend((behind, item) for item in items)

    def _hear(self, connection: Connection) -> None:
        """Not of the engine, for another thread may be about to commit: it would stumble."""
        if connection in self._heard:
            return
        event.listen(connection, "commit", self._before_commit)
        event.listen(connection, "prepare_twophase", self._before_prepare)
        event.listen(connection, "commit_twophase", self._before_commit_twophase)
        event.listen(connection, "rollback_savepoint", self._rolled_back_to)
        self._heard.add(connection)

    def _before_commit(self, connection: Connection) -> None:
        transaction = connection.get_transaction()
        if transaction is not None and (gathered := self._gathered.pop(transaction, None)):
            self._write(connection, [item for _, item in gathered])

    def _before_prepare(self, connection: Connection, _xid: object) -> None:
        self._before_commit(connection)

    def _before_commit_twophase(
        self, connection: Connection, _xid: object, is_prepared: bool
    ) -> None:
        if not is_prepared:
            self._before_commit(connection)

    def _rolled_back_to(self, connection: Connection, name: str, _context: None) -> None:
        transaction = connection.get_transaction()
        if transaction is not None and (gathered := self._gathered.get(transaction)):
            gathered[:] = [(behind, item) for behind, item in gathered if name not in behind]


def open_savepoints(connection: Connection) -> list[str]:
    """The names of the savepoints that SQLAlchemy has set and not left, innermost first.

    The event `savepoint` comes without the name, and `rollback_savepoint` with it: only the nested
    transactions themselves know which is which.
    """
    names = []
    nested = connection.get_nested_transaction()
    while nested is not None:
        names.append(nested._savepoint)  # noqa: SLF001
        nested = nested._previous_nested  # noqa: SLF001
    return names


def is_autocommit(connection: Connection) -> bool:
    """Whether each statement of the connection commits by itself."""
    asked = connection.get_execution_options().get("isolation_level")
    if asked is None:
        # Set by create_engine; SQLAlchemy has no public name for it.
        asked = getattr(connection.dialect, "_on_connect_isolation_level", None)
    return asked == "AUTOCOMMIT"

"""`emit`: for programs that tell events themselves, with their own session or connection.

    outbox = Outbox(settings, settings.codec())
    outbox.listen(engine)     # where the engine is made
    emitter = Emitter(outbox)
    with Session(engine) as session:
        image.name = "new"
        emitter.emit(session, [draft])
        session.commit()      # the event is written here, with the change

It exists if the change was committed, and not otherwise. Nothing is sent here, and no socket is
opened but the session's own. A program without a database has a `spool` instead.
"""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from metaledger.producers.gathering import Gathering
from metaledger.producers.outbox import Outbox
from metaledger.schemas.events import Draft


class HasConnection(Protocol):
    """A session, scoped or not."""

    def connection(self) -> Connection:
        """The connection of its current transaction."""
        ...


class Emitter:
    """Gathers events a transaction and writes them into the outbox just before its commit."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._gathering = Gathering[Draft](self._write)

    def emit(self, target: Connection | HasConnection, drafts: Sequence[Draft]) -> None:
        """Has the events written with the target's current transaction, in the given order.

        Raises ContractError where a draft could never be recorded, UsageError where the target has
        no transaction (autocommit mode). Later errors are the outbox's: see `Outbox.shield`.
        """
        written = self._outbox.written(drafts)
        connection = target if isinstance(target, Connection) else target.connection()
        self._gathering.add(connection, written)

    def _write(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        aggregates = sorted({draft.aggregate for draft in drafts})
        with self._outbox.shield_commit(connection, aggregates):
            self._outbox.record(connection, drafts)

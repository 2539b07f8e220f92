"""A spool: the outbox of a process that has no database, in a SQLite file of its own.

`emit` returns when the events are on the disk, and raises where they cannot be: unlike a hook in
somebody's transaction, whoever spools (a disk's intent, an operator's decision) acts only then. The
tables are the outbox's, and the same relay drains them. Many processes may share the file; no
connection stays open, so a fork carries none over; no socket is opened.

    spool = Spool(Path("/var/lib/metaledger-nova/spool.db"), settings)
    spool.emit([draft])

The file also keeps what it told last (`told`), in the transactions that told it.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from metaledger.producers import told
from metaledger.producers.administration import install_in
from metaledger.producers.database import open_sqlite, reached
from metaledger.producers.guard import described
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.tables import stream
from metaledger.schemas.errors import Unrecorded, UsageError
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import Clock, NewId, system_clock, uuid7


class Spool:
    """A durable queue in one file; the file is made with the first event or by `install`.

    `wait_s` is how long a writer waits for another one's lock; None: some seconds.
    """

    def __init__(
        self,
        path: Path,
        settings: ProducerSettings,
        *,
        wait_s: float | None = None,
        clock: Clock = system_clock,
        new_id: NewId = uuid7,
    ) -> None:
        self._path = path
        self._clock = clock
        self._new_id = new_id
        self._outbox = Outbox(
            replace(settings, strict=True), settings.codec(), clock=clock, new_id=new_id
        )
        self._engine = open_sqlite(URL.create("sqlite", database=str(path)), wait_s=wait_s)
        self._outbox.listen(self._engine)
        self._installed = False

    @property
    def outbox(self) -> Outbox:
        """What the spool writes through, for its relay."""
        return self._outbox

    @property
    def engine(self) -> Engine:
        """The spool's database, for its relay and its status."""
        return self._engine

    def emit(self, drafts: Sequence[Draft]) -> None:
        """Makes the events durable, all or none.

        Raises as `writing`: then none of them exists.
        """
        with self.writing() as connection:
            self._outbox.record(connection, drafts)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction of the file, for events (`outbox.record`) and what is noted beside them.

        Raises OutboxFull, ContractError, UsageError (the file is no spool), Unreachable (locked for
        seconds, or the disk is full or failing), Unrecorded.
        """
        self.install()
        try:
            with reached(self._engine) as connection:
                yield connection
        except SQLAlchemyError as error:
            raise Unrecorded(f"{self._path}: not written: {described(error)}") from error

    def install(self) -> None:
        """Makes the file where there is none. Raises UsageError, Unreachable, Unrecorded."""
        if self._installed and self._path.exists():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                _make_private(self._path.resolve())
        except OSError as error:
            raise Unrecorded(f"{self._path}: {error.strerror}") from error
        with reached(self._engine) as connection:
            tables = inspect(connection).get_table_names()
            if tables and stream.name not in tables:
                raise UsageError(f"{self._path} is a database of something else, and no spool")
            install_in(connection, clock=self._clock, new_id=self._new_id)
            told.METADATA.create_all(connection)
        # Kept in the file. With it the relay's reading and an event's writing do not wait for each
        # other; where another process just does the same, it is done.
        with closing(self._engine.raw_connection()) as raw, suppress(sqlite3.OperationalError):
            raw.cursor().execute("PRAGMA journal_mode=WAL")
        self._installed = True


def _make_private(path: Path) -> None:
    """Makes an empty file, if nobody else did meanwhile, which nobody else may read: events tell of
    tenants' images.

    It is made beside its place, for once it has its name others of this process may have it open,
    and to close it then would take the locks from them that SQLite holds for them.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as beside:
        beside.file.close()
        with suppress(FileExistsError):
            os.link(beside.name, path)

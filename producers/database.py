"""Opens a database whose outbox is to be administered or relayed, or a spool's file.

Not for hooks: they have their service's engine. Every engine made here fails within seconds where
nothing answers, reads what is committed (no repeatable read, whose snapshots are stale), and on
SQLite begins a transaction that writes as one that writes, so that it never has to be upgraded.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError

from metaledger.producers.guard import described
from metaledger.schemas.errors import Unreachable, UsageError

_CONNECT_TIMEOUT_S = 4
# A relay ends within 5 s, and waiting for a lock hears no signal.
_BUSY_TIMEOUT_S = 4.0
_READS = "metaledger_reads"


def open_database(url: str | URL) -> Engine:
    """An engine for the service's database; opens nothing yet. Raises UsageError."""
    try:
        url = make_url(url)
        dialect = url.get_backend_name()
        if dialect == "sqlite":
            if url.database and not Path(url.database).is_file():
                raise UsageError(f"{url.database}: no such database")
            return open_sqlite(url)
        timeout = {"connect_timeout": _CONNECT_TIMEOUT_S}
        return create_engine(
            url, isolation_level="READ COMMITTED", pool_pre_ping=True, connect_args=timeout
        )
    except (ArgumentError, ImportError, TypeError) as error:
        raise UsageError(f"no database URL that can be opened: {described(error)}") from error
    except ValueError:
        # It quotes what it took for the port: a part of a password that holds an unescaped `@`.
        raise UsageError("no database URL that can be opened: its port is no number") from None


def open_sqlite(url: URL, *, wait_s: float | None = None) -> Engine:
    """An engine for a SQLite file: a connection each use, so none is carried over a fork.

    `wait_s`: how long to wait for another's lock; None: as long as a relay may.
    """
    timeout = {"timeout": _BUSY_TIMEOUT_S if wait_s is None else wait_s}
    engine = create_engine(url, poolclass=NullPool, connect_args=timeout)
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine


@contextmanager
def reached(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that commits at the end. Raises as `answering`."""
    with answering(engine), engine.begin() as connection:
        yield connection


@contextmanager
def answering(engine: Engine) -> Iterator[None]:
    """Raises Unreachable where the database does not answer (any longer), UsageError where a file
    is no database, or where the driver refuses an option of the URL.
    """
    # The query may hold a secret too.
    name = engine.url.set(query={}).render_as_string(hide_password=True)
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise Unreachable(f"{name} cannot be reached: {described(error)}") from error
    except DatabaseError as error:
        if engine.dialect.name == "sqlite" and type(error) is DatabaseError:
            raise UsageError(f"{name} is no database: {described(error)}") from error
        if error.statement is None:
            raise UsageError(f"{name} cannot be opened: {described(error)}") from error
        raise


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads; on SQLite it takes no lock that writers wait for."""
    with ExitStack() as stack:
        connection = stack.enter_context(engine.connect())
        yield connection.execution_options(**{_READS: True})


def _on_sqlite_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 (any driver)
    # Transactions are begun below, not by the driver, which begins too late.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=FULL")


def _on_sqlite_begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

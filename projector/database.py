"""Where a read model is: its URL as an engine, and a database's refusals as errors of the ledger.

Nothing here knows a table but by the schema that it stands in. An engine made here reads the public
names as they are; `writing` gives the one that the store uses. What a database says is told in its
first line alone, which names hosts and users, and never a password.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError

from metaledger.schemas.errors import MetaledgerError, Unreachable, Unstorable, UsageError
from metaledger.schemas.tables import SHARED

# A command has 10 s to say that a part is not there, a daemon 5 s to end after its SIGTERM, and
# who waits for a connection or a lock hears no signal.
CONNECT_TIMEOUT_S = 4
LOCK_TIMEOUT_S = 4.0
# SQLSTATE classes that blame the values: data exception, integrity, program limit (an index row).
_UNSTORABLE = ("22", "23", "54")


def connect(url: str) -> Engine:
    """An engine for a read model's URL; nothing is opened yet. Raises UsageError."""
    try:
        place = make_url(url)
    # ValueError: a port that is no number. What was taken for it may be a part of a password.
    except (ArgumentError, ValueError):
        raise UsageError(
            "the read model's URL is none: use sqlite:///FILE or postgresql://…"
        ) from None
    if "@" in (place.host or ""):
        raise UsageError("the read model's URL has a password with an @: write %40 for it")
    match place.get_backend_name():
        case "postgresql":
            return _postgres(place)
        # Options of a SQLite URL would go unheard.
        case "sqlite" if place.database and place.database != ":memory:" and not place.query:
            return _sqlite(place)
        case _:
            raise UsageError("a read model is sqlite:///FILE or postgresql://…")


def writing(engine: Engine, generation: int) -> Engine:
    """The same database for the store: tables stand where that generation has them."""
    if engine.dialect.name == "sqlite":
        places: dict[str | None, str | None] = {SHARED: None}
    else:
        places = {None: schema_of(generation)}
    return engine.execution_options(schema_translate_map=places, metaledger_writes=True)


def schema_of(generation: int) -> str:
    """The PostgreSQL schema in which a generation's tables stand."""
    return f"ml_g{generation}"


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """What the database refuses, as an error of the ledger that names the place."""
    try:
        yield
    except DBAPIError as error:
        raise _named(engine.url, error.orig) from error
    # COPY is the driver's own, past SQLAlchemy's wrapping.
    except engine.dialect.loaded_dbapi.Error as error:
        raise _named(engine.url, error) from error
    # The driver's own, before a statement is sent: an integer of more than 64 bits, a surrogate.
    except (OverflowError, UnicodeError) as error:
        raise Unstorable(f"{_shown(engine.url)}: {error}") from error


def _postgres(place: URL) -> Engine:
    asked: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "metaledger"}
    asked = {name: value for name, value in asked.items() if name not in place.query}
    if "options" not in place.query:
        asked["options"] = f"-c search_path={SHARED},public -c timezone=UTC"
    return create_engine(place.set(drivername="postgresql+psycopg2"), connect_args=asked)


def _sqlite(place: URL) -> Engine:
    # A statement of as many rows as it takes has some 4 MB prepared, and the driver keeps 128.
    asked = {"timeout": LOCK_TIMEOUT_S, "cached_statements": 8}
    engine = create_engine(place, connect_args=asked)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own idea of when a transaction begins leaves reads and DDL outside of it.
        connection.isolation_level = None
        # The journal is WAL since `migrate`; NORMAL may lose the last batches with the machine's
        # power, checkpoint and rows together, and never tears one.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA cache_size=-65536")
        # 64 MB. A batch of new images changes 40 MB of pages, and most of them the next one too:
        # carried over with every batch (SQLite does at 4 MB) they took a tenth of the time.
        connection.execute("PRAGMA wal_autocheckpoint=16384")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("metaledger_writes", False)
        # A transaction that reads first and writes later cannot wait for another writer.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _named(place: URL, error: BaseException | None) -> MetaledgerError:
    said = str(error).strip().partition("\n")[0]
    text = f"{_shown(place)}: {said}"
    if isinstance(error, sqlite3.DatabaseError):
        return _sqlite_named(error, text)
    state = getattr(error, "pgcode", None) or ""
    if state.startswith(_UNSTORABLE):
        return Unstorable(text)
    # 42: a table or column that is not there; 3D: the database itself.
    if state.startswith(("42", "3D")):
        return UsageError(text)
    return Unreachable(text)


def _sqlite_named(error: sqlite3.DatabaseError, text: str) -> MetaledgerError:
    if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError):
        return Unstorable(text)
    if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
        return Unreachable(text)
    if "not a database" in str(error) or "malformed" in str(error):
        return UsageError(f"{text}: the file is damaged or of another program")
    return UsageError(text)


def _shown(place: URL) -> str:
    if place.get_backend_name() == "sqlite":
        return f"the read model {Path(place.database or '').name}"
    return f"the read model at {place.host or 'localhost'}:{place.port or 5432}"

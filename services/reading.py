"""Opens the read model for reading, and for nothing else.

On SQLite the connection takes queries only, and an authorizer allows what a SELECT needs; on
PostgreSQL the transaction is read-only, and a statement of a user goes through a cursor, which
takes a single statement that returns rows. (PostgreSQL still runs what functions do that a SELECT
may call: this is for the operator's own shell, never for an HTTP endpoint.)
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, event, text
from sqlalchemy.exc import DBAPIError

from metaledger.projector.database import connect, translated
from metaledger.projector.readmodel import check
from metaledger.schemas.errors import UsageError

_CHUNK_ROWS = 1000
_CURSOR = "metaledger_query"
_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a user's query gives: the columns' names, and the rows as they come."""

    columns: tuple[str, ...]
    rows: Iterator[Sequence[Any]]


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """A connection in one read-only transaction, which sees one state of the read model.

    Raises UsageError, VersionMismatch (no read model, or another build's), Unreachable.
    """
    engine = connect(url)
    try:
        snapshot = _snapshot(engine)
        check(engine)
        with translated(engine), snapshot.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _snapshot(engine: Engine) -> Engine:
    """One state of the database for all statements of a transaction, and no writing."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _only_queries)
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _only_queries(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")


def run_query(connection: Connection, query: str) -> Answer:
    """A user's own query. Raises UsageError where it is wrong or would write."""
    try:
        if connection.dialect.name == "sqlite":
            return _run_on_sqlite(connection, query)
        return _run_on_postgres(connection, query)
    except DBAPIError as error:
        raise _refused(error) from error


def _run_on_sqlite(connection: Connection, query: str) -> Answer:
    raw: Any = connection.connection.dbapi_connection
    raw.set_authorizer(_verdict)
    try:
        cursor = raw.execute(query)
    # A second statement is a ProgrammingError, in some versions a Warning.
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise UsageError(f"the query is refused: {_sqlite_reason(error)}") from error
    if cursor.description is None:
        raise UsageError("the query is refused: it is none that returns rows")
    return Answer(tuple(column[0] for column in cursor.description), _sqlite_rows(cursor))


def _sqlite_rows(cursor: sqlite3.Cursor) -> Iterator[Sequence[Any]]:
    try:
        yield from cursor
    except sqlite3.Error as error:
        raise UsageError(f"the query failed: {_sqlite_reason(error)}") from error


def _sqlite_reason(error: Exception) -> str:
    text = str(error)
    if any(word in text for word in ("not authorized", "authorization denied", "prohibited")):
        return "it would do more than read"
    return text


def _verdict(action: int, table: str | None, *_rest: str | None) -> int:
    # json_each and its like declare themselves by an update of sqlite_master, in memory only.
    declares = action == sqlite3.SQLITE_UPDATE and table == "sqlite_master"
    return sqlite3.SQLITE_OK if action in _ALLOWED or declares else sqlite3.SQLITE_DENY


def _run_on_postgres(connection: Connection, query: str) -> Answer:
    # OPEN … FOR EXECUTE refuses more than one statement and all that return no rows.
    connection.execute(
        text("SELECT set_config('metaledger.query', :query, true)"), {"query": query}
    )
    connection.execute(
        text(
            f"DO $$ DECLARE found refcursor := '{_CURSOR}'; BEGIN "
            "OPEN found FOR EXECUTE current_setting('metaledger.query'); END $$"
        )
    )
    fetch = text(f"FETCH FORWARD {_CHUNK_ROWS} FROM {_CURSOR}")
    first = connection.execute(fetch)
    return Answer(tuple(first.keys()), _postgres_rows(connection, fetch, first.fetchall()))


def _postgres_rows(
    connection: Connection, fetch: TextClause, chunk: Sequence[Sequence[Any]]
) -> Iterator[Sequence[Any]]:
    try:
        while chunk:
            yield from chunk
            chunk = connection.execute(fetch).fetchall()
    except DBAPIError as error:
        raise _refused(error) from error


def _refused(error: DBAPIError) -> UsageError:
    reason = str(error.orig).strip().splitlines()[0]
    return UsageError(f"the query is refused: {reason}")

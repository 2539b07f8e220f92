"""The SQLite file of the embedded log: its layout, how it comes to be, how it is opened.

Rules: a file appears complete or not at all; the first bytes are looked at before SQLite may write
to them; an error of SQLite becomes one clear sentence of ours.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from metaledger.schemas.errors import LogRefused, MetaledgerError, Unreachable, UsageError
from metaledger.schemas.identity import Clock, NewId
from metaledger.schemas.times import time_text

FORMAT: Final = 1
APPLICATION_ID: Final = int.from_bytes(b"MLDG")

# The execution option that names a transaction's first statement.
BEGIN: Final = "metaledger_begin"

# After a large batch the WAL shrinks back to this.
_WAL_BYTES_MAX: Final = 64 * 2**20

_SCHEMA: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE ledger (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  topic_id TEXT NOT NULL,
  created_at TEXT NOT NULL
);
CREATE TABLE records (
  offset INTEGER PRIMARY KEY,
  recorded_at TEXT NOT NULL,
  aggregate TEXT,
  stream_id TEXT,
  epoch INTEGER,
  stream_seq INTEGER,
  event_id TEXT,
  value BLOB NOT NULL,
  sha256 BLOB
);
CREATE TRIGGER records_only_next BEFORE INSERT ON records
WHEN NEW.offset IS NOT (SELECT coalesce(max(offset) + 1, 0) FROM records)
BEGIN SELECT raise(ABORT, 'the log takes its next offset only'); END;
CREATE TRIGGER records_no_update BEFORE UPDATE ON records
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;
CREATE TRIGGER records_no_delete BEFORE DELETE ON records
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;
CREATE TRIGGER ledger_no_second BEFORE INSERT ON ledger WHEN EXISTS (SELECT 1 FROM ledger)
BEGIN SELECT raise(ABORT, 'a log has one identity'); END;
CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
BEGIN SELECT raise(ABORT, 'a log keeps its identity'); END;
CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
BEGIN SELECT raise(ABORT, 'a log keeps its identity'); END;
"""
_IDENTIFY: Final = "INSERT INTO ledger VALUES (1, ?, ?)"


def create_file(path: Path, *, clock: Clock, new_id: NewId) -> None:
    """Makes the file beside its place and then gives it its name, if nobody else did meanwhile."""
    leftover = Path(f"{path}-wal")
    if leftover.exists() and not path.exists():
        raise LogRefused(
            f"{leftover} is what is left of a log whose file is gone: put {path} back, or move "
            f"{leftover} away to begin a new log"
        )
    now = clock()
    topic_id = new_id(now)
    beside = path.with_name(f".{path.name}.{topic_id}")
    try:
        connection = sqlite3.connect(beside, isolation_level=None)
        try:
            connection.executescript(_SCHEMA)
            connection.execute(_IDENTIFY, (topic_id, time_text(now)))
            connection.execute("COMMIT")
        finally:
            connection.close()
        try:
            os.link(beside, path)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise UsageError(f"no log can be made at {path}: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_head(path: Path) -> None:
    """Looks at the first bytes (https://www.sqlite.org/fileformat.html) before SQLite may write.

    For a file that this process has not open: POSIX drops all of a process's locks on a file when
    it closes any descriptor of it (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no log at {path}: a relay makes it, or `metaledger emit`; another one is "
            "named by --ledger or the configuration file"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise LogRefused(f"{path} is empty: it is no Metaledger log")
    if not head.startswith(b"SQLite format 3\0"):
        raise LogRefused(f"{path} is no SQLite file, and so no Metaledger log")
    if head[68:72] != APPLICATION_ID.to_bytes(4):
        raise LogRefused(f"{path} is a SQLite file of something else: it is no Metaledger log")
    if (found := int.from_bytes(head[60:64])) != FORMAT:
        raise LogRefused(f"{path} has format {found} and this build reads {FORMAT}: upgrade it")


def file_identity(path: Path) -> tuple[int, int] | None:
    """The file's own, whatever its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def engine_of(path: Path, busy_timeout_s: float) -> Engine:
    """Connections to the file; a transaction is a writing one where BEGIN does not say other."""
    uri = f"file:{quote(str(path))}?mode=rw"  # `rw`: never makes the file

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_MAX}")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes then cannot wait for its lock, so those of
        # writers ask for it at once.
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get(BEGIN, "BEGIN IMMEDIATE"))

    return engine


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Says in one sentence what is wrong with the file; the errors of a statement stay as they are.

    Raises LogRefused (damaged), UsageError (not ours to open), Unreachable (locked, disk full).
    """
    try:
        yield
    except DBAPIError as error:
        said = _translated(error, path)
        if said is None:
            raise
        raise said from error


def _translated(error: DBAPIError, path: Path) -> MetaledgerError | None:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # without its extension
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return LogRefused(f"{path} is damaged or cut short ({error.orig}): bring it back whole")
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}:
        return UsageError(f"{path} cannot be opened for writing ({error.orig})")
    if code in {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    }:
        return Unreachable(f"{path} cannot be used now ({error.orig})")
    return None

"""Our SQL inside a service's transaction: what of its errors goes up, and what is undone.

The rules (RELIABILITY.md, "Inside the service's transaction"):

- It runs in a savepoint. Only what a ROLLBACK TO undid may be swallowed.
- An error that ended the transaction (a deadlock, a serialisation failure, a lost connection,
  SQLite's busy and full) goes up as it is: the service runs its transaction again. What no list
  here names (MariaDB's 1020) shows by the savepoint, which the database then no longer knows.
- `strict` raises Unrecorded instead of swallowing. In the middle of a transaction the transaction
  is doomed by that, and its commit is refused even if the service swallows the error.
- Where it can, the savepoint travels with the body's first statement (`along`).
- What fails only because of what a backend kept (`prepared`) is done once more, without
  (`Attempt.run`).
- What goes up from the commit's own event rolls the DBAPI connection back first: SQLAlchemy does
  not, and the pool's next user would commit what was refused.

Here alone stands `except Exception` on the writing side, with its counter.
"""

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, event
from sqlalchemy.engine import Transaction

from metaledger.producers import along
from metaledger.schemas.errors import MetaledgerError, Unrecorded

_log = structlog.get_logger("metaledger.producers")
_T = TypeVar("_T")

_SAVEPOINT = "metaledger"
# Of its own name, so that nobody rolls back to it who means another.
_FIRST = "metaledger_first"
# How many a transaction has had.
_SAVEPOINTS = weakref.WeakKeyDictionary[Transaction, int]()
# libpq's PQTRANS_INERROR.
_IN_ERROR = 3
_MYSQL = frozenset({"mysql", "mariadb"})
# Serialisation failure, deadlock; the class 08 and 57P0x (shutdown) are lost connections.
_ENDED_SQLSTATES = ("40001", "40P01", "08", "57P0")
# InnoDB's deadlock (which rolls back all); server gone, connection lost, shutdown.
_ENDED_MYSQL = frozenset({1213, 2006, 2013, 1053})
_ENDED_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED")
_LOCK_TIMEOUT_SQLSTATE, _LOCK_TIMEOUT_MYSQL = "55P03", 1205
# PostgreSQL: "cached plan must not change result type", and no such prepared statement.
_STALE_SQLSTATES = frozenset({"0A000", "26000"})
# PostgreSQL: the transaction was aborted before we came, and its commit will be a rollback.
_ABORTED_SQLSTATE = "25P02"


class Guard:
    """Shields a service from the errors of what runs inside. `count` of them went by so far.

    `make_up(connection, aggregates, error)` is called after an error was swallowed: it notes down
    that these aggregates lack a change. It runs in the service's transaction too, so it may raise
    only what ended that.
    """

    def __init__(
        self, *, strict: bool, make_up: Callable[[Connection, Sequence[str], Exception], None]
    ) -> None:
        self.count = 0
        self._strict = strict
        self._make_up = make_up
        self._doomed = weakref.WeakSet[Transaction]()
        # Transactions in which a savepoint was left open.
        self._begun = weakref.WeakSet[Transaction]()

    @contextmanager
    def shield(self, connection: Connection, aggregates: Sequence[str]) -> Iterator["Attempt"]:
        """Runs the body in a savepoint, in the middle of the connection's transaction.

        Not to be nested. Behind a `with` whose body ends in `return`, control arrives only where an
        error was swallowed.
        """
        # The first one is left to the end of the transaction: a round trip less. More would nest.
        first = self._is_first(connection)
        with attempt(connection, name=_FIRST if first else _SAVEPOINT) as body:
            yield body
            if not first:
                body.release()
        if body.error is not None:
            self._undone(connection, aggregates, body.error)

    @contextmanager
    def shield_commit(
        self, connection: Connection, aggregates: Sequence[str]
    ) -> Iterator["Attempt"]:
        """As `shield`, in the event that comes just before the commit (or the prepare), which
        releases the savepoint: a round trip less.
        """
        try:
            with attempt(connection) as body:
                yield body
            if body.error is not None:
                self._undone(connection, aggregates, body.error)
        except BaseException:
            _roll_back(connection)
            raise

    @contextmanager
    def tolerate(self, connection: Connection, aggregates: Sequence[str] = ()) -> Iterator[None]:
        """As `shield`, for a body that runs no SQL: there is nothing to undo, and no savepoint."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (counted, logged, or fails the change)
            self._undone(connection, aggregates, error)

    def _undone(self, connection: Connection, aggregates: Sequence[str], error: Exception) -> None:
        self.count += 1
        _log.error(
            "changes not recorded",
            error=described(error),
            aggregates=list(aggregates[:_NAMED_MAX]),
            changes=len(aggregates),
            failures=self.count,
            strict=self._strict,
        )
        if self._strict:
            self._doom(connection)
            raise Unrecorded(
                f"the change was not recorded, and `strict` is set: {described(error)}"
            ) from error
        self._make_up(connection, aggregates, error)

    def _doom(self, connection: Connection) -> None:
        transaction = connection.get_transaction()
        if transaction is not None and transaction not in self._doomed:
            self._doomed.add(transaction)
            # Not of the engine, for another thread may be about to commit: it would stumble.
            for name in ("commit", "prepare_twophase", "commit_twophase"):
                event.listen(connection, name, self._refuse_doomed)

    def _is_first(self, connection: Connection) -> bool:
        """Whether nothing was shielded in the connection's transaction before."""
        transaction = connection.get_transaction()
        if transaction is None or transaction in self._begun:
            return False
        self._begun.add(transaction)
        return True

    def _refuse_doomed(self, connection: Connection, *_phase: object) -> None:
        if connection.get_transaction() in self._doomed:
            _roll_back(connection)
            raise Unrecorded("a change of this transaction was not recorded, and `strict` is set")


@dataclass(slots=True)
class Attempt:
    """What became of the body: the error that was undone, None where there was none."""

    connection: Connection
    name: str
    # What the service was handling as it began.
    handled: BaseException | None
    # In a transaction that was aborted before, nothing is left to record.
    aborted: bool
    error: Exception | None = None

    def run(self, work: Callable[[], _T]) -> _T:
        """Does the work, which is to be all that the body does, once more where it failed only
        because of what a backend kept.
        """
        try:
            return work()
        except Exception as error:
            if not _is_stale(error, self.handled) or not _rolled_back_to(
                self.connection, self.name
            ):
                raise
            _set_savepoint(self.connection, self.name, error)
        return work()

    def release(self) -> None:
        """The body's last step, where the transaction goes on."""
        # They go with the transaction: a round trip less.
        if self.connection.dialect.name in _MYSQL:
            return
        if not self.aborted and not along.waits(self.connection):
            self.connection.exec_driver_sql(f"RELEASE SAVEPOINT {self.name}")


@contextmanager
def attempt(connection: Connection, *, name: str = _SAVEPOINT) -> Iterator[Attempt]:
    """Runs the body in a savepoint. Raises, unchanged, only what could not be undone by it."""
    # What the service is handling right now hangs on each error of ours, and says nothing of it.
    handled = sys.exception()
    name = _own_name(connection, name)
    aborted = not _set_savepoint(connection, name, handled)
    body = Attempt(connection, name, handled=handled, aborted=aborted)
    try:
        yield body
    except Exception as error:
        if body.aborted:
            return
        if ended_transaction(connection, error, handled):
            raise
        # Where it was never sent, nothing was done behind it.
        if not along.waits(connection) and not _rolled_back_to(connection, name):
            raise
        body.error = error
    finally:
        along.forget(connection)


@contextmanager
def beside(undone: Callable[[Exception], None]) -> Iterator[None]:
    """Runs the body beside what a service does: its errors go to `undone`, and none goes up.

    For a process that has no transaction of ours to undo, or whose work is done already.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (`undone` counts and logs it)
        undone(error)


def ended_transaction(
    connection: Connection, error: BaseException, handled: BaseException | None = None
) -> bool:
    """Whether nothing is left of the transaction, whatever the database still answers.

    Looks behind the error at its causes: a service may have put its own in front of the driver's.
    But not at `handled`, nor behind it: that was there before.
    """
    if connection.closed or connection.invalidated:
        return True
    return any(_ends(cause, connection.dialect.name) for cause in _causes(error, handled))


def is_lock_timeout(connection: Connection, error: BaseException) -> bool:
    """Whether the database gave up to wait for a lock, and left the transaction as it was."""
    is_mysql = connection.dialect.name in _MYSQL
    return any(
        cause.args[:1] == (_LOCK_TIMEOUT_MYSQL,)
        if is_mysql
        else _sqlstate(cause) == _LOCK_TIMEOUT_SQLSTATE
        for cause in _causes(error, None)
    )


def described(error: BaseException) -> str:
    """The error in one short line, without its statement, which may hold values."""
    if isinstance(error, MetaledgerError):
        return str(error)
    driver = getattr(error, "orig", None) or error
    first, *_ = str(driver).splitlines() or [""]
    return f"{type(error).__name__}: {first}"[:_DESCRIBED_CHARS_MAX]


def _ends(error: BaseException, dialect: str) -> bool:
    sqlstate = _sqlstate(error)
    if dialect == "sqlite":
        return str(getattr(error, "sqlite_errorname", "")).startswith(_ENDED_SQLITE)
    if dialect in _MYSQL:
        return bool(error.args) and error.args[0] in _ENDED_MYSQL
    return sqlstate is not None and sqlstate.startswith(_ENDED_SQLSTATES)


def _is_stale(error: BaseException, handled: BaseException | None) -> bool:
    return any(_sqlstate(cause) in _STALE_SQLSTATES for cause in _causes(error, handled))


def _sqlstate(error: BaseException) -> str | None:
    """Psycopg 2 has `pgcode`, all others `sqlstate`."""
    return getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)


def _causes(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    seen = {id(handled)}
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__]
            waiting += [getattr(cause, "orig", None), getattr(cause, "inner_exception", None)]


def _own_name(connection: Connection, name: str) -> str:
    """On MariaDB, which reads a compound statement whole before it runs any of it, a savepoint that
    counts as sent may not be there: then no older one may have its name.
    """
    transaction = connection.get_transaction()
    if connection.dialect.name not in _MYSQL or transaction is None:
        return name
    # Small numbers: a server keeps statistics of each form of a statement.
    _SAVEPOINTS[transaction] = number = _SAVEPOINTS.get(transaction, 0) + 1
    return f"{name}_{number}"


def _set_savepoint(connection: Connection, name: str, handled: BaseException | None) -> bool:
    """Sets it; False where the service's transaction was aborted before, so that it cannot be."""
    driver: Any = connection.connection.dbapi_connection
    # Python's sqlite3 begins no transaction for a SAVEPOINT, and its RELEASE would be a commit.
    if connection.dialect.name == "sqlite" and not getattr(driver, "in_transaction", True):
        # Where a transaction that has read wants to write, SQLite waits for no other writer.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    if _is_in_error(driver):
        return False
    statement = f"SAVEPOINT {name}"
    if along.bring(connection, statement):
        return True
    try:
        connection.exec_driver_sql(statement)
    except Exception as error:
        if any(_sqlstate(cause) == _ABORTED_SQLSTATE for cause in _causes(error, handled)):
            return False
        raise
    return True


def _is_in_error(driver: Any) -> bool:  # noqa: ANN401
    """Whether psycopg 2 knows, without asking the server, that the transaction was aborted."""
    ask = getattr(driver, "get_transaction_status", None)
    return ask is not None and bool(ask() == _IN_ERROR)


def _rolled_back_to(connection: Connection, name: str) -> bool:
    """Rolls back to the savepoint; False where the database no longer knows it."""
    # Whatever it raises, the first error is the one to tell.
    with suppress(Exception):
        connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {name}")
        connection.exec_driver_sql(f"RELEASE SAVEPOINT {name}")
        return True
    return False


def _roll_back(connection: Connection) -> None:
    # A lost connection has nothing to roll back, and the error that goes up already says it.
    with suppress(Exception):
        if not connection.invalidated:
            connection.connection.rollback()


_NAMED_MAX = 5
_DESCRIBED_CHARS_MAX = 300

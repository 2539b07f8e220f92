"""A statement that travels along with the connection's next one: a round trip less, inside
somebody's request.

psycopg 2 sends "a; b" as it is. MariaDB takes both as one compound statement, which needs no stored
program ("Using Compound Statements Outside of Stored Programs"); MySQL has no such thing. What a
driver itself refuses (a NUL, half a surrogate) it refuses here, before anything is sent.
"""

import weakref
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Dialect, ExecutionContext, event

# What waits for the connection's next statement.
_WAITING = weakref.WeakKeyDictionary[Connection, str]()
_LISTENED = weakref.WeakSet[Dialect]()
# From a cursor and a statement with its parameters to the whole that brings the other along.
Whole = Callable[[Any, str, Any, str], str | bytes]


def bring(connection: Connection, statement: str) -> bool:
    """Has the connection's next statement bring this along; False where that is not possible.

    It gives nothing back, and has no parameters.
    """
    dialect = connection.dialect
    if _whole_of(dialect) is None:
        return False
    if dialect not in _LISTENED:
        event.listen(dialect, "do_execute", _send_both)
        event.listen(dialect, "do_executemany", _send_before)
        event.listen(dialect, "do_execute_no_params", _send_before)
        _LISTENED.add(dialect)
    _WAITING[connection] = statement
    return True


def waits(connection: Connection) -> bool:
    """Whether what was to be brought along was never sent."""
    return connection in _WAITING


def forget(connection: Connection) -> None:
    """What waits, if anything, shall not be sent."""
    _WAITING.pop(connection, None)


def _send_both(
    cursor: Any,  # noqa: ANN401
    statement: str,
    parameters: Any,  # noqa: ANN401
    context: ExecutionContext,
) -> bool:
    """Where SQLAlchemy hands a statement to the driver; True where this has done it."""
    connection = context.root_connection
    if connection not in _WAITING:
        return False
    whole_of = _whole_of(connection.dialect)
    if whole_of is None or context.executemany or _is_on_server(cursor):
        return _send_before(cursor, statement, parameters, context)
    whole = whole_of(cursor, statement, parameters, _WAITING[connection])
    del _WAITING[connection]
    cursor.execute(whole)
    return True


def _send_before(
    _cursor: object,
    _statement: str,
    *_parameters_and_context: Any,  # noqa: ANN401
) -> bool:
    """Before a statement that nothing can be put in front of."""
    context: ExecutionContext = _parameters_and_context[-1]
    if (waiting := _WAITING.pop(context.root_connection, None)) is not None:
        context.root_connection.exec_driver_sql(waiting)
    return False


def _is_on_server(cursor: Any) -> bool:  # noqa: ANN401
    """Those of psycopg 2, behind a DECLARE, have a name; those of PyMySQL are of another class."""
    return getattr(cursor, "name", None) is not None or type(cursor).__name__.startswith("SS")


def _in_front(
    cursor: Any,  # noqa: ANN401
    statement: str,
    parameters: Any,  # noqa: ANN401
    waiting: str,
) -> bytes:
    complete: bytes = cursor.mogrify(statement, parameters)
    return f"{waiting}; ".encode() + complete


def _compound(
    cursor: Any,  # noqa: ANN401
    statement: str,
    parameters: Any,  # noqa: ANN401
    waiting: str,
) -> str:
    complete: str = cursor.mogrify(statement, parameters)
    # As PyMySQL will, only when it sends.
    complete.encode(cursor.connection.encoding, "surrogateescape")
    return f"BEGIN NOT ATOMIC {waiting}; {complete}; END"


def _whole_of(dialect: Dialect) -> Whole | None:
    """How, as far as we have tried it."""
    if dialect.driver == "psycopg2":
        return _in_front
    if dialect.driver == "pymysql" and getattr(dialect, "is_mariadb", False):
        return _compound
    return None

"""A statement that travels along with the connection's next one: a round trip less, inside
somebody's request.

psycopg 2 sends "a; b" as it is. MariaDB takes both as one compound statement, which needs no stored
program ("Using Compound Statements Outside of Stored Programs"); MySQL has no such thing. What a
driver itself refuses (a NUL, half a surrogate) it refuses here, before anything is sent.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, ExecutionContext, event


@dataclass(slots=True)
class Asked:
    """A statement that is to give rows; None until it was brought along."""

    statement: str
    parameters: Mapping[str, Any]
    rows: Sequence[Sequence[Any]] | None = None


_DRIVERS = frozenset({"psycopg2", "pymysql"})
# What waits for the connection's next statement; what is asked goes behind what is brought.
_WAITING = weakref.WeakKeyDictionary[Connection, str]()
_ASKED = weakref.WeakKeyDictionary[Connection, Asked]()
_LISTENED = weakref.WeakSet[Dialect]()
# From a cursor, a statement as the cursor has written it out, and what comes before it, to the
# whole.
Whole = Callable[[Any, Any, Sequence[str]], str | bytes]


def listen(engine: Engine) -> None:
    """Lets the engine's connections bring something along; to be called where the engine is made:
    later another thread may be going through its listeners, and would stumble.
    """
    dialect = engine.dialect
    # Which server it is shows with the first connection.
    if dialect.driver not in _DRIVERS or dialect in _LISTENED:
        return
    # Before others, one of which may be the last that is asked.
    event.listen(dialect, "do_execute", _send_both, insert=True)
    event.listen(dialect, "do_executemany", _send_before, insert=True)
    event.listen(dialect, "do_execute_no_params", _send_before, insert=True)
    _LISTENED.add(dialect)


def bring(connection: Connection, statement: str) -> bool:
    """Has the connection's next statement bring this along; False where that is not possible.

    It gives nothing back, and has no parameters.
    """
    if _whole_of(connection.dialect) is None:
        return False
    _WAITING[connection] = statement
    return True


def ask(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> Asked | None:
    """Has the connection's next statement bring this along, which gives rows and has parameters in
    the driver's own style; None where that is not possible.
    """
    # Of several statements psycopg 2 gives the last one's rows alone.
    if _whole_of(connection.dialect) is not _compound:
        return None
    _ASKED[connection] = asked = Asked(statement, parameters)
    return asked


def waits(connection: Connection) -> bool:
    """Whether what was to be brought along was never sent."""
    return connection in _WAITING


def forget(connection: Connection) -> None:
    """What waits, if anything, shall not be sent."""
    _WAITING.pop(connection, None)
    _ASKED.pop(connection, None)


def _send_both(
    cursor: Any,  # noqa: ANN401
    statement: str,
    parameters: Any,  # noqa: ANN401
    context: ExecutionContext,
) -> bool:
    """Where SQLAlchemy hands a statement to the driver; True where this has done it."""
    connection = context.root_connection
    waiting, asked = _WAITING.get(connection), _ASKED.get(connection)
    if waiting is None and asked is None:
        return False
    whole_of = _whole_of(connection.dialect)
    if whole_of is None or context.executemany or _is_on_server(cursor):
        return _send_before(cursor, statement, parameters, context)
    before = [] if waiting is None else [waiting]
    if asked is not None:
        before.append(cursor.mogrify(asked.statement, asked.parameters))
    whole = whole_of(cursor, cursor.mogrify(statement, parameters), before)
    forget(connection)
    cursor.execute(whole)
    if asked is not None:
        asked.rows = cursor.fetchall()
        cursor.nextset()
    return True


def _send_before(
    _cursor: object,
    _statement: str,
    *_parameters_and_context: Any,  # noqa: ANN401
) -> bool:
    """Before a statement that nothing can be put in front of."""
    context: ExecutionContext = _parameters_and_context[-1]
    connection = context.root_connection
    waiting, asked = _WAITING.pop(connection, None), _ASKED.pop(connection, None)
    if waiting is not None:
        connection.exec_driver_sql(waiting)
    if asked is not None:
        asked.rows = connection.exec_driver_sql(asked.statement, dict(asked.parameters)).all()
    return False


def _is_on_server(cursor: Any) -> bool:  # noqa: ANN401
    """Those of psycopg 2, behind a DECLARE, have a name; those of PyMySQL are of another class."""
    return getattr(cursor, "name", None) is not None or type(cursor).__name__.startswith("SS")


def _in_front(_cursor: object, complete: bytes, before: Sequence[str]) -> bytes:
    return "; ".join([*before, ""]).encode() + complete


def _compound(cursor: Any, complete: str, before: Sequence[str]) -> str:  # noqa: ANN401
    # It may end in a comment.
    whole = f"BEGIN NOT ATOMIC {'; '.join([*before, complete])}\n; END"
    # As PyMySQL will, only when it sends.
    whole.encode(cursor.connection.encoding, "surrogateescape")
    return whole


def _whole_of(dialect: Dialect) -> Whole | None:
    """How, as far as we have tried it, and where it was prepared (`listen`)."""
    if dialect not in _LISTENED:
        return None
    if dialect.driver == "psycopg2":
        return _in_front
    if dialect.driver == "pymysql" and getattr(dialect, "is_mariadb", False):
        return _compound
    return None

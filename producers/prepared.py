"""Statements that PostgreSQL keeps parsed and planned: half of what reading one aggregate takes is
that, each time anew inside somebody's request.

psycopg 2 prepares nothing by itself, so PREPARE and EXECUTE are said here. Rules:

- What is prepared belongs to a backend. A pooler (PgBouncer) may give each transaction another one;
  then the driver's idea of its backend is not what the backend says of itself, and nothing is
  prepared.
- A connection that runs a statement a few times is not worth it (as for psycopg 3, "Prepared
  statements").
- After an error (somebody said DEALLOCATE, a migration gave a column another type) the connection
  goes on without.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from sqlalchemy import ClauseElement, Connection, CursorResult, TextClause, bindparam, text
from sqlalchemy.dialects import postgresql

_RUNS_BEFORE = 5
_STATES = "metaledger.prepared"


class _State(Enum):
    """A statement on a connection, once it is worth it."""

    PREPARED = "prepared"
    NEVER = "never"


class Prepared:
    """A statement with named parameters, each of a type; only PostgreSQL keeps it."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement: Any = statement

    @cached_property
    def _forms(self) -> "_Forms":
        compiled: Any = self._statement.compile(dialect=_DIALECT)
        body = str(compiled)
        name = f"metaledger_{hashlib.sha256(body.encode()).hexdigest()[:16]}"
        binds = [compiled.binds[key] for key in compiled.positiontup]
        types = ", ".join(bind.type.compile(dialect=_DIALECT) for bind in binds)
        # A constant's name is none that a text can have.
        keys = [f"constant_{n}" if bind.unique else bind.key for n, bind in enumerate(binds)]
        given = ", ".join(f":{key}" for key in keys)
        return _Forms(
            name=name,
            prepare=f"PREPARE {name} ({types}) AS {body}",
            execute=text(f"EXECUTE {name} ({given})")
            .bindparams(
                *(bindparam(key, type_=it.type) for key, it in zip(keys, binds, strict=True))
            )
            # No cursor can be declared for it.
            .execution_options(stream_results=False),
            constants={
                key: it.effective_value for key, it in zip(keys, binds, strict=True) if it.unique
            },
        )

    def execute(self, connection: Connection, parameters: dict[str, Any]) -> CursorResult[Any]:
        """Runs it. Raises DBAPIError."""
        if not self._is_prepared(connection):
            return connection.execute(self._statement, parameters)
        # An error is whatever the service's own listeners make of it, and behind one of a lost
        # connection there is no `info`.
        states, name = connection.info[_STATES], self._forms.name
        states[name] = _State.NEVER
        result = connection.execute(self._forms.execute, self._forms.constants | parameters)
        states[name] = _State.PREPARED
        return result

    def _is_prepared(self, connection: Connection) -> bool:
        """Whether the connection's backend has it, which it is given where that is worth it."""
        if connection.dialect.driver != "psycopg2":
            return False
        name = self._forms.name
        states: dict[str, _State | int] = connection.info.setdefault(_STATES, {})
        state = states.get(name, 0)
        if isinstance(state, _State):
            return state is _State.PREPARED
        if state < _RUNS_BEFORE:
            states[name] = state + 1
            return False
        # What fails is not tried again.
        states[name] = _State.NEVER
        if _keeps_its_backend(connection):
            connection.exec_driver_sql(
                self._forms.prepare, execution_options={"no_parameters": True}
            )
            states[name] = _State.PREPARED
        return states[name] is _State.PREPARED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forms:
    """The statement as a backend is told it once, and is asked for it then."""

    name: str
    prepare: str
    execute: TextClause
    constants: dict[str, Any]


def _keeps_its_backend(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    told: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return told == int(driver.info.backend_pid)


# The only style that numbers parameters as PREPARE does.
_DIALECT = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

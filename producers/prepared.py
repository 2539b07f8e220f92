"""Statements that PostgreSQL keeps parsed and planned: half of what reading one aggregate takes is
that, each time anew inside somebody's request.

psycopg 2 prepares nothing by itself, so PREPARE and EXECUTE are said here. Rules:

- What is prepared belongs to a backend. A pooler (PgBouncer) may give each transaction another one;
  then the driver's idea of its backend is not what the backend says of itself, and nothing is
  prepared.
- A connection that runs a statement a few times is not worth it (as for psycopg 3, "Prepared
  statements").
- After an error (somebody said DEALLOCATE, a migration gave a column another type) the connection
  goes on without. Whoever ran it in a savepoint can run it once more (`guard`).
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import ClauseElement, Connection, CursorResult, TextClause, bindparam, text
from sqlalchemy.dialects import postgresql

_RUNS_BEFORE = 5
_KEPT = "metaledger.prepared"


@dataclass(slots=True)
class _Kept:
    """What a connection's backend keeps, by its name, and how often the rest ran; once `over`,
    nothing is prepared on the connection, and nothing that was is asked for.
    """

    names: set[str] = field(default_factory=set)
    runs: dict[str, int] = field(default_factory=dict)
    over: bool = False


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
        # connection there is no `info`. What fails one may fail all, and is not tried again.
        kept: _Kept = connection.info[_KEPT]
        kept.over = True
        result = connection.execute(self._forms.execute, self._forms.constants | parameters)
        kept.over = False
        return result

    def _is_prepared(self, connection: Connection) -> bool:
        """Whether the connection's backend has it, which it is given where that is worth it."""
        if connection.dialect.driver != "psycopg2":
            return False
        kept: _Kept = connection.info.setdefault(_KEPT, _Kept())
        name = self._forms.name
        if kept.over or name in kept.names:
            return not kept.over
        runs = kept.runs[name] = kept.runs.get(name, 0) + 1
        if runs <= _RUNS_BEFORE:
            return False
        kept.over = True
        if not _keeps_its_backend(connection):
            return False
        connection.exec_driver_sql(self._forms.prepare, execution_options={"no_parameters": True})
        kept.names.add(name)
        kept.over = False
        return True


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

"""The outbox's rows by COPY, which takes PostgreSQL two thirds of what an INSERT of arrays takes.

For an engine of our own alone, which `copies` has to prepare: SQLAlchemy has no COPY, so it is put
in where the driver would execute the statement. Errors, transactions and logs are as of any other.
"""

import re
from collections.abc import Iterable
from io import StringIO
from typing import Any

from sqlalchemy import Connection, Engine, event

from metaledger.producers.numbering import Numbered
from metaledger.producers.tables import microseconds, outbox

_COPIES = "metaledger_copies"
_ROWS = "metaledger_rows"


def copies(engine: Engine) -> Engine:
    """The engine, with connections on which rows are copied where its driver can."""
    if (engine.dialect.name, engine.dialect.driver) != ("postgresql", "psycopg2"):
        return engine
    if not event.contains(engine, "do_execute", _execute):
        event.listen(engine, "do_execute", _execute)
    return engine.execution_options(**{_COPIES: True})


def can_copy(connection: Connection) -> bool:
    """Whether the connection is of an engine that `copies` prepared."""
    return bool(connection.get_execution_options().get(_COPIES))


def copy(connection: Connection, numbered: Iterable[Numbered]) -> None:
    """Writes the rows into the outbox, in the connection's transaction. Raises DBAPIError."""
    rows = StringIO("".join([_line(it) for it in numbered]))
    connection.exec_driver_sql(_COPY, execution_options={_ROWS: rows})


def _execute(cursor: Any, statement: str, _parameters: object, context: Any) -> bool:  # noqa: ANN401
    """In the driver's place where there are rows to be copied, whose call it then was."""
    rows = context.execution_options.get(_ROWS)
    if rows is None:
        return False
    cursor.copy_expert(statement, rows)
    return True


def _line(numbered: Numbered) -> str:
    """A row in COPY's text form; the columns are those of `_COPY`."""
    record = numbered.record
    number = record.number
    return (
        f"{_text(record.key)}\t{_text(number.stream_id)}\t{number.epoch}\t{number.stream_seq}\t"
        f"{record.event_id}\t{microseconds(numbered.occurred_at)}\t"
        f"\\\\x{record.sha256.hex()}\t\\\\x{record.value.hex()}\n"
    )


def _text(text: str) -> str:
    return text if _SPECIAL.search(text) is None else _SPECIAL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return _ESCAPES[found.group()]


_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_SPECIAL = re.compile(r"[\\\t\n\r]")
_COLUMNS = (
    *("aggregate", "stream_id", "epoch", "stream_seq"),
    *("event_id", "occurred_at", "sha256", "value"),
)
_COPY = f"COPY {outbox.name} ({', '.join(_COLUMNS)}) FROM STDIN"

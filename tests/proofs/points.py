"""The points at which a process can be killed: before and behind each step that leaves it.

The database drivers of the process are made to ask at every statement and every commit, so that
the product runs as it is and knows nothing of it; so is the producer of kafka-python. It cannot be
undone: this is for a process that is going to die.
"""

import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg2
import psycopg2.extensions
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

Ask = Callable[[str], None]

# A savepoint may travel with a statement (`producers/guard.py`), and what a backend keeps may write
# (`producers/prepared.py`).
_WRITES = re.compile(
    r"\s*(SAVEPOINT \w+; )?\s*(INSERT|UPDATE|DELETE|COPY|WITH|EXECUTE)\b", re.IGNORECASE
)


def ask_at_every_step(ask: Ask) -> None:
    """From here on `ask` hears of each step of this process, by its name."""
    _ask_sqlite(ask)
    _ask_postgres(ask)
    _ask_kafka(ask)


def _statement(ask: Ask, run: Callable[..., Any], statement: Any, *args: Any) -> Any:
    words = statement.decode() if isinstance(statement, bytes) else str(statement)
    step = "a write" if _WRITES.match(words) else "another statement"
    ask(f"before {step}")
    result = run(statement, *args)
    ask(f"behind {step}")
    return result


def _commit(ask: Ask, commit: Callable[[], None]) -> None:
    ask("before a commit")
    commit()
    ask("behind a commit")


def _ask_sqlite(ask: Ask) -> None:
    class Cursor(sqlite3.Cursor):
        def execute(self, *args: Any) -> Any:
            return _statement(ask, super().execute, *args)

        def executemany(self, *args: Any) -> Any:
            return _statement(ask, super().executemany, *args)

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> Any:
            return super().cursor(Cursor)

        def commit(self) -> None:
            _commit(ask, super().commit)

    connect = sqlite3.connect

    def asking(*args: Any, **options: Any) -> Any:
        return connect(*args, **{**options, "factory": Connection})

    sqlite3.connect = sqlite3.dbapi2.connect = asking  # type: ignore[assignment]


def _ask_postgres(ask: Ask) -> None:
    class Cursor(psycopg2.extensions.cursor):
        def execute(self, *args: Any) -> Any:
            return _statement(ask, super().execute, *args)

        def executemany(self, *args: Any) -> Any:
            return _statement(ask, super().executemany, *args)

        def copy_expert(self, *args: Any) -> Any:
            return _statement(ask, super().copy_expert, *args)

    class Connection(psycopg2.extensions.connection):
        def commit(self) -> None:
            _commit(ask, super().commit)

    connect = psycopg2.connect

    def asking(*args: Any, **options: Any) -> Any:
        factories = {"cursor_factory": Cursor, "connection_factory": Connection}
        return connect(*args, **{**options, **factories})

    psycopg2.connect = asking


def _ask_kafka(ask: Ask) -> None:
    flush = KafkaProducer.flush

    def asking(self: KafkaProducer, timeout: float | None = None) -> Any:
        ask("before the broker is sent to")
        with suppress(KafkaTimeoutError):
            flush(self, timeout=0)
        ask("with records on their way")
        return flush(self, timeout=timeout)

    KafkaProducer.flush = asking

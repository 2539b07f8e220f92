"""Read models for the tests: on both databases, new for each test, dumped whole for comparison."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Engine, Table, select

from metaledger.projector.database import connect
from metaledger.projector.readmodel import migrate
from metaledger.projector.store import Store
from metaledger.schemas.tables import SHARED, TABLES
from metaledger.schemas.tables.ledger import checkpoints, ledger_events, quarantined_bytes

Dump = dict[str, list[dict[str, Any]]]
Place = Callable[[], str]

BACKENDS = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))


def places(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    """Makes URLs of places where there is no read model yet."""
    made: list[str] = []
    if request.param == "sqlite":

        def file() -> str:
            made.append(f"sqlite:///{folder}/read-{len(made)}.db")
            return made[-1]

        yield file
        return
    server = request.getfixturevalue("postgres")

    def database() -> str:
        made.append(server.create_database())
        return made[-1]

    yield database
    for url in made:
        server.drop_database(url)


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    """An engine that leaves no connection behind."""
    engine = connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def store_of(url: str) -> Iterator[Store]:
    """The store of the read model at `url`, which is made where there is none."""
    with engine_of(url) as engine:
        migrate(engine)
        yield Store(engine)


def rows(engine: Engine, table: Table) -> list[dict[str, Any]]:
    """A table's rows in the order of its keys; the same form from both databases."""
    return list(streamed(engine, table))


def streamed(
    engine: Engine, table: Table, *conditions: ColumnElement[bool]
) -> Iterator[dict[str, Any]]:
    """As `rows`, those for which all conditions hold; few at a time are held.

    A checkpoint's `releases` is left out: operators made it, and not the log.
    """
    on_sqlite = engine.dialect.name == "sqlite"
    where: dict[str | None, str | None] = {SHARED: None} if on_sqlite else {None: "ml_g1"}
    with engine.connect().execution_options(schema_translate_map=where) as connection:
        columns = [column for column in table.columns if column is not checkpoints.c.releases]
        statement = select(*columns).where(*conditions).order_by(*table.primary_key.columns)
        for row in connection.execution_options(yield_per=5_000).execute(statement).mappings():
            yield dict(row)


def dump(url: str) -> Dump:
    """Every row of every table that records make."""
    with engine_of(url) as engine:
        tables = (*TABLES, ledger_events, quarantined_bytes)
        return {table.name: rows(engine, table) for table in tables}


@contextmanager
def kept_open(url: str) -> Iterator[None]:
    """Makes the read model where there is none, and keeps a connection to it.

    SQLite syncs whenever the last one closes.
    """
    with store_of(url), engine_of(url) as engine, engine.connect():
        yield


def empty(url: str) -> None:
    """The read model as it was when it was made."""
    with engine_of(url) as engine, engine.begin() as connection:
        on_sqlite = engine.dialect.name == "sqlite"
        shared, own = ("", "") if on_sqlite else ("metaledger.", "ml_g1.")
        for table in (*TABLES, ledger_events, quarantined_bytes):
            place = shared if table.schema else own
            connection.exec_driver_sql(f"DELETE FROM {place}{table.name}")
        connection.exec_driver_sql(
            f"UPDATE {shared}read_model SET topic_id = NULL, partitions = NULL"
        )

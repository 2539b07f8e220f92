"""What may happen to a service's transaction, told as stories that run with our events or without.

A story does what a service does, on a shop's own engine, and returns what the service saw: its
errors, how often it tried, what it then reads. Nothing in it knows whether events are recorded.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from oslo_db.api import wrap_db_retry
from oslo_db.sqlalchemy import enginefacade
from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    MetaData,
    QueuePool,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from ..servers.process import wait_until
from .kit import DATABASES, MARIADB, POSTGRESQL, SQLITE, Service, changes, draft

Story = Callable[["Shop"], list[str]]
WARMING = "warming"
# From then on a connection's statements are prepared where they can be, and numbers are known.
_WARM = 8
# What warms a connection up is no image of a story.
IMAGES = ("a", "b", "c", WARMING)

stock = Table(
    "stock",
    MetaData(),
    Column("image", String(64), primary_key=True),
    Column("value", String(64), nullable=False),
)


@dataclass
class Shop:
    """The service of a story. `changes` has what it committed, in a table of its own."""

    service: Service
    emits: bool

    @property
    def url(self) -> URL:
        return self.service.engine.url

    def engine(self, *first: str, **options: object) -> Engine:
        """One whose pool hands out the same few connections again, which have run for a while.

        `first` are statements that each connection begins with.
        """
        pool = {"poolclass": QueuePool, "pool_size": 4, "max_overflow": 0, "pool_timeout": 5}
        made = self.service.listened(create_engine(self.url, **pool, **options))

        @event.listens_for(made, "connect")
        def _on_connect(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            for statement in first:
                cursor.execute(statement)
            cursor.close()

        self.warm(made)
        return made

    def warm(self, engine: Engine) -> None:
        """A story has two connections at most."""
        with engine.connect() as one, engine.connect() as other:
            for connection in (one, other):
                for number in range(1, _WARM + 1):
                    with connection.begin():
                        self.change(connection, WARMING, str(number))

    def change(self, target: Connection | Session, image: str, value: str) -> None:
        target.execute(update(stock).where(stock.c.image == image).values(value=value))
        target.execute(insert(changes), {"image": image, "value": value})
        self.emit(target, image, value)

    def emit(self, target: Connection | Session, image: str, value: str) -> None:
        if self.emits:
            self.service.emitter.emit(target, [draft(image, value)])

    def change_wrongly(self, target: Connection) -> None:
        """Breaks a constraint."""
        target.execute(insert(stock), {"image": "a", "value": "again"})

    def read(self, target: Connection) -> None:
        target.execute(select(stock)).all()

    def prepare(self) -> None:
        """The shop as it is at first, whatever happened in it before."""
        stock.metadata.create_all(self.service.engine)
        with self.service.engine.begin() as connection:
            connection.execute(changes.delete())
            connection.execute(stock.delete())
            connection.execute(insert(stock), [{"image": it, "value": "0"} for it in IMAGES])

    def values(self) -> list[str]:
        with self.service.engine.connect() as connection:
            query = select(stock.c.value).order_by(stock.c.image)
            return list(connection.scalars(query))


def seen(error: BaseException) -> str:
    """What a service tells errors apart by."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return f"{type(error).__name__}: connection lost"
    driver = getattr(error, "orig", error)
    code = getattr(driver, "pgcode", None) or getattr(driver, "sqlite_errorname", None)
    return f"{type(error).__name__}: {code or driver.args[0]}"


@contextmanager
def noting(notes: list[str]) -> Iterator[None]:
    """Notes the database's error, or that all went well."""
    try:
        yield
    except DBAPIError as error:
        notes.append(seen(error))
    else:
        notes.append("committed")


def together(*runs: Callable[[], None]) -> None:
    threads = [threading.Thread(target=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def deadlock(shop: Shop) -> list[str]:
    """Two lock the same rows crosswise; the database ends one of them."""
    engine, met, notes = shop.engine(), threading.Barrier(2), list[str]()

    def run(first: str, second: str) -> None:
        with noting(notes), engine.begin() as connection:
            shop.change(connection, first, "1")
            met.wait()
            shop.change(connection, second, "1")

    together(lambda: run("a", "b"), lambda: run("b", "a"))
    return sorted(notes)


def deadlock_beside(shop: Shop) -> list[str]:
    """Each has changed one image, and they meet crosswise at what tells nothing; the loser tries
    again once the other is through: PostgreSQL gives a row that an abort has freed to whoever asks
    first, not to who waits.
    """
    engine, met, notes = shop.engine(), threading.Barrier(2), list[str]()
    through = threading.Event()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS shelves"))
        connection.execute(text("CREATE TABLE shelves (id int PRIMARY KEY)"))
        connection.execute(text("INSERT INTO shelves VALUES (1), (2)"))

    def run(image: str, first: int, second: int) -> None:
        for is_first in (True, False):
            has_both = False
            with noting(notes), engine.begin() as connection:
                shop.change(connection, image, "1")
                lock_shelf(connection, first)
                if is_first:
                    met.wait()
                lock_shelf(connection, second)
                has_both = True
            if has_both:
                through.set()
                return
            assert through.wait(60)

    def lock_shelf(connection: Connection, number: int) -> None:
        connection.execute(text("SELECT id FROM shelves WHERE id = :id FOR UPDATE"), {"id": number})

    together(lambda: run("a", 1, 2), lambda: run("b", 2, 1))
    return sorted(notes)


def retried_deadlock(shop: Shop) -> list[str]:
    """The same through oslo.db, which runs the loser again."""
    facade = enginefacade.transaction_context()
    facade.configure(connection=shop.url.render_as_string(hide_password=False))
    shop.warm(shop.service.listened(facade.writer.get_engine()))
    met, attempts = threading.Barrier(2), list[str]()

    @wrap_db_retry(max_retries=5, retry_interval=0.5, retry_on_deadlock=True)
    def run(first: str, second: str) -> None:
        attempts.append(first)
        is_first = attempts.count(first) == 1
        with facade.writer.using(Context()) as session:
            shop.change(session, first, "1")
            if is_first:
                met.wait()
            shop.change(session, second, "1")

    together(lambda: run("a", "b"), lambda: run("b", "a"))
    return [f"{len(attempts)} attempts"]


@enginefacade.transaction_context_provider
class Context:
    """A request's."""


def serialisation_failure(shop: Shop) -> list[str]:
    """What it is about to change was changed since it began to read; then it tries again."""
    notes = list[str]()
    engine = snapshot_engine(shop)

    def attempt(value: str, *, overtaken: bool) -> None:
        with noting(notes), engine.connect() as connection:
            begin_to_read(shop, connection)
            if overtaken:
                with engine.begin() as other:
                    shop.change(other, "a", "theirs")
            shop.change(connection, "b", value)
            shop.change(connection, "a", value)
            connection.commit()

    attempt("1", overtaken=True)
    attempt("2", overtaken=False)
    return notes


def overtaken(shop: Shop) -> list[str]:
    """The same of one image alone."""
    notes = list[str]()
    engine = snapshot_engine(shop)
    for value in ("1", "2"):
        with noting(notes), engine.connect() as connection:
            begin_to_read(shop, connection)
            if value == "1":
                with engine.begin() as other:
                    shop.change(other, "a", "theirs")
            shop.change(connection, "a", value)
            connection.commit()
    return notes


def write_skew(shop: Shop) -> list[str]:
    """Each has read what the other changes: not even the commit need succeed."""
    notes, engine = list[str](), shop.engine(isolation_level="SERIALIZABLE")
    with noting(notes), engine.connect() as slow:
        shop.read(slow)
        with noting(notes), engine.begin() as fast:
            shop.read(fast)
            shop.change(fast, "a", "1")
        shop.change(slow, "b", "1")
        slow.commit()
    with noting(notes), engine.begin() as again:
        shop.change(again, "b", "2")
    return notes


def crossed_reads(shop: Shop) -> list[str]:
    """Both have read what both change, where who reads keeps others from writing; the database ends
    one of them.
    """
    engine = shop.engine(isolation_level="SERIALIZABLE")
    met, notes = threading.Barrier(2, timeout=60), list[str]()

    def run() -> None:
        with noting(notes), engine.connect() as connection:
            begin_to_read(shop, connection)
            met.wait()
            shop.change(connection, "a", "1")
            connection.commit()

    together(run, run)
    return sorted(notes)


def retried_busy(shop: Shop) -> list[str]:
    """Another one is writing and it may not wait; oslo.db runs it again where the service says."""
    notes, engine = list[str](), shop.engine("PRAGMA busy_timeout=0")
    with shop.service.new_engine().connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")

        def is_busy(error: Exception) -> bool:
            notes.append(seen(error))
            other.rollback()
            return len(notes) == 1

        @wrap_db_retry(max_retries=5, retry_interval=0.01, exception_checker=is_busy)
        def run() -> None:
            with engine.begin() as connection:
                shop.change(connection, "a", "1")
                shop.change(connection, "b", "1")

        run()
    return notes


def busy_commit(shop: Shop) -> list[str]:
    """Another one still reads when it commits; the next transaction finds nobody."""
    notes, engine = list[str](), shop.engine("PRAGMA busy_timeout=0")
    for value in ("1", "2"):
        with shop.service.new_engine().connect() as other, noting(notes), engine.begin() as it:
            if value == "1":
                begin_to_read(shop, other)
            shop.change(it, "a", value)
    return notes


def snapshot_engine(shop: Shop) -> Engine:
    """An engine whose transactions see one state of the database, or fail."""
    match shop.service.engine.dialect.name:
        case "postgresql":
            return shop.engine(isolation_level="REPEATABLE READ")
        case "sqlite":
            return shop.engine("PRAGMA journal_mode=WAL")
        case _:
            return shop.engine("SET innodb_snapshot_isolation = ON")


def begin_to_read(shop: Shop, connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        # Its driver begins no transaction to read.
        connection.exec_driver_sql("BEGIN")
    shop.read(connection)


def savepoints(shop: Shop) -> list[str]:
    """One rolled back, one kept, one that an error of the service's own ends."""
    notes = list[str]()
    with noting(notes), shop.engine().begin() as connection:
        shop.change(connection, "a", "1")
        undone = connection.begin_nested()
        shop.change(connection, "b", "1")
        undone.rollback()
        with connection.begin_nested():
            shop.change(connection, "c", "1")
        try:
            with connection.begin_nested():
                shop.change(connection, "b", "2")
                shop.change_wrongly(connection)
        except IntegrityError as error:
            notes.append(type(error).__name__)
        shop.change(connection, "a", "2")
    return notes


def failed_commit(shop: Shop) -> list[str]:
    """A constraint that the database checks at the commit; the next transaction is a good one."""
    notes, is_sqlite = list[str](), shop.service.engine.dialect.name == "sqlite"
    engine = shop.engine(*["PRAGMA foreign_keys=ON"] * is_sqlite)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS late"))
        connection.execute(
            text(
                "CREATE TABLE late (id int PRIMARY KEY,"
                " other int REFERENCES late (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        )
    for other in (2, 1):
        with noting(notes), engine.begin() as connection:
            shop.change(connection, "a", str(other))
            connection.execute(text("INSERT INTO late VALUES (1, :other)"), {"other": other})
    return notes


def lost_connection(shop: Shop) -> list[str]:
    """The server ends it in the middle; the pool's next one is a new one."""
    notes, engine = list[str](), shop.engine()
    with noting(notes), engine.begin() as connection:
        shop.change(connection, "a", "1")
        end(shop, connection)
        shop.change(connection, "b", "1")
    with noting(notes), engine.begin() as connection:
        shop.change(connection, "b", "2")
    return notes


def lost_before_the_commit(shop: Shop) -> list[str]:
    """It is gone when the service commits: before an event could be written."""
    return _lost_at_the_commit(shop, is_first=True)


def lost_with_the_commit(shop: Shop) -> list[str]:
    """It is gone when the database is to commit: behind the event's writing."""
    return _lost_at_the_commit(shop, is_first=False)


def _lost_at_the_commit(shop: Shop, *, is_first: bool) -> list[str]:
    notes, engine, lost = list[str](), shop.engine(), threading.Event()

    def lose(connection: Connection) -> None:
        if not lost.is_set():
            lost.set()
            end(shop, connection)

    with noting(notes), engine.begin() as connection:
        shop.change(connection, "a", "1")
        event.listen(engine, "commit", lose, insert=is_first)
    with noting(notes), engine.begin() as connection:
        shop.change(connection, "a", "2")
    return notes


def end(shop: Shop, connection: Connection) -> None:
    """Ends the connection from outside; returns when the server has."""
    ask, kill, lives = {
        "postgresql": (
            "SELECT pg_backend_pid()",
            "SELECT pg_terminate_backend(:id)",
            "SELECT count(*) FROM pg_stat_activity WHERE pid = :id",
        ),
        "mysql": (
            "SELECT connection_id()",
            "KILL :id",
            "SELECT count(*) FROM information_schema.processlist WHERE id = :id",
        ),
    }[connection.dialect.name]
    which = {"id": connection.scalar(text(ask))}
    with shop.service.engine.connect() as other:
        killer = other.execution_options(isolation_level="AUTOCOMMIT")
        killer.execute(text(kill), which)
        assert wait_until(
            lambda: killer.scalar(text(lives), which) == 0, alive=lambda: True, timeout_s=30
        )


def still_open(service: Service) -> int:
    """How many transactions are open in the service's database, by what the database says."""
    engine = service.new_engine(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA busy_timeout=0")
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            connection.exec_driver_sql("ROLLBACK")
            return 0
        return int(connection.scalar(text(_OPEN[engine.dialect.name])) or 0)


_OPEN = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL"
    " AND backend_type = 'client backend' AND datname = current_database()"
    " AND pid <> pg_backend_pid()",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx"
    " JOIN information_schema.processlist ON id = trx_mysql_thread_id"
    " WHERE db = DATABASE() AND id <> connection_id()",
}


_ON: dict[Story, Sequence[ParameterSet]] = {
    # SQLite has one writer, and no rows are locked: its deadlock is that of `crossed_reads`.
    deadlock: (POSTGRESQL, MARIADB),
    deadlock_beside: (POSTGRESQL, MARIADB),
    retried_deadlock: (POSTGRESQL, MARIADB),
    # Only SQLite's writers find it busy; the others wait for a row.
    retried_busy: (SQLITE,),
    busy_commit: (SQLITE,),
    serialisation_failure: DATABASES,
    overtaken: DATABASES,
    # Under PostgreSQL's snapshots nobody who reads is in the way; elsewhere they are.
    write_skew: (POSTGRESQL,),
    crossed_reads: (SQLITE, MARIADB),
    savepoints: DATABASES,
    # MariaDB checks nothing at the commit: there a commit fails by `lost_with_the_commit` alone.
    failed_commit: (SQLITE, POSTGRESQL),
    # No server of SQLite's ends a connection.
    lost_connection: (POSTGRESQL, MARIADB),
    lost_before_the_commit: (POSTGRESQL, MARIADB),
    lost_with_the_commit: (POSTGRESQL, MARIADB),
}
EVERY_STORY = pytest.mark.parametrize(
    ("story", "service"),
    [
        pytest.param(story, *database.values, marks=database.marks)
        for story, databases in _ON.items()
        for database in databases
    ],
    indirect=["service"],
)

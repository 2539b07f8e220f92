"""Inside the service's transaction: what goes up, what is undone, and what the pool gets back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import (
    Engine,
    QueuePool,
    bindparam,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from metaledger.producers import administration
from metaledger.producers.guard import ended_transaction
from metaledger.schemas.errors import OutboxFull, Unrecorded
from metaledger.schemas.meta import Origin

from ..servers.process import wait_until
from .kit import MARIADB, POSTGRESQL, SQLITE, Service, changes, draft, numbers, on, told
from .stories import Shop, failed_commit, lost_with_the_commit, noting, seen, still_open, together
from .test_outbox import statements


class Deadlock(Exception):
    """What a service makes of the driver's error, as oslo.db does."""


class Own(Exception):
    """What a hook's own code may raise."""


class Cold(Shop):
    """Its first event is that of its story."""

    def warm(self, engine: Engine) -> None: ...


DEADLOCKS = {"postgresql": "OperationalError: 40P01", "mysql": "OperationalError: 1213"}
PATIENCE_S = 30
PATIENCE = {
    "postgresql": "SET LOCAL lock_timeout = '500ms'",
    "mysql": "SET SESSION innodb_lock_wait_timeout = 1",
}
WAITING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mysql": "SELECT CAST(variable_value AS int) FROM information_schema.global_status"
    " WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'",
}


def test_without_the_tables_the_change_goes_through(service: Service) -> None:
    service.drop_tables()
    service.commit_change("a", "1")
    assert service.values() == [("a", "1")]
    assert service.outbox.failures == 1


def test_what_could_not_even_be_marked_is_told_with_the_next_event(service: Service) -> None:
    service.drop_tables()
    service.commit_change("a", "1")
    service.commit_change("b", "1")
    service.install()
    # `c` is recorded, says how much was missed, and has the others stand in status.
    service.commit_change("c", "1")
    (event_,) = service.waiting()
    assert event_.meta.missed == 2
    assert {it.aggregate for it in service.status().unrecorded} == {"image:a", "image:b"}
    with service.engine.begin() as connection:
        assert service.outbox.lock(connection, ["image:a"])["image:a"].unrecorded
        service.outbox.record(connection, [draft("a", origin=Origin.RECONCILED)])
    assert {it.aggregate for it in service.status().unrecorded} == {"image:b"}
    service.commit_change("c", "2")
    assert service.waiting()[-1].meta.missed == 0


def test_the_memory_asks_for_mending_before_the_database_knows(service: Service) -> None:
    service.drop_tables()
    service.commit_change("a", "1")
    service.install()
    with service.engine.begin() as connection:
        counters = service.outbox.lock(connection, ["image:a", "image:b"])
    assert counters["image:a"].unrecorded
    assert not counters["image:b"].unrecorded


def test_what_a_failed_writing_undid_is_told_with_the_event_after(service: Service) -> None:
    service.drop_tables()
    service.commit_change("a", "1")
    service.install()
    with (
        service.engine.begin() as connection,
        service.outbox.shield_commit(connection, ["image:b"]),
    ):
        service.outbox.record(connection, [draft("b")])
        raise Own
    service.commit_change("c", "1")
    assert service.waiting()[-1].meta.missed == 2
    assert {it.aggregate for it in service.status().unrecorded} == {"image:a", "image:b"}


def test_what_a_rollback_undid_is_told_with_the_event_after(service: Service) -> None:
    service.drop_tables()
    service.commit_change("a", "1")
    service.install()
    with service.engine.connect() as connection:
        service.outbox.record(connection, [draft("b")])
        connection.rollback()
    service.commit_change("c", "1")
    assert service.waiting()[-1].meta.missed == 1
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]


def test_what_a_transaction_that_ended_in_the_hook_undid_is_told_with_the_event_after(
    service: Service,
) -> None:
    service.drop_tables()
    service.commit_change("a", "1")
    service.install()

    def end(_c: object, _cursor: object, words: str, *_rest: object) -> None:
        if "INSERT INTO metaledger_outbox" in words:
            raise _deadlock(service)

    event.listen(service.engine, "before_cursor_execute", end)
    with pytest.raises(Exception, match="1213"):
        service.commit_change("b", "1")
    event.remove(service.engine, "before_cursor_execute", end)
    service.commit_change("c", "1")
    assert service.waiting()[-1].meta.missed == 1
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]


def test_what_a_failed_commit_undid_is_told_with_the_event_after(service: Service) -> None:
    service.drop_tables()
    service.commit_change("a", "1")
    service.install()
    fail = lost_with_the_commit if service.engine.dialect.name == "mysql" else failed_commit
    shop = Cold(service, emits=True)
    shop.prepare()
    notes = fail(shop)
    assert notes[0] != "committed" == notes[1]
    assert service.waiting()[-1].meta.missed == 1


def test_strict_fails_the_change(service: Service) -> None:
    strict = service.with_settings(strict=True)
    service.drop_tables()
    with pytest.raises(Unrecorded):
        strict.commit_change("a", "1")
    assert service.values() == []


@pytest.mark.parametrize("use", ["session", "connection"])
def test_strict_leaves_no_open_transaction_in_the_pool(service: Service, use: str) -> None:
    strict = service.with_settings(strict=True)
    strict.engine = strict.new_engine(poolclass=QueuePool, pool_size=1, max_overflow=0)
    service.drop_tables()

    def in_a_session(image: str, value: str) -> None:
        with Session(strict.engine) as session:
            session.execute(insert(changes), {"image": image, "value": value})
            strict.emitter.emit(session, [draft(image)])
            session.commit()

    change = in_a_session if use == "session" else strict.commit_change
    with pytest.raises(Unrecorded):
        change("refused", "1")
    # The pool's next user gets the same DBAPI connection, and commits.
    with strict.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "next", "value": "1"})
    assert service.values() == [("next", "1")]


def test_strict_in_the_middle_dooms_the_commit_even_of_who_swallows_it(
    service: Service,
) -> None:
    strict = service.with_settings(strict=True)

    def swallow_and_commit() -> None:
        with strict.engine.begin() as connection:
            connection.execute(insert(changes), {"image": "a", "value": "1"})
            with pytest.raises(Unrecorded), strict.outbox.shield(connection, ["image:a"]):
                raise Own

    with pytest.raises(Unrecorded):
        swallow_and_commit()
    assert service.values() == []
    strict.commit_change("a", "2")
    assert told(service.waiting()) == [("a", "2")]


def test_what_a_hook_raises_is_undone_and_its_aggregate_marked(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, ["image:a"]):
            service.outbox.record(connection, [draft("a")])
            raise Own
    assert service.values() == [("a", "1")]
    assert service.waiting() == []
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]
    service.commit_change("b", "1")
    assert service.waiting()[0].meta.missed == 1


def test_an_error_in_the_middle_spares_what_the_service_wrote_before(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, ["image:a"]):
            connection.exec_driver_sql("SELECT * FROM nowhere")
        connection.execute(insert(changes), {"image": "a", "value": "2"})
    assert service.values() == [("a", "1"), ("a", "2")]


def test_a_transaction_of_one_event_alone_is_rolled_back_whole(service: Service) -> None:
    """On SQLite a SAVEPOINT outside a transaction would commit with its RELEASE."""
    with service.engine.connect() as connection:
        with service.outbox.shield(connection, ["image:a"]):
            service.outbox.record(connection, [draft("a")])
        connection.rollback()
    assert service.waiting() == []


def translate(context: ExceptionContext) -> None:
    if "eadlock" in str(context.original_exception):
        raise Deadlock


@pytest.mark.parametrize("translated", ["as it is", "as the service translates it"])
@on(POSTGRESQL, MARIADB)
def test_a_deadlock_goes_up_unchanged_and_one_side_goes_through(
    service: Service, translated: str
) -> None:
    """MariaDB would commit what is left of the loser: nothing of what it did before."""
    outcomes: dict[str, str] = {}
    met = threading.Barrier(2)

    def run(name: str, first: str, second: str) -> None:
        try:
            with service.engine.begin() as connection:
                connection.execute(insert(changes), {"image": name, "value": "first"})
                with service.outbox.shield(connection, [first]):
                    service.outbox.lock(connection, [first])
                met.wait()
                with service.outbox.shield(connection, [second]):
                    service.outbox.lock(connection, [second])
                connection.execute(insert(changes), {"image": name, "value": "last"})
            outcomes[name] = "committed"
        except Deadlock:
            outcomes[name] = "translated"
        except DBAPIError as error:
            outcomes[name] = seen(error)

    service.commit_change("a", "0")
    service.commit_change("b", "0")
    if translated != "as it is":
        event.listen(service.engine, "handle_error", translate)
    together(
        lambda: run("one", "image:a", "image:b"),
        lambda: run("two", "image:b", "image:a"),
    )
    raised = DEADLOCKS[service.engine.dialect.name] if translated == "as it is" else "translated"
    assert sorted(outcomes.values()) == sorted([raised, "committed"])
    (winner,) = [name for name, outcome in outcomes.items() if outcome == "committed"]
    assert service.values()[2:] == [(winner, "first"), (winner, "last")]
    assert service.outbox.failures == 0


@on(POSTGRESQL, MARIADB)
def test_a_deadlock_at_the_commit_gives_the_pool_a_clean_connection(service: Service) -> None:
    """The emitter's two transactions lock in sorted order; a service's own rows make the cycle."""
    engine = service.new_engine(poolclass=QueuePool, pool_size=2, max_overflow=0)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE own (id int PRIMARY KEY)"))
        connection.execute(text("INSERT INTO own VALUES (1)"))
    service.commit_change("a", "0")
    notes: list[str] = []
    recorded, holding = threading.Event(), threading.Event()

    def blocked() -> None:
        with noting(notes), engine.begin() as connection:
            connection.execute(text("UPDATE own SET id = id"))
            connection.execute(insert(changes), {"image": "a", "value": "blocked"})
            service.emitter.emit(connection, [draft("a", "blocked")])
            holding.set()
            recorded.wait()

    def blocking() -> None:
        with noting(notes), engine.begin() as connection:
            service.outbox.record(connection, [draft("a", "blocking")])
            connection.execute(insert(changes), {"image": "a", "value": "blocking"})
            recorded.set()
            holding.wait()
            connection.execute(text("UPDATE own SET id = id"))

    together(blocked, blocking)
    assert sorted(notes) == sorted([DEADLOCKS[engine.dialect.name], "committed"])
    assert still_open(service) == 0
    for _ in range(2):
        with engine.begin() as connection:
            connection.execute(insert(changes), {"image": "next", "value": "1"})
    assert told(service.waiting()) == service.values()[:2]


@on(POSTGRESQL, MARIADB)
def test_a_lock_that_nobody_gives_back_is_waited_for_once(service: Service) -> None:
    """Its mark would wait for the same lock as long again, and the service with it."""
    patience = PATIENCE[service.engine.dialect.name]
    impatient = service.new_engine()
    event.listen(impatient, "begin", lambda connection: connection.exec_driver_sql(patience))
    seen_: list[str] = []
    event.listen(impatient, "before_cursor_execute", lambda *args: seen_.append(args[2]))
    with service.engine.begin() as holder:
        service.outbox.lock(holder, ["image:a"])
        with impatient.begin() as connection:
            service.change(connection, "a", "1")
    assert service.values() == [("a", "1")]
    assert service.waiting() == []
    assert len([it for it in seen_ if "INSERT INTO metaledger_counters" in it]) == 1
    service.commit_change("b", "1")
    assert service.waiting()[-1].meta.missed == 1
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]


@on(SQLITE)
def test_a_busy_database_goes_up_unchanged(service: Service) -> None:
    impatient = service.new_engine(connect_args={"timeout": 0})
    with service.engine.begin() as other:
        other.execute(insert(changes), {"image": "other", "value": "1"})
        with (
            pytest.raises(DBAPIError, match="locked") as raised,
            impatient.begin() as connection,
        ):
            service.emitter.emit(connection, [draft("a")])
    assert not isinstance(raised.value, Unrecorded)
    assert service.outbox.failures == 0


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("options", "code"),
    [("timeout=0", "SQLITE_BUSY"), ("cache=shared", "SQLITE_LOCKED_SHAREDCACHE")],
)
@on(SQLITE)
def test_a_database_that_is_busy_behind_the_savepoint_goes_up_unchanged(
    service: Service, options: str, code: str, strict: bool
) -> None:
    """The transaction has begun as one that reads, so that our own statement is what waits."""
    url = f"sqlite:///file:{service.engine.url.database}?uri=true&{options}"
    hooked = service.with_settings(strict=strict)
    engine = hooked.listened(create_engine(url))
    with engine.begin() as other, engine.connect() as connection:
        hooked.outbox.lock(other, ["image:a"])
        connection.exec_driver_sql("BEGIN")
        hooked.emitter.emit(connection, [draft("a")])
        with pytest.raises(DBAPIError) as raised:
            connection.commit()
    assert seen(raised.value) == f"OperationalError: {code}"
    assert hooked.outbox.failures == 0


@on(POSTGRESQL)
def test_a_transaction_that_was_aborted_before_records_nothing_and_raises_nothing(
    service: Service,
) -> None:
    with service.engine.connect() as connection:
        service.change(connection, "a", "1")
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT * FROM nowhere"))
        connection.commit()  # PostgreSQL makes it a rollback
    assert service.values() == []
    assert service.waiting() == []
    assert service.outbox.failures == 0


@on(POSTGRESQL, MARIADB)
def test_two_phases_record_with_the_prepare(service: Service) -> None:
    with service.engine.connect() as connection:
        transaction = connection.begin_twophase()
        service.change(connection, "a", "1")
        transaction.prepare()
        transaction.commit()
    assert told(service.waiting()) == [("a", "1")]


@on(POSTGRESQL, MARIADB)
def test_two_phases_without_a_prepare_record_with_the_commit(service: Service) -> None:
    seen: list[str] = []
    event.listen(service.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    with service.engine.connect() as connection:
        transaction = connection.begin_twophase()
        service.change(connection, "a", "1")
        transaction.commit()
    assert told(service.waiting()) == [("a", "1")]


def test_a_full_outbox_refuses_by_aggregate_and_remembers(service: Service) -> None:
    small = service.with_settings(outbox_rows_max=3)
    for value in "12":
        small.commit_change("a", value)
    with small.engine.begin() as connection:
        # One fits; of `c` two do not, so neither is written: no event without the one before it.
        small.emitter.emit(connection, [draft("c", "1"), draft("b", "1"), draft("c", "2")])
    assert told(service.waiting()) == [("a", "1"), ("a", "2"), ("b", "1")]
    assert service.waiting()[-1].meta.missed == 2
    small.commit_change("a", "3")
    assert small.values()[-1] == ("a", "3")
    assert {it.aggregate for it in service.status().unrecorded} == {"image:a", "image:c"}
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM metaledger_outbox")
    small.commit_change("c", "3")
    (event_,) = service.waiting()
    # No number was given to what was refused: the order has no hole, and says what it lacks since
    # the process's last event.
    assert (event_.meta.stream_seq, event_.meta.missed) == (1, 1)


def test_a_full_outbox_fails_a_strict_change(service: Service) -> None:
    small = service.with_settings(outbox_rows_max=1, strict=True)
    small.commit_change("a", "1")
    with pytest.raises(Unrecorded) as raised:
        small.commit_change("a", "2")
    assert isinstance(raised.value.__cause__, OutboxFull)
    assert service.values() == [("a", "1")]


def test_a_limit_is_overshot_by_a_hundredth_a_process_at_most(service: Service) -> None:
    processes = [service.with_settings(outbox_rows_max=200) for _ in range(3)]
    with service.engine.begin() as connection:
        for turn in range(100):
            for process in processes:
                process.outbox.record(connection, [draft(str(turn))])
    assert 200 <= service.status().rows_waiting <= 200 + 3 * 2


def test_a_full_outbox_takes_events_again_when_it_was_drained(service: Service) -> None:
    small = service.with_settings(outbox_rows_max=100)
    with small.engine.begin() as connection:
        small.outbox.record(connection, [draft("a")] * 100)
        small.outbox.record(connection, [draft("b")])
        connection.exec_driver_sql("DELETE FROM metaledger_outbox")
        service.clock.add(1)
        small.outbox.record(connection, [draft("b")])
    assert told(service.waiting()) == [("b", "x")]


@on(POSTGRESQL, MARIADB)
def test_several_aggregates_are_locked_in_sorted_order(service: Service) -> None:
    """Else this is a deadlock: one has `a` and wants `b`, the other has `b` and wants `a`."""
    service.commit_change("a", "0")
    service.commit_change("b", "0")
    waiting = text(WAITING[service.engine.dialect.name])

    def other() -> None:
        with service.engine.begin() as connection:
            service.emitter.emit(connection, [draft("b", "other"), draft("a", "other")])

    thread = threading.Thread(target=other)
    with (
        service.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watching,
        service.engine.begin() as connection,
    ):
        service.outbox.lock(connection, ["image:a"])
        thread.start()
        assert wait_until(
            lambda: bool(watching.scalar(waiting)), alive=thread.is_alive, timeout_s=60
        )
        service.outbox.lock(connection, ["image:b"])
        service.outbox.record(connection, [draft("a", "one"), draft("b", "one")])
    thread.join()
    assert len(service.waiting()) == 6


@on(POSTGRESQL, MARIADB)
def test_a_reseed_waits_for_who_holds_a_counter_and_ends_nobodys_transaction(
    service: Service,
) -> None:
    service.commit_change("a", "0")
    waiting = text(WAITING[service.engine.dialect.name])
    reseeding = threading.Thread(target=administration.reseed, args=(service.engine,))
    with (
        service.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watching,
        service.engine.begin() as connection,
    ):
        service.outbox.lock(connection, ["image:a"])
        reseeding.start()
        assert wait_until(
            lambda: bool(watching.scalar(waiting)), alive=reseeding.is_alive, timeout_s=60
        )
        service.outbox.record(connection, [draft("a", "one")])
    reseeding.join()
    assert service.status().epoch == 2
    assert told(service.waiting()) == [("a", "0"), ("a", "one")]


def test_an_error_that_the_service_is_handling_is_none_of_this_transaction(
    service: Service,
) -> None:
    """It runs again, or cleans up, where it has caught a deadlock."""
    service.drop_tables()
    with pytest.raises(OperationalError):
        _clean_up_after(service, _deadlock(service))
    assert service.values() == [("a", "1")]
    assert service.outbox.failures == 1


def _clean_up_after(service: Service, deadlock: Exception) -> None:
    try:
        raise OperationalError("", None, deadlock)  # noqa: TRY301 (it is handled right here)
    except OperationalError:
        service.commit_change("a", "1")
        raise


def _deadlock(service: Service) -> Exception:
    """What the database's driver raises."""
    error = Exception(1213)
    error.sqlite_errorname = "SQLITE_BUSY"  # type: ignore[attr-defined]
    error.sqlstate = "40P01"  # type: ignore[attr-defined]
    with service.engine.connect() as connection:
        assert ended_transaction(connection, error)
    return error


@on(SQLITE)
def test_a_hook_waits_for_another_writer_as_the_service_would(service: Service) -> None:
    """SQLite does not wait where a transaction that has read wants to write: it is busy at once."""
    other = service.new_engine().connect()
    other.execute(insert(changes), {"image": "other", "value": "1"})
    waiting = threading.Event()
    failures: list[Exception] = []

    def statement(_c: object, _cursor: object, words: str, *_rest: object) -> None:
        if "IMMEDIATE" in words:
            waiting.set()

    def run() -> None:
        try:
            with service.engine.connect() as connection:
                with service.outbox.shield(connection, ["image:a"]):
                    service.outbox.lock(connection, ["image:a"])
                connection.execute(insert(changes), {"image": "a", "value": "1"})
                connection.commit()
        except DBAPIError as error:
            failures.append(error)
        waiting.set()

    event.listen(service.engine, "before_cursor_execute", statement)
    thread = threading.Thread(target=run)
    thread.start()
    waiting.wait()
    other.commit()
    thread.join()
    assert failures == []
    assert service.values() == [("other", "1"), ("a", "1")]


@on(POSTGRESQL, MARIADB)
def test_two_phases_of_a_doomed_transaction_are_refused(service: Service) -> None:
    strict = service.with_settings(strict=True)
    with strict.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with pytest.raises(Unrecorded), strict.outbox.shield(connection, ["image:a"]):
            raise Own
        with pytest.raises(Unrecorded):
            transaction.commit()
    assert service.values() == []


def test_a_body_that_did_nothing_has_nothing_to_undo(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, ["image:a"]):
            raise Own
    assert service.values() == [("a", "1")]
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]


def test_what_a_body_did_for_many_rows_at_once_is_undone(service: Service) -> None:
    images = ["a", "b", "c"]
    with service.engine.begin() as connection:
        for image in images:
            connection.execute(insert(changes), {"image": image, "value": "1"})
        with service.outbox.shield(connection, []):
            change = update(changes).where(changes.c.image == bindparam("which"))
            connection.execute(change.values(value="2"), [{"which": it} for it in images])
            raise Own
    assert service.values() == [(image, "1") for image in images]


@on(POSTGRESQL)
def test_what_stands_behind_a_server_side_cursor_is_undone(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, []):
            connection.execute(text("SELECT 1"), execution_options={"stream_results": True}).all()
            connection.execute(insert(changes), {"image": "b", "value": "1"})
            raise Own
    assert service.values() == [("a", "1")]


def test_a_savepoint_that_is_left_open_undoes_no_more_than_its_own(service: Service) -> None:
    with service.engine.begin() as connection:
        with service.outbox.shield(connection, []):
            connection.execute(insert(changes), {"image": "a", "value": "1"})
        connection.execute(insert(changes), {"image": "b", "value": "1"})
        with service.outbox.shield(connection, []):
            connection.execute(insert(changes), {"image": "c", "value": "1"})
            raise Own
        with connection.begin_nested() as savepoint:
            connection.execute(insert(changes), {"image": "d", "value": "1"})
            savepoint.rollback()
    assert service.values() == [("a", "1"), ("b", "1")]


@on(POSTGRESQL, MARIADB)
def test_a_savepoint_is_no_round_trip_of_its_own(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        seen = statements(service.engine)
        with service.outbox.shield(connection, []):
            connection.execute(insert(changes), {"image": "b", "value": "1"})
            connection.execute(select(changes.c.value).with_for_update()).all()
            raise Own
    assert [it.split()[0] for it in seen] == ["INSERT", "SELECT", "ROLLBACK", "RELEASE"]
    assert service.values() == [("a", "1")]


def test_a_lock_is_there_behind_the_statement_that_follows_it(service: Service) -> None:
    service.commit_change("a", "1")
    with service.engine.begin() as connection:
        with service.outbox.shield(connection, ["image:a"]):
            answer = service.outbox.locking(connection, "image:a")
            found = connection.execute(select(changes.c.value)).scalars().all()
            locked = answer()
        assert (found, locked["image:a"].seq) == (["1"], 1)
        with service.outbox.shield(connection, ["image:b"]):
            # Nothing was sent between them.
            locked = service.outbox.locking(connection, "image:b")()
        assert locked["image:b"].is_new
        service.outbox.record(connection, [draft("a", "2"), draft("b", "1")])
    assert numbers(service.waiting()) == [("image:a", 1, 1), ("image:a", 1, 2), ("image:b", 1, 1)]


@on(POSTGRESQL, MARIADB)
def test_who_has_to_wait_for_a_lock_waits_before_its_reading(service: Service) -> None:
    """What was read before the wait was changed in it: a before-image of what never was before."""
    service.commit_change("a", "1")
    waiting = text(WAITING[service.engine.dialect.name])
    found: list[tuple[int, list[str]]] = []

    def other() -> None:
        with (
            service.engine.begin() as connection,
            service.outbox.shield(connection, ["image:a"]),
        ):
            answer = service.outbox.locking(connection, "image:a")
            query = select(changes.c.value).order_by(changes.c.id)
            values = list(connection.execute(query).scalars())
            found.append((answer()["image:a"].seq, values))

    thread = threading.Thread(target=other)
    with (
        service.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watching,
        service.engine.begin() as connection,
    ):
        service.outbox.lock(connection, ["image:a"])
        service.change(connection, "a", "2")
        thread.start()
        assert wait_until(
            lambda: bool(watching.scalar(waiting)), alive=thread.is_alive, timeout_s=60
        )
    thread.join()
    assert found == [(2, ["1", "2"])]


@on(MARIADB)
def test_a_lock_is_no_round_trip_of_its_own(service: Service) -> None:
    with service.engine.begin() as connection:
        seen = statements(service.engine)
        with service.outbox.shield(connection, ["image:a"]):
            answer = service.outbox.locking(connection, "image:a")
            connection.execute(select(changes.c.value)).all()
            answer()
    assert [it.split()[0] for it in seen] == ["SELECT"]


@on(MARIADB)
def test_a_lock_that_has_to_wait_too_long_undoes_its_body_alone(service: Service) -> None:
    with service.engine.begin() as holder:
        service.outbox.lock(holder, ["image:a"])
        with service.engine.begin() as connection:
            connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 0")
            connection.execute(insert(changes), {"image": "a", "value": "1"})
            with service.outbox.shield(connection, ["image:a"]):
                service.outbox.locking(connection, "image:a")
                connection.execute(select(changes.c.value)).all()
    assert service.values() == [("a", "1")]
    assert service.outbox.failures == 1


@pytest.mark.parametrize("refused", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
def test_a_statement_that_the_driver_refuses_takes_nothing_along(
    service: Service, refused: str
) -> None:
    """Psycopg2 sends nothing then: no savepoint of this body is there to roll back to."""
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, []):
            connection.execute(text("SELECT :it"), {"it": refused})
            raise Own
        connection.execute(insert(changes), {"image": "b", "value": "1"})
        with service.outbox.shield(connection, []):
            connection.execute(text("SELECT :it"), {"it": refused})
            raise Own
        connection.execute(insert(changes), {"image": "c", "value": "1"})
    assert service.values() == [("a", "1"), ("b", "1"), ("c", "1")]


@on(POSTGRESQL, MARIADB)
def test_a_statement_that_cannot_be_read_undoes_nothing_older(service: Service) -> None:
    with service.engine.begin() as connection:
        for image in ("a", "b"):
            connection.execute(insert(changes), {"image": image, "value": "1"})
            with service.outbox.shield(connection, []):
                connection.execute(text("SELECT 1"))
    with suppress(DBAPIError), service.engine.begin() as connection:
        for image in ("c", "d"):
            connection.execute(insert(changes), {"image": image, "value": "1"})
            with service.outbox.shield(connection, []):
                connection.execute(text("SELECT 1 -- and a comment"))
        connection.execute(insert(changes), {"image": "e", "value": "1"})
        with service.outbox.shield(connection, []):
            connection.execute(text("SELEC 1"))
    # All of a transaction or nothing of it: what could not be undone fails it.
    assert [image for image, _ in service.values()] in (["a", "b"], ["a", "b", "c", "d", "e"])


@on(POSTGRESQL)
def test_a_statement_that_the_driver_is_not_to_look_into_is_undone(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, []):
            connection.execute(
                text("INSERT INTO changes (image, value) VALUES ('b', '100%')"),
                execution_options={"no_parameters": True},
            )
            raise Own
    assert service.values() == [("a", "1")]


@on(POSTGRESQL)
def test_an_error_of_the_body_is_not_taken_for_one_before_it(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, ["image:a"]):
            connection.execute(text("SELECT 1"))
            try:
                connection.execute(text("SELECT * FROM nowhere"))
            except DBAPIError:
                connection.execute(text("SELECT 2"))
    assert service.values() == [("a", "1")]
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]


@pytest.mark.parametrize(
    "name",
    ["image:a\0b", "image:\ud800", "image:" + "x" * 300],
    ids=["NUL", "surrogate", "long"],
)
def test_what_no_table_can_name_is_counted_and_holds_up_nothing(
    service: Service, name: str
) -> None:
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": "a", "value": "1"})
        with service.outbox.shield(connection, [name, "image:b"]):
            service.outbox.lock(connection, [name, "image:b"])
    service.commit_change("a", "2")
    (event_,) = service.waiting()
    assert event_.meta.missed == 2
    assert [it.aggregate for it in service.status().unrecorded] == ["image:b"]


@contextmanager
def standing_elsewhere(
    engine: Engine, listener: str, statement: str = "SELECT 1"
) -> Iterator[list[BaseException]]:
    """Meanwhile a thread that runs the statement and commits stands among the engine's listeners of
    this event; gives what it raised.
    """
    standing, go_on = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    @event.listens_for(engine, listener)
    def wait(*_: object) -> None:
        if threading.current_thread() is other:
            standing.set()
            assert go_on.wait(PATIENCE_S)

    def commit() -> None:
        try:
            with engine.begin() as connection:
                connection.execute(text(statement))
        except BaseException as error:  # noqa: BLE001 (the test's to judge)
            raised.append(error)

    other = threading.Thread(target=commit)
    other.start()
    assert standing.wait(PATIENCE_S)
    yield raised
    go_on.set()
    other.join()


def test_a_first_event_makes_no_other_commit_stumble(service: Service) -> None:
    """SQLAlchemy's listeners of an engine cannot be added to while a thread goes through them."""
    with service.engine.begin() as connection:
        with standing_elsewhere(service.engine, "commit") as raised:
            service.emitter.emit(connection, [draft("a")])
        assert raised == []
    assert told(service.waiting()) == [("a", "x")]


def test_a_first_event_that_says_what_was_missed_makes_no_other_error_stumble(
    service: Service,
) -> None:
    """An error that is not the database's own is none that a service runs its transaction again
    for.
    """
    service.drop_tables()
    service.commit_change("a", "1")
    service.install()
    wrong = "SELECT * FROM nowhere"
    with standing_elsewhere(service.engine, "handle_error", wrong) as raised:
        service.commit_change("b", "1")
    assert [isinstance(it, DBAPIError) for it in raised] == [True]
    assert service.waiting()[-1].meta.missed == 1


@on(POSTGRESQL, MARIADB)
def test_a_first_savepoint_makes_no_other_statement_stumble(service: Service) -> None:
    with service.engine.begin() as connection:
        with (
            standing_elsewhere(service.engine, "do_execute") as raised,
            service.outbox.shield(connection, []),
        ):
            connection.execute(text("SELECT 1"))
        assert raised == []


def test_a_change_that_is_refused_makes_no_other_commit_stumble(service: Service) -> None:
    strict = service.with_settings(strict=True)
    with strict.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with (
            standing_elsewhere(strict.engine, "commit") as raised,
            pytest.raises(Unrecorded),
            strict.outbox.shield(connection, []),
        ):
            raise Own
        assert raised == []
        with pytest.raises(Unrecorded):
            connection.commit()

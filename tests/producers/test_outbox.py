"""The outbox keeps its promises on every database: existence, numbers, order of times, epochs."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, insert, select
from sqlalchemy.orm import Session

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.errors import MalformedRecord, Unreachable, UsageError, VersionMismatch
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.meta import Origin

from .kit import START, Service, changes, draft, numbers, told


def statements(engine: Engine) -> list[str]:
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    return seen


def test_an_event_exists_when_its_change_was_committed(service: Service) -> None:
    service.commit_change("a", "1")
    assert told(service.waiting()) == service.values() == [("a", "1")]


def test_a_session_carries_events_as_a_connection_does(service: Service) -> None:
    with Session(service.engine) as session:
        session.execute(insert(changes), {"image": "a", "value": "1"})
        service.emitter.emit(session, [draft("a", "1")])
        session.commit()
    assert told(service.waiting()) == [("a", "1")]


def test_an_event_can_come_before_the_first_statement(service: Service) -> None:
    with service.engine.connect() as connection:
        service.emitter.emit(connection, [draft("a", "1")])
        connection.commit()
    assert told(service.waiting()) == [("a", "1")]


def test_a_rollback_takes_the_events_with_the_changes(service: Service) -> None:
    with service.engine.connect() as connection:
        service.change(connection, "a", "1")
        connection.rollback()
        service.change(connection, "a", "2")
        connection.commit()
    assert told(service.waiting()) == service.values() == [("a", "2")]
    assert numbers(service.waiting()) == [("image:a", 1, 1)]


def test_a_rollback_to_a_savepoint_takes_what_was_gathered_behind_it(service: Service) -> None:
    with service.engine.begin() as connection:
        service.emitter.emit(connection, [draft("a", "before")])
        outer = connection.begin_nested()
        service.emitter.emit(connection, [draft("a", "outer")])
        inner = connection.begin_nested()
        service.emitter.emit(connection, [draft("a", "inner")])
        inner.commit()
        outer.rollback()
        kept = connection.begin_nested()
        service.emitter.emit(connection, [draft("a", "kept")])
        kept.commit()
    assert [value for _, value in told(service.waiting())] == ["before", "kept"]


def test_a_rollback_to_an_outer_savepoint_takes_an_inner_one_that_is_open(
    service: Service,
) -> None:
    with Session(service.engine) as session:
        outer = session.begin_nested()
        session.begin_nested()
        service.emitter.emit(session, [draft("a", "inner")])
        outer.rollback()
        service.emitter.emit(session, [draft("a", "kept")])
        session.commit()
    assert [value for _, value in told(service.waiting())] == ["kept"]


def test_numbers_count_from_1_in_each_aggregate(service: Service) -> None:
    for image in ("a", "b", "a", "A"):
        service.commit_change(image, "x")
    with service.engine.begin() as connection:
        service.emitter.emit(connection, [draft("b"), draft("a"), draft("b")])
    assert sorted(numbers(service.waiting())) == [
        ("image:A", 1, 1),
        ("image:a", 1, 1),
        ("image:a", 1, 2),
        ("image:a", 1, 3),
        ("image:b", 1, 1),
        ("image:b", 1, 2),
        ("image:b", 1, 3),
    ]


def test_a_database_whose_inserts_return_nothing_counts_as_well(service: Service) -> None:
    """MySQL, and SQLite before 3.35: what they lack is taken from the dialect here."""
    service.engine.connect().close()
    service.engine.dialect.insert_executemany_returning = False
    with service.engine.begin() as connection:
        service.emitter.emit(connection, [draft("b"), draft("a")])
    service.commit_change("b", "x")
    assert sorted(numbers(service.waiting())) == [
        ("image:a", 1, 1),
        ("image:b", 1, 1),
        ("image:b", 1, 2),
    ]


def test_names_that_are_nearly_alike_are_counted_apart(service: Service) -> None:
    """A collation may take a letter for its capital, and leave out spaces at the end."""
    names = ["a", "A", "a ", "a  ", " a", "ä", "a\u0308", "ss", "ß", "🖼", "🖻", "a\u200b"]
    with service.engine.begin() as connection:
        service.emitter.emit(connection, [draft(name) for name in names])
    for name in names:
        service.commit_change(name, "x")
    expected = [(f"image:{name}", 1, number) for name in names for number in (1, 2)]
    assert sorted(numbers(service.waiting())) == sorted(expected)


def test_the_order_given_is_the_order_of_the_numbers(service: Service) -> None:
    with service.engine.begin() as connection:
        service.emitter.emit(connection, [draft("a", "1"), draft("a", "2")])
        service.emitter.emit(connection, [draft("a", "3")])
    assert [value for _, value in told(service.waiting())] == ["1", "2", "3"]


def test_writers_at_once_leave_no_holes_and_lose_nothing(service: Service) -> None:
    def write(worker: int) -> None:
        for turn in range(25):
            with service.engine.connect() as connection:
                service.change(connection, f"{turn % 3}", f"{worker}/{turn}")
                if turn % 10 == worker:
                    connection.rollback()
                else:
                    connection.commit()

    workers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    events = service.waiting()
    assert sorted(told(events)) == sorted(service.values())
    expected: dict[str, int] = {}
    for aggregate, _, seq in numbers(events):
        expected[aggregate] = expected.get(aggregate, 0) + 1
        assert seq == expected[aggregate]
    # The time is taken under the lock: within an aggregate it grows with the number.
    assert [it.meta.occurred_at for it in events if it.meta.aggregate == "image:0"] == sorted(
        it.meta.occurred_at for it in events if it.meta.aggregate == "image:0"
    )


def test_what_a_draft_gave_itself_stands(service: Service) -> None:
    number = StreamNumber(stream_id="elsewhere", epoch=3, stream_seq=9)
    event_id = "0192f0c1-2345-7000-8000-000000000000"
    given = replace(draft("a"), number=number, event_id=event_id, occurred_at=START)
    with service.engine.begin() as connection:
        service.emitter.emit(connection, [given, draft("a")])
    own, foreign = service.waiting()
    assert (foreign.meta.stream_id, foreign.meta.epoch, foreign.meta.stream_seq) == (
        "elsewhere",
        3,
        9,
    )
    assert (foreign.meta.event_id, foreign.meta.occurred_at) == (event_id, START)
    assert (own.meta.epoch, own.meta.stream_seq) == (1, 1)


def test_a_counter_tells_the_first_touch_from_the_next(service: Service) -> None:
    with service.engine.begin() as connection:
        assert service.outbox.lock(connection, ["image:a"])["image:a"].is_new
    with service.engine.begin() as connection:
        # Locked before, but nothing was recorded.
        counters = service.outbox.lock(connection, ["image:a", "image:b"])
        assert counters["image:a"].is_new
        assert counters["image:b"].is_new
        service.outbox.record(connection, [draft("a"), draft("a")])
    with service.engine.begin() as connection:
        counter = service.outbox.lock(connection, ["image:a"])["image:a"]
    assert (counter.seq, counter.is_new, counter.unrecorded) == (2, False, False)


def test_a_lock_tells_what_others_did_since_the_transaction_began(service: Service) -> None:
    """Under MariaDB's repeatable read a plain read of the counter would not."""
    with service.engine.connect() as connection:
        connection.execute(select(changes)).all()
        service.commit_change("a", "1")
        counter = service.outbox.lock(connection, ["image:a"])["image:a"]
        assert (counter.seq, counter.is_new) == (1, False)
        service.outbox.record(connection, [draft("a", "2")])
        connection.commit()
    assert numbers(service.waiting()) == [("image:a", 1, 1), ("image:a", 1, 2)]


def test_a_file_of_drafts_costs_few_statements(service: Service) -> None:
    seen = statements(service.engine)
    with service.engine.begin() as connection:
        records = service.outbox.number(connection, [draft(str(n % 500)) for n in range(1_000)])
    assert len(records) == 1_000
    assert records[-1].number.stream_seq == 2
    # The stream, the counters, and on some databases reading them.
    assert len(seen) <= 5


def test_a_draft_that_cannot_be_recorded_is_refused_at_once(service: Service) -> None:
    with service.engine.begin() as connection:
        for bad in ("\0", "\ud800"):
            with pytest.raises(MalformedRecord):
                service.emitter.emit(connection, [draft("a", bad)])
        with pytest.raises(UsageError, match="characters"):
            service.emitter.emit(connection, [draft("a" * 300)])
    assert service.waiting() == []


def test_without_a_transaction_there_is_no_event(service: Service) -> None:
    engine = service.new_engine(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(UsageError, match="autocommit"):
        service.emitter.emit(connection, [draft("a")])
    with service.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(UsageError, match="autocommit"):
            service.emitter.emit(connection, [draft("a")])


def test_installing_again_changes_nothing(service: Service) -> None:
    before = service.status().stream_id
    service.commit_change("a", "1")
    assert administration.install(service.engine) == before
    assert len(service.waiting()) == 1
    with pytest.raises(UsageError, match=before):
        administration.install(service.engine, stream_id="other")


def test_tables_of_another_format_are_not_written(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE metaledger_stream SET format_version = 99")
    with service.engine.begin() as connection, pytest.raises(VersionMismatch, match="99"):
        service.outbox.record(connection, [draft("a")])


def test_a_reseed_counts_anew_and_asks_for_mending(service: Service) -> None:
    service.commit_change("a", "1")
    service.commit_change("a", "2")
    assert administration.reseed(service.engine) == 2
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]
    with service.engine.begin() as connection:
        counters = service.outbox.lock(connection, ["image:a", "image:b"])
        assert counters["image:a"].unrecorded
        assert not counters["image:a"].is_new
        assert not counters["image:b"].unrecorded
    service.commit_change("a", "3")
    service.commit_change("b", "1")
    assert numbers(service.waiting()) == [
        ("image:a", 1, 1),
        ("image:a", 1, 2),
        ("image:a", 2, 1),
        ("image:b", 2, 1),
    ]
    # An observed event mends nothing, one that tells all does.
    assert [it.aggregate for it in service.status().unrecorded] == ["image:a"]
    with service.engine.begin() as connection:
        service.emitter.emit(connection, [draft("a", origin=Origin.RECONCILED)])
    assert service.status().unrecorded_aggregates == 0


def test_a_spool_is_reseeded_without_asking_for_mending(tmp_path: Path) -> None:
    """It holds no state that an event could tell anew."""
    settings = ProducerSettings(service="test", host="here")
    spool = Spool(tmp_path / "spool.db", settings)
    spool.emit([draft("a")])
    with spool.writing() as connection:
        spool.outbox.mark_unrecorded(connection, ["image:a"])
    assert administration.reseed(spool.engine) == 2
    assert administration.status(spool.engine).unrecorded_aggregates == 0


def test_a_reseed_goes_above_the_epoch_that_is_known(service: Service) -> None:
    assert administration.reseed(service.engine, above=7) == 8
    assert service.status().epoch == 8


@pytest.mark.parametrize("url", ["postgresql://u:p@ss:secret@h/db", "nothing", "nosuch://h/db"])
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_database(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://u:secret@127.0.0.1:1/db?password=secret&sslpassword=secret",
        "mysql+pymysql://u:secret@127.0.0.1:1/db?password=secret",
    ],
)
def test_what_cannot_be_reached_is_named_without_its_secrets(url: str) -> None:
    engine = open_database(url)
    with pytest.raises(Unreachable) as raised:
        administration.status(engine)
    assert "secret" not in str(raised.value)
    assert "127.0.0.1:1/db" in str(raised.value)


def test_its_status_waits_for_no_transaction_of_the_service(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaledger.producers.database._BUSY_TIMEOUT_S", 0)
    engine = open_database(service.engine.url)
    service.engines.append(engine)
    with service.engine.begin() as connection:
        service.change(connection, "a", "1")
        assert administration.status(engine).rows_waiting == 0

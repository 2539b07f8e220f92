"""The relay loses nothing and inverts nothing, whatever ends it and whoever else is at work."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import event, select
from structlog.testing import capture_logs

from metaledger.producers import administration
from metaledger.producers.lease import LeaseLost
from metaledger.producers.relay import Relay
from metaledger.producers.tables import outbox, sent
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.ledger import SourceProgressed
from metaledger.schemas.log.embedded import EmbeddedLog
from metaledger.schemas.log.kafka import KafkaSettings

from .kit import (
    CODEC,
    FailingLog,
    Halted,
    Service,
    assert_runs_without_holes,
    draft,
    first_times,
    halt,
    halting_before,
    logged_events,
    new_relay,
    numbers,
    told,
)

on_postgresql = pytest.mark.parametrize(
    "service", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


@contextmanager
def running(relay: Relay) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


def fill(service: Service) -> list[tuple[str, str]]:
    for value in ("1", "2", "3"):
        for image in ("a", "b"):
            service.commit_change(image, value)
    return service.values()


def test_what_was_committed_arrives_in_order_and_is_deleted(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    values = fill(service)
    waiting = service.waiting()
    done = new_relay(service, writer).drain()
    assert sorted(told(logged_events(log))) == sorted(values)
    assert done.idle
    assert service.status().rows_waiting == 0
    assert_runs_without_holes(log)
    # The relay changes no byte.
    assert {it.meta.event_id: it for it in logged_events(log)} == {
        it.meta.event_id: it for it in waiting
    }


def test_small_batches_arrive_too(service: Service, log: EmbeddedLog, writer: FailingLog) -> None:
    fill(service)
    with capture_logs() as logs:
        new_relay(service, writer, batch_rows_max=2, batch_bytes_max=10).drain()
    assert len(logged_events(log)) == 6
    assert_runs_without_holes(log)
    # Reading ahead saves a third of the time, and one that fails is only told.
    assert {entry["log_level"] for entry in logs} == {"info"}


def test_drained_nothing_waits_though_nothing_more_was_there_when_it_read_ahead(
    service: Service, writer: FailingLog
) -> None:
    """As many rows as a batch has; and then the relay's own report is due."""
    service.commit_change("a", "1")
    service.commit_change("a", "2")
    assert new_relay(service, writer, batch_rows_max=2).drain().idle
    assert service.status().rows_waiting == 0


def test_what_was_read_ahead_is_forgotten_where_the_log_did_not_take_what_is_before_it(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    fill(service)
    relay = new_relay(service, writer, batch_rows_max=2)
    writer.unsent = True
    assert relay.round().unsent
    writer.unsent = False
    relay.drain()
    assert len(logged_events(log)) == 6
    assert_runs_without_holes(log)


def test_what_was_read_ahead_is_forgotten_where_another_had_the_lease_since(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """It sleeps between two rounds; meanwhile another sends it all, and gives the lease up."""
    for value in "1234":
        service.commit_change("a", value)
    first, second = (
        new_relay(service, writer, owner=name, batch_rows_max=1) for name in ("first", "second")
    )
    assert first.round().sent == 1
    service.clock.add(46)
    second.drain()
    service.commit_change("a", "5")
    first.drain()
    assert service.status().held_aggregates == 0
    assert told(logged_events(log)) == [("a", value) for value in "12345"]


def test_what_a_slow_log_took_is_not_sent_again(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """Each append takes longer than the lease is left alone, and no report settles what it took."""
    for value in "1234":
        service.commit_change("a", value)
    relay = new_relay(service, writer, batch_rows_max=1, progress_interval_s=None)
    writer.behind = lambda: service.clock.add(16)
    for _ in range(4):
        assert relay.round().sent == 1
    assert told(logged_events(log)) == [("a", value) for value in "1234"]


def test_it_sends_what_was_committed_late_and_a_cursor_would_lose(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """The counter-example: `id > cursor` never sees a row whose transaction ends after another's.

    On SQLite there is one writer at a time, and the two transactions follow each other.
    """
    cursor, by_cursor = 0, []

    def read_by_cursor() -> None:
        nonlocal cursor
        with service.engine.connect() as connection:
            query = select(outbox.c.id, outbox.c.aggregate).where(outbox.c.id > cursor)
            for id_, aggregate in connection.execute(query.order_by(outbox.c.id)):
                cursor = id_
                by_cursor.append(aggregate)

    relay = new_relay(service, writer)
    overlaps = service.engine.dialect.name != "sqlite"
    with service.engine.connect() as slow:
        service.outbox.record(slow, [draft("slow")])
        if not overlaps:
            slow.commit()
        service.commit_change("quick", "1")
        read_by_cursor()
        relay.drain()
        slow.commit()
    read_by_cursor()
    relay.drain()
    assert {image for image, _ in told(logged_events(log))} == {"quick", "slow"}
    assert ("image:slow" in by_cursor) is not overlaps


def test_ids_that_are_not_in_the_order_of_the_numbers_do_not_matter(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """As with Galera's interleaved ids; the batch is too small to see the first number."""
    fill(service)
    with service.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE metaledger_outbox SET id = 1000 - id")
    new_relay(service, writer, batch_rows_max=2).drain()
    assert sorted(numbers(logged_events(log))) == sorted(numbers(first_times(log)))
    assert len(first_times(log)) == 6
    assert_runs_without_holes(log)


@pytest.mark.parametrize(
    "step",
    ["before the append", "behind the append", "DELETE", "INSERT INTO metaledger_sent", "COMMIT"],
)
def test_killed_at_any_step_it_loses_nothing_and_inverts_nothing(
    service: Service, log: EmbeddedLog, writer: FailingLog, step: str
) -> None:
    fill(service)
    killed = new_relay(service, writer, owner="killed")
    killed.round()  # takes the lease, sends, and writes its progress
    service.commit_change("a", "4")
    match step:
        case "before the append":
            writer.before = halt
        case "behind the append":
            writer.behind = halt
    words = step if step.isupper() or "INTO" in step else "nothing"
    with halting_before(killed._engine, words), pytest.raises(Halted):
        killed.drain()
    writer.before = writer.behind = lambda: None
    service.commit_change("a", "5")
    service.clock.add(60)
    new_relay(service, writer, owner="next").drain()
    assert sorted(told(first_times(log))) == sorted(service.values())
    assert service.status().rows_waiting == 0
    assert_runs_without_holes(log)


def test_answers_that_were_lost_lead_to_repeats_only(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    fill(service)
    relay = new_relay(service, writer)
    writer.unanswered = True
    assert relay.drain().unsent == "no answer"
    assert service.status().rows_waiting == 6
    writer.unanswered = False
    relay.drain()
    assert len(logged_events(log)) == 12
    assert len(first_times(log)) == 6
    assert_runs_without_holes(log)


def test_a_refused_event_holds_its_aggregate_and_no_other(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    fill(service)
    relay = new_relay(service, writer)
    writer.refused = {"image:a"}
    relay.drain()
    service.commit_change("b", "4")
    relay.drain()
    assert {image for image, _ in told(logged_events(log))} == {"b"}
    status = service.status()
    assert status.rows_waiting == 3
    assert [(it.aggregate, it.reason) for it in status.held] == [("image:a", "too large")]
    # Offered again later, and then all of it goes.
    appends = len(writer.appends)
    assert relay.round().idle
    assert len(writer.appends) == appends
    writer.refused = set()
    service.clock.add(61)
    relay.drain()
    assert sorted(told(logged_events(log))) == sorted(service.values())
    assert service.status().held_aggregates == 0
    assert_runs_without_holes(log)


def test_an_event_that_is_gone_holds_its_aggregate(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    fill(service)
    with service.engine.begin() as connection:
        connection.execute(
            outbox.delete().where(outbox.c.aggregate == "image:a", outbox.c.stream_seq == 2)
        )
    new_relay(service, writer).drain()
    assert sorted(told(logged_events(log))) == [("a", "1"), ("b", "1"), ("b", "2"), ("b", "3")]
    (held,) = service.status().held
    assert (held.aggregate, held.reason) == ("image:a", "number 2 of epoch 1 is not there")


def test_drained_nothing_waits_that_could_go_behind_aggregates_that_are_held(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """All that the first batch sees is behind a number that is gone."""
    for value in "123":
        service.commit_change("a", value)
    service.commit_change("b", "1")
    with service.engine.begin() as connection:
        connection.execute(
            outbox.delete().where(outbox.c.aggregate == "image:a", outbox.c.stream_seq == 1)
        )
    new_relay(service, writer, batch_rows_max=2, progress_interval_s=None).drain()
    assert told(logged_events(log)) == [("b", "1")]


def test_held_aggregates_do_not_stand_in_the_way(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    for image in ("a", "b", "c"):
        for value in "123":
            service.commit_change(image, value)
    service.commit_change("last", "1")
    writer.refused = {"image:a", "image:b", "image:c"}
    relay = new_relay(service, writer, batch_rows_max=2)
    for _ in range(8):
        relay.round()
    assert told(logged_events(log)) == [("last", "1")]


def test_two_epochs_leave_in_order(service: Service, log: EmbeddedLog, writer: FailingLog) -> None:
    fill(service)
    administration.reseed(service.engine)
    service.commit_change("a", "4")
    service.commit_change("new", "1")
    new_relay(service, writer, batch_rows_max=2).drain()
    of_a = [number for number in numbers(logged_events(log)) if number[0] == "image:a"]
    assert of_a == [("image:a", 1, 1), ("image:a", 1, 2), ("image:a", 1, 3), ("image:a", 2, 1)]
    assert ("image:new", 2, 1) in numbers(logged_events(log))
    assert service.status().rows_waiting == 0


def test_a_lease_is_taken_over_when_it_is_over(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    first, second = (new_relay(service, writer, owner=name) for name in ("first", "second"))
    assert not first.round().standby
    service.commit_change("a", "1")
    assert second.round().standby
    assert logged_events(log) == []
    service.clock.add(46)
    assert not second.round().standby
    assert first.round().standby
    assert service.status().lease_owner == "second"


def test_a_relay_that_lost_its_lease_changes_nothing(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """It stalls between the append and the deletion; meanwhile another does it all."""
    first, second = (new_relay(service, writer, owner=name) for name in ("first", "second"))
    first.drain()
    service.commit_change("a", "1")

    def meanwhile() -> None:
        writer.behind = lambda: None
        service.clock.add(46)
        second.drain()
        service.commit_change("a", "2")

    writer.behind = meanwhile
    with pytest.raises(LeaseLost):
        first.round()
    # SQLite might have given the id again: the row of a change that was not sent is still there.
    assert told(service.waiting()) == [("a", "2")]
    service.clock.add(1)
    second.drain()
    assert told(first_times(log)) == [("a", "1"), ("a", "2")]
    assert_runs_without_holes(log)


def test_a_slow_log_is_drained_though_two_relays_wait_for_it(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """Each append takes nearly as long as a log may: the lease has to last longer."""
    service.commit_change("a", "1")
    first, second = (new_relay(service, writer, owner=name) for name in ("first", "second"))
    assert not first.round().standby

    def slow() -> None:
        writer.behind = lambda: None
        service.clock.add(KafkaSettings(bootstrap="", topic="").send_timeout_s)
        assert second.round().standby

    service.commit_change("a", "2")
    writer.behind = slow
    assert first.round().sent == 2  # the change, and how the source is
    assert told(logged_events(log)) == [("a", "1"), ("a", "2")]


def test_a_foreign_event_that_was_refused_is_held_no_longer_than_it_waits(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    number = StreamNumber(stream_id="elsewhere", epoch=1, stream_seq=7)
    with service.engine.begin() as connection:
        service.outbox.record(connection, [replace(draft("a"), number=number)])
    writer.refused = {"image:a"}
    relay = new_relay(service, writer)
    relay.drain()
    assert service.status().held_aggregates == 1
    writer.refused = set()
    service.clock.add(61)
    relay.drain()
    assert len(logged_events(log)) == 1
    assert service.status().held_aggregates == 0


def test_a_reseed_says_nothing_of_what_the_relay_tells_itself(
    service: Service, writer: FailingLog
) -> None:
    relay = new_relay(service, writer)
    relay.drain()
    administration.reseed(service.engine)
    service.clock.add(21)
    relay.drain()
    assert service.status().unrecorded_aggregates == 0


def test_what_a_reseed_marks_is_told_soon(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    """The guard trusts the last report."""

    def lacking() -> list[int]:
        events = [CODEC.decode(it.value, it.sha256) for it in log.read(0, records_max=1000)]
        reports = [it.data for it in events if isinstance(it.data, SourceProgressed)]
        return [it.unrecorded_aggregates for it in reports]

    service.commit_change("a", "1")
    relay = new_relay(service, writer, progress_interval_s=3600)
    relay.drain()
    administration.reseed(service.engine, clock=service.clock)
    service.clock.add(1)
    relay.drain()
    assert lacking() == [0, 1]
    service.clock.add(30)
    relay.drain()
    assert lacking() == [0, 1]


def test_progress_tells_how_the_source_is(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    service.commit_change("a", "1")
    with service.engine.begin() as connection:
        service.outbox.mark_unrecorded(connection, ["image:b"])
    relay = new_relay(service, writer, progress_interval_s=20)
    relay._partitions = 3
    writer.refused = {"image:a"}
    relay.drain()
    service.clock.add(21)
    writer.refused = set()
    service.commit_change("a", "2")
    relay.drain()
    events = [CODEC.decode(it.value, it.sha256) for it in log.read(0, records_max=1000)]
    reports = [it for it in events if isinstance(it.data, SourceProgressed)]
    stream_id = service.status().stream_id
    assert [it.meta.aggregate for it in reports[:3]] == [
        f"stream:{stream_id}/{partition}" for partition in range(3)
    ]
    assert [it.meta.stream_seq for it in reports] == [1, 1, 1, 2, 2, 2]
    first, later = reports[0], reports[3]
    assert isinstance(first.data, SourceProgressed)
    assert isinstance(later.data, SourceProgressed)
    assert first.data == SourceProgressed(
        oldest_unsent_at=first.data.oldest_unsent_at,
        rows_waiting=1,
        rows_max=service.settings.outbox_rows_max,
        unrecorded_aggregates=1,
        last_error="too large",
    )
    assert first.data.oldest_unsent_at is not None
    assert first.data.oldest_unsent_at < first.meta.occurred_at
    assert service.status().progress_at == later.meta.occurred_at


def test_no_progress_is_written_while_the_log_is_away(service: Service, writer: FailingLog) -> None:
    service.commit_change("a", "1")
    writer.unsent = True
    relay = new_relay(service, writer)
    for _ in range(5):
        service.clock.add(60)
        assert relay.round().unsent == "the log is away"
    assert service.status().rows_waiting == 1


def test_it_goes_on_when_the_log_was_away(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    service.commit_change("a", "1")
    writer.unsent = True
    again, arrived = threading.Event(), threading.Event()

    def before() -> None:
        if len(writer.appends) > 2:
            again.set()

    writer.before = before
    with running(new_relay(service, writer, poll_interval_s=0.01)):
        assert again.wait(30)
        assert service.status().last_error == "the log is away"
        writer.behind = arrived.set
        writer.unsent = False
        assert arrived.wait(30)
    assert told(logged_events(log)) == [("a", "1")]
    status = service.status()
    assert (status.last_error, status.lease_owner) == (None, None)


def test_it_goes_on_when_the_database_was_away(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    relay = new_relay(service, writer, poll_interval_s=0.01)
    failed, arrived = threading.Event(), threading.Event()
    event.listen(relay._engine, "handle_error", lambda _context: failed.set())
    service.drop_tables()
    with running(relay):
        assert failed.wait(30)
        service.install()
        service.commit_change("a", "1")
        # The relay's own report may come before.
        writer.behind = lambda: "image:a" in writer.appends[-1] and arrived.set()
        assert arrived.wait(30)
    assert ("a", "1") in told(logged_events(log))


def test_writers_and_relays_at_once_lose_and_invert_nothing(
    service: Service, log: EmbeddedLog
) -> None:
    def write(worker: int) -> None:
        for turn in range(25):
            with service.engine.connect() as connection:
                service.change(connection, f"{turn % 5}", f"{worker}/{turn}")
                if turn % 10 == worker:
                    connection.rollback()
                else:
                    connection.commit()

    relays = [
        new_relay(service, FailingLog(log.writer()), owner=name, lease_s=0.001, batch_rows_max=7)
        for name in ("one", "two")
    ]
    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    with running(relays[0]), running(relays[1]):
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
    service.clock.add(60)
    new_relay(service, FailingLog(log.writer()), owner="last").drain()
    assert sorted(told(first_times(log))) == sorted(service.values())
    assert service.status().rows_waiting == 0
    assert_runs_without_holes(log)


@on_postgresql
def test_it_waits_for_no_transaction_of_the_service(
    service: Service, log: EmbeddedLog, writer: FailingLog
) -> None:
    service.commit_change("a", "1")
    with service.engine.begin() as connection:
        service.outbox.lock(connection, ["image:a"])
        service.outbox.record(connection, [draft("a", "2")])
        new_relay(service, writer).drain()
        assert told(logged_events(log)) == [("a", "1")]
        sent_seq = select(sent.c.seq).where(sent.c.aggregate == "image:a")
        assert connection.scalar(sent_seq) == 1

"""What the projector may rely on, whichever database holds the read model."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import event, text

from metaledger.projector import database
from metaledger.projector.memory import Cause, Memory, Parked
from metaledger.projector.readmodel import migrate
from metaledger.projector.rows import Change
from metaledger.projector.store import Move, Store, Transaction
from metaledger.schemas.errors import Fenced, LogRefused, Unreachable, Unstorable, UsageError
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import Position
from metaledger.schemas.tables.ledger import anomalies, parked_events, quarantined_bytes

from .readmodels import BACKENDS, dump, engine_of, rows, store_of

AT = datetime(2026, 11, 21, 13, 43, 32, 516137, tzinfo=UTC)
HOSTILE = [
    "",
    "\\N",
    "a\tb\nc\rd\\e\\t",
    "'; DROP TABLE images; --",
    "100 % of {braces} and :binds",
    "\u202eright to left \U0001f4be \x1b[31m",
    "x" * 1_000_000,
    "\x01\x7f\u0085\u2028",
    "\x02",
    "one\x02two",
    "\\x02",
    "\\.",
]


def moved(store: Store, old: int, new: int) -> None:
    with store.transaction() as transaction:
        transaction.move({0: Move(old, new, AT)})


def anomaly(anomaly_id: str, kind: str = "kind", **more: object) -> tuple[object, ...]:
    row = {
        "anomaly_id": anomaly_id,
        "kind": kind,
        "severity": "error",
        "aggregate_kind": "image",
        "aggregate_id": "1",
        "event_id": "e",
        "occurred_at": AT,
        "details": {"a": [1, None]},
        "withdrawn_by_event": None,
        **more,
    }
    return tuple(row[column.name] for column in anomalies.columns)


def write(store: Store, transaction: Transaction, **changes: Change) -> None:
    transaction.put(store.prepare({}, changes, []))


def test_a_checkpoint_and_its_rows_are_committed_together(url: str) -> None:
    with store_of(url) as store:
        store.bind("log", 2)
        assert store.positions([0, 1]) == {0: 0, 1: 0}
        with store.transaction() as transaction:
            transaction.move({1: Move(0, 5, AT)})
            write(store, transaction, anomalies=Change(copied=[anomaly("a")]))
        assert store.positions([1]) == {1: 5}
        assert [row["anomaly_id"] for row in dump(url)["anomalies"]] == ["a"]


def test_what_fails_after_the_checkpoint_moved_moves_nothing(url: str) -> None:
    with store_of(url) as store:
        store.bind("log", 1)

        def killed() -> None:
            with store.transaction() as transaction:
                transaction.move({0: Move(0, 5, AT)})
                write(store, transaction, anomalies=Change(copied=[anomaly("a")]))
                raise RuntimeError

        with pytest.raises(RuntimeError):
            killed()
        assert store.positions([0]) == {0: 0}
        assert dump(url)["anomalies"] == []


def test_a_checkpoint_that_is_not_where_it_was_believed_to_be_fences(url: str) -> None:
    with store_of(url) as store:
        store.bind("log", 2)
        moved(store, 0, 5)
        with pytest.raises(Fenced), store.transaction() as transaction:
            transaction.move({1: Move(0, 9, AT), 0: Move(4, 6, AT)})
        assert store.positions([0, 1]) == {0: 5, 1: 0}


def test_of_two_that_move_one_checkpoint_one_is_fenced(url: str) -> None:
    with store_of(url) as first, store_of(url) as second:
        first.bind("log", 1)
        outcomes: list[str] = []
        holds = threading.Event()

        def rival() -> None:
            assert holds.wait(60)
            try:
                moved(second, 0, 3)
                outcomes.append("moved")
            except Fenced:
                outcomes.append("fenced")

        thread = threading.Thread(target=rival)
        thread.start()
        with first.transaction() as transaction:
            transaction.move({0: Move(0, 7, AT)})
            holds.set()
            write(first, transaction, anomalies=Change(copied=[anomaly("a")]))
        thread.join(60)
        assert outcomes == ["fenced"]
        assert first.positions([0]) == {0: 7}


def test_a_partition_that_is_held_fences_who_read_it_before(url: str) -> None:
    with store_of(url) as first, store_of(url) as second:
        first.bind("log", 1)
        order: list[str] = []
        holds = threading.Event()

        def projector() -> None:
            assert holds.wait(60)
            try:
                moved(second, 0, 3)
            except Fenced:
                order.append("fenced")

        thread = threading.Thread(target=projector)
        thread.start()
        with first.transaction() as transaction:
            transaction.hold(0)
            holds.set()
            thread.join(0.2)
            order.append("release")
        thread.join(60)
        assert order == ["release", "fenced"]
        found = second.checkpoints([0])[0]
        with second.transaction() as transaction:
            transaction.move({0: Move(found.next_offset, 3, AT, found.releases)})
        assert second.positions([0]) == {0: 3}


def test_rows_are_added_replaced_and_removed(url: str) -> None:
    parked = {
        "log_partition": 0,
        "log_offset": 1,
        "aggregate_kind": "image",
        "aggregate_id": "1",
        "event_id": None,
        "stream_id": None,
        "epoch": None,
        "stream_seq": None,
        "recorded_at": AT,
        "value": b"\x00\\x\t\n\xff",
        "sha256": bytes(range(32)),
    }
    both = [{**parked, "log_offset": offset} for offset in (1, 2)]
    with store_of(url) as store, engine_of(url) as engine:
        with store.transaction() as transaction:
            write(
                store,
                transaction,
                anomalies=Change(copied=[anomaly("a"), anomaly("b")]),
                parked_events=Change(copied=[tuple(row.values()) for row in both]),
            )
        assert rows(engine, parked_events) == both
        with store.transaction() as transaction:
            write(
                store,
                transaction,
                anomalies=Change(copied=[anomaly("c")], merged=[anomaly("b", "new"), anomaly("d")]),
                parked_events=Change(removed=[(0, 1), (0, 77)]),
            )
        found = {row["anomaly_id"]: row["kind"] for row in rows(engine, anomalies)}
        assert found == {"a": "kind", "b": "new", "c": "kind", "d": "kind"}
        assert rows(engine, parked_events) == both[1:]


@pytest.mark.parametrize("how", ["copied", "merged"])
def test_hostile_text_is_stored_exactly(url: str, how: str) -> None:
    written = [
        anomaly(f"{number:02}", severity=text, details={text[:9]: [text]}, withdrawn_by_event=text)
        for number, text in enumerate(HOSTILE)
    ]
    with store_of(url) as store, engine_of(url) as engine:
        with store.transaction() as transaction:
            write(store, transaction, anomalies=Change(**{how: written}))
        assert [tuple(found.values()) for found in rows(engine, anomalies)] == written


def test_a_text_that_looks_like_null_is_none(url: str) -> None:
    written = [
        anomaly(str(number), severity=text, withdrawn_by_event=None)
        for number, text in enumerate(["\x02", "\\N", ""])
    ]
    with store_of(url) as store, engine_of(url) as engine:
        with store.transaction() as transaction:
            write(store, transaction, anomalies=Change(copied=written))
        assert [tuple(found.values()) for found in rows(engine, anomalies)] == written


def test_what_an_index_cannot_hold_is_unstorable_and_writes_nothing(url: str) -> None:
    noise = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(99))
    with store_of(url) as store:
        if "sqlite" in url:
            noise = "\ud800"
        with pytest.raises(Unstorable), store.transaction() as transaction:
            write(store, transaction, anomalies=Change(copied=[anomaly("a"), anomaly(noise)]))
        assert dump(url)["anomalies"] == []


def test_times_come_back_to_the_microsecond_in_utc(url: str) -> None:
    times = [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ]
    written = [anomaly(str(number), occurred_at=at) for number, at in enumerate(times)]
    with store_of(url) as store, engine_of(url) as engine:
        with store.transaction() as transaction:
            write(store, transaction, anomalies=Change(copied=written))
        found = [row["occurred_at"] for row in rows(engine, anomalies)]
        assert found == times
        assert {at.utcoffset() for at in found} == {timedelta()}


def test_a_row_that_is_there_already_cannot_be_copied(url: str) -> None:
    with store_of(url) as store:
        store.bind("log", 1)
        with store.transaction() as transaction:
            write(store, transaction, anomalies=Change(copied=[anomaly("a")]))

        def again() -> None:
            with store.transaction() as transaction:
                transaction.move({0: Move(0, 1, AT)})
                write(store, transaction, anomalies=Change(copied=[anomaly("b"), anomaly("a")]))

        with pytest.raises(Unstorable):
            again()
        assert store.positions([0]) == {0: 0}
        assert [row["anomaly_id"] for row in dump(url)["anomalies"]] == ["a"]


@pytest.mark.parametrize(
    "parked",
    [
        None,
        Parked(cause=Cause.POISON, since=AT, offset=3),
        Parked(
            cause=Cause.GAP,
            since=AT,
            offset=2**62,
            awaited=StreamNumber(stream_id="s", epoch=2, stream_seq=2**62),
        ),
    ],
)
def test_what_is_remembered_of_an_aggregate_comes_back(url: str, parked: Parked | None) -> None:
    memory = Memory(
        name="image:ü",
        partition=3,
        is_changed=True,
        numbers={("s", 1): 7, ("t", 1): 2**62},
        last_valid_at=AT,
        parked=parked,
    )
    with store_of(url) as store:
        for _ in range(2):
            with store.transaction() as transaction:
                transaction.put(store.prepare({}, {}, [memory]))
            with store.transaction() as transaction:
                found = transaction.memories(["image:ü", "image:none"])["image:ü"]
            assert found.is_stored
            assert found.waiting == ({} if parked is None else None)
            assert found.numbers == memory.numbers
            assert (found.partition, found.last_valid_at, found.parked) == (3, AT, parked)
            memory = found
            memory.is_changed = True


def test_only_the_first_log_is_ever_projected(url: str) -> None:
    with store_of(url) as store:
        store.bind("log", 2)
        store.bind("log", 2)
        with pytest.raises(LogRefused, match="made anew"):
            store.bind("another", 2)
        with pytest.raises(LogRefused, match="partitions"):
            store.bind("log", 3)
        assert store.positions([0, 1]) == {0: 0, 1: 0}


def test_what_is_not_in_quarantine_cannot_be_asked_for(url: str) -> None:
    with store_of(url) as store, pytest.raises(UsageError), store.transaction() as transaction:
        transaction.quarantined_at(Position(0, 1))


def test_the_number_of_statements_does_not_grow_with_the_batch(url: str) -> None:
    statements = []
    with engine_of(url) as engine:
        migrate(engine)

        @event.listens_for(engine, "before_cursor_execute")
        def count(*_: object) -> None:
            statements.append(1)

        store = Store(engine)
        counts = []
        for batch in (2, 3_000):
            statements.clear()
            with store.transaction() as transaction:
                names = [f"image:{batch}-{number}" for number in range(batch)]
                assert transaction.memories(names) == {}
                assert transaction.known(names) == {}
                memories = [Memory(name=name, partition=0, is_changed=True) for name in names]
                copied = [anomaly(name) for name in names]
                changes = {"anomalies": Change(copied=copied, merged=copied)}
                transaction.put(store.prepare({}, changes, memories))
                assert len(transaction.memories(names)) == batch
            counts.append(len(statements))
        # SQLite takes some 2,000 rows in a statement.
    assert counts[1] - counts[0] <= 2


@pytest.mark.parametrize("place", BACKENDS[1:], indirect=True)
def test_a_database_that_went_away_is_unreachable(url: str) -> None:
    with store_of(url) as store, engine_of(url) as other:
        store.bind("log", 1)

        def overtaken() -> None:
            with store.transaction() as transaction:
                with other.connect() as connection:
                    connection.execute(
                        text(
                            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE"
                            " datname = current_database() AND pid <> pg_backend_pid()"
                        )
                    )
                transaction.move({0: Move(0, 1, AT)})

        with pytest.raises(Unreachable) as caught:
            overtaken()
        assert caught.value.retriable
        assert store.positions([0]) == {0: 0}


@pytest.mark.parametrize("place", BACKENDS[:1], indirect=True)
def test_a_file_that_another_writes_for_too_long_is_unreachable(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.01)
    with store_of(url) as store, store_of(url) as other, other.transaction():
        with pytest.raises(Unreachable) as caught, store.transaction():
            pass
        assert caught.value.retriable


def test_bytes_are_kept_as_they_are(url: str) -> None:
    row = (0, 9, bytes(range(256)) * 10, b"")
    with store_of(url) as store, engine_of(url) as engine:
        with store.transaction() as transaction:
            write(store, transaction, quarantined_bytes=Change(copied=[row]))
        assert [tuple(found.values()) for found in rows(engine, quarantined_bytes)] == [row]

"""Killed, fenced, cut off: whatever happens to a projector, each record takes effect once."""

import gc
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import event as listener

from metaledger.projector.database import connect
from metaledger.projector.project import Settings, bring_up_to_end, follow
from metaledger.projector.store import Store
from metaledger.schemas.errors import LogRefused, Unreachable
from metaledger.schemas.ledger import GapAccepted
from metaledger.schemas.log.embedded import create_embedded_log

from ..store.readmodels import (
    BACKENDS,
    Place,
    dump,
    empty,
    engine_of,
    kept_open,
    store_of,
)
from .ledgers import (
    CODEC,
    POLL_IS_BATCH,
    TOLERANT,
    Hooked,
    Ledger,
    damaged,
    event,
    registered,
    split,
    updated,
)


class Killed(BaseException):
    """What no code may catch."""


class Fault:
    """Strikes at the n-th step of the driver: before a statement, before a commit or behind it."""

    def __init__(self, at: int, error: Callable[[], BaseException]) -> None:
        self.at = at
        # A new one each time: what is raised keeps its frames alive, and what they hold open.
        self.error = error
        self.steps = 0

    @property
    def struck(self) -> bool:
        return self.steps >= self.at

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise self.error()

    def call(self, call: Any, *args: Any) -> Any:
        self.step()
        return call(*args)

    def commit(self, call: Any) -> None:
        self.step()
        call()
        self.step()

    def options(self, dialect: str) -> dict[str, Any]:
        """What makes the driver ask here."""
        return _sqlite_options(self) if dialect == "sqlite" else _postgres_options(self)


def _sqlite_options(fault: Fault) -> dict[str, Any]:
    class Cursor(sqlite3.Cursor):
        def execute(self, *args: Any) -> Any:
            return fault.call(super().execute, *args)

        def executemany(self, *args: Any) -> Any:
            return fault.call(super().executemany, *args)

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> Any:
            return super().cursor(Cursor)

        def commit(self) -> None:
            fault.commit(super().commit)

    return {"factory": Connection}


def _postgres_options(fault: Fault) -> dict[str, Any]:
    class Cursor(psycopg2.extensions.cursor):
        def execute(self, *args: Any) -> Any:
            return fault.call(super().execute, *args)

        def copy_expert(self, *args: Any) -> Any:
            return fault.call(super().copy_expert, *args)

    class Connection(psycopg2.extensions.connection):
        def commit(self) -> None:
            fault.commit(super().commit)

    return {"cursor_factory": Cursor, "connection_factory": Connection}


@contextmanager
def faulty_store(url: str, fault: Fault) -> Iterator[Store]:
    """A store on a driver with a fault; what a killed process held dies with it."""
    engine = connect(url)
    held = []

    @listener.listens_for(engine, "do_connect")
    def prepare(dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
        options.update(fault.options(dialect.name))

    @listener.listens_for(engine, "connect")
    def hold(connection: Any, _record: Any) -> None:
        held.append(connection)

    try:
        yield Store(engine)
    finally:
        engine.dispose()
        for connection in held:
            connection.close()


def fill(ledger: Ledger) -> None:
    """Something of everything that a batch writes, replaces and removes."""
    ledger.append(
        event(registered(k="1"), 1),
        event(registered("b", k="1"), 1),
        event(updated(k="3"), 3),
        damaged(event(updated("b", k="2"), 2)),
        event(updated(k="2"), 2),
        event(updated("b", k="3"), 3),
        event(updated(k="4"), 4),
        event(registered("c", k="1"), 1),
        event(updated(k="4"), 4),
        event(updated("c", k="7"), 7),
        event(
            GapAccepted(gap_stream_id="glance-1", gap_epoch=1, from_seq=2, to_seq=6, reason="r"),
            1,
            stream="operator",
            aggregate="image:c",
        ),
    )


SPLITS = (6, 5)


@pytest.mark.slow
def test_killed_between_any_two_steps_it_goes_on_to_the_same_end(
    place: Place, ledger: Ledger
) -> None:
    fill(ledger)
    clean, url = place(), place()
    ledger.project(clean)
    expected = dump(clean)
    with kept_open(url):
        for at in itertools.count(1):
            fault = Fault(at, Killed)
            empty(url)
            try:
                with faulty_store(url, fault) as store:
                    log = split(ledger.log, SPLITS)
                    bring_up_to_end(log, store, CODEC, settings=POLL_IS_BATCH)
            except Killed:
                pass
            # SQLite keeps a connection, and its lock, while a frame of the dead has a statement.
            gc.collect()
            if not fault.struck:
                break
            ledger.project(url)
            assert dump(url) == expected, f"killed at step {at}"
        assert at > 30


def test_a_database_that_breaks_off_is_tried_again_and_nothing_is_doubled(
    place: Place, ledger: Ledger
) -> None:
    fill(ledger)
    clean, url = place(), place()
    ledger.project(clean)
    expected = dump(clean)
    broken = sqlite3.OperationalError if "sqlite" in url else psycopg2.OperationalError
    with kept_open(url):
        for at in range(9, 50, 4):
            empty(url)
            fault = Fault(at, lambda: broken("broken off"))
            _follow_to_end(url, ledger, fault)
            assert dump(url) == expected, f"broken off at step {at}"


def _follow_to_end(url: str, ledger: Ledger, fault: Fault) -> None:
    stop = threading.Event()
    end = ledger.log.bounds()[0][1]

    def look(records: Any) -> Any:
        if not records:
            with store_of(url) as other:
                if other.positions([0]) == {0: end}:
                    stop.set()
        return records

    with faulty_store(url, fault) as store:
        log = Hooked(ledger.log, hook=look, sizes=itertools.repeat(4))
        try:
            follow(log, store, CODEC, settings=POLL_IS_BATCH, stop=stop)
        except Unreachable:
            # At its start a projector says at once that it cannot be.
            ledger.project(url)


def test_of_two_projectors_of_one_partition_one_is_fenced_and_nothing_is_doubled(
    place: Place, ledger: Ledger
) -> None:
    fill(ledger)
    clean, url = place(), place()
    ledger.project(clean)
    overtaken = []

    def overtake(records: Any) -> Any:
        # Between the first's reading and its writing, the second projects everything.
        if records and not overtaken:
            overtaken.append(len(records))
            ledger.project(url)
        return records

    ledger.project(url, log=Hooked(ledger.log, hook=overtake))
    assert overtaken
    assert dump(url) == dump(clean)


def test_what_was_gathered_of_a_partition_that_came_back_is_read_again(
    place: Place, ledger: Ledger
) -> None:
    fill(ledger)
    keyless = ledger.log.bounds()[0][1]
    ledger.append(event(registered("keyless"), 1))
    clean, url = place(), place()

    def without_key(records: Any) -> Any:
        return [
            replace(found, key=None) if found.position.offset == keyless else found
            for found in records
        ]

    ledger.project(clean, log=Hooked(ledger.log, hook=without_key))
    readers = []

    def lose_and_regain(records: Any) -> Any:
        if records and readers:
            # Another had the partition in between, and projected a part of what was gathered.
            ledger.project(url, log=Hooked(ledger.log, hook=without_key))
            readers.pop().restart()
        return without_key(records)

    ledger.project(url, log=Hooked(ledger.log, hook=lose_and_regain, readers=readers))
    assert not readers
    assert dump(url) == dump(clean)


def test_two_that_follow_the_same_log_do_the_work_once(place: Place, ledger: Ledger) -> None:
    clean, url = place(), place()
    with store_of(url) as store:
        store.bind("the-log", 1)
    stop = threading.Event()
    threads = [threading.Thread(target=_follow, args=(url, ledger, stop)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 40):
        ledger.append(
            event(registered(f"i{number}", k="1"), 1), event(updated(k=str(number)), number)
        )
    _wait_for_end(url, ledger)
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    ledger.project(clean)
    assert dump(url) == dump(clean)


def _follow(url: str, ledger: Ledger, stop: threading.Event) -> None:
    with engine_of(url) as engine:
        follow(ledger.log, Store(engine), CODEC, settings=TOLERANT, stop=stop)


def _wait_for_end(url: str, ledger: Ledger) -> None:
    end = ledger.log.bounds()[0][1]
    with store_of(url) as store:
        for _ in range(2_400):
            if store.positions([0])[0] == end:
                return
            threading.Event().wait(0.05)
    raise AssertionError("the end was not reached")


_PROJECTOR = """
import sys
from pathlib import Path
from metaledger.projector.database import connect
from metaledger.projector.project import Settings, bring_up_to_end
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.log.embedded import open_embedded_log

log = open_embedded_log(Path(sys.argv[1]))
settings = Settings(poison_records_min=1_000_000, batch_records_max=7)
tell = lambda progress: print(progress.done, flush=True)
bring_up_to_end(log, Store(connect(sys.argv[2])), Codec(), settings=settings, on_progress=tell)
"""


def test_a_killed_process_leaves_what_another_goes_on_from(place: Place, ledger: Ledger) -> None:
    for number in range(1, 200):
        ledger.append(event(registered(f"i{number % 7}", k=str(number)), number // 7 + 1))
    clean, url = place(), place()
    ledger.project(clean)
    with store_of(url):
        pass
    for lines in (1, 4):
        process = subprocess.Popen(
            [sys.executable, "-c", _PROJECTOR, str(ledger.path), url],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    ledger.project(url)
    assert dump(url) == dump(clean)


def test_a_follower_ends_when_it_is_told(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(k="1"), 1))
    stop = threading.Event()
    with store_of(url) as store:
        follow(
            ledger.log,
            store,
            CODEC,
            settings=Settings(),
            stop=stop,
            on_progress=lambda _progress: stop.set(),
        )
    assert len(dump(url)["ledger_events"]) == 1


def test_progress_is_told_up_to_the_end(url: str, ledger: Ledger) -> None:
    ledger.append(*(event(registered(str(number)), 1) for number in range(10)))
    told = []
    with store_of(url) as store:
        result = bring_up_to_end(
            split(ledger.log, itertools.repeat(4)),
            store,
            CODEC,
            settings=POLL_IS_BATCH,
            on_progress=told.append,
        )
        again = bring_up_to_end(ledger.log, store, CODEC, settings=TOLERANT)
    assert [(progress.done, progress.total) for progress in told] == [(4, 10), (8, 10), (10, 10)]
    assert told[-1] == result
    assert (again.done, again.total) == (0, 0)


def test_a_log_that_was_made_anew_is_refused(url: str, ledger: Ledger, tmp_path: Path) -> None:
    ledger.append(event(registered(), 1))
    ledger.project(url)
    anew = create_embedded_log(tmp_path / "anew.db")
    with store_of(url) as store, pytest.raises(LogRefused, match="made anew"):
        bring_up_to_end(anew, store, CODEC, settings=TOLERANT)
    anew.close()


@pytest.mark.parametrize(
    ("bounds", "word"), [((2, 9), "history was deleted"), ((0, 0), "lost its end")]
)
def test_a_log_that_lost_a_part_is_refused(
    url: str, ledger: Ledger, bounds: tuple[int, int], word: str
) -> None:
    ledger.append(event(registered(), 1))
    ledger.project(url)

    class Torn(Hooked):
        def bounds(self) -> dict[int, tuple[int, int]]:
            return {0: bounds}

    with store_of(url) as store, pytest.raises(LogRefused, match=word):
        bring_up_to_end(Torn(ledger.log), store, CODEC, settings=TOLERANT)


@pytest.mark.parametrize("place", BACKENDS[1:], indirect=True)
def test_what_the_database_refuses_is_put_aside_alone(url: str, ledger: Ledger) -> None:
    # A key of an index row that PostgreSQL cannot hold, for noise does not compress.
    noise = os.urandom(4_000).hex()
    ledger.append(*(event(registered(f"i{number}", k="1"), 1) for number in range(9)))
    ledger.append(event(registered("bad", **{noise: "1"}), 1), event(updated("bad", k="2"), 2))
    ledger.append(*(event(updated(f"i{number}", k="2"), 2) for number in range(9)))
    ledger.project(url)
    found = dump(url)
    (row,) = found["quarantine"]
    assert (row["reason"], row["aggregate_id"]) == ("unstorable", "bad")
    assert len(found["ledger_events"]) == 18
    assert len(found["parked_events"]) == 1

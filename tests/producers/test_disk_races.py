"""Processes and threads that make disks at the same time, while a relay empties their spool.

Who is alone at an instance, as nova-compute is by its own lock, notes what it did to the instance's
disks: that is what the log has to tell of them, in this order. Other disks all are at together.
"""

import fcntl
import json
import multiprocessing
import os
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from threading import Event as Flag
from typing import Any

import pytest
from sqlalchemy import text

from metaledger.producers import administration, told
from metaledger.producers.disks import Disks, NewDisk
from metaledger.producers.relay import Relay
from metaledger.producers.settings import RelaySettings
from metaledger.producers.spool import Spool
from metaledger.projector import readmodel
from metaledger.projector.database import connect
from metaledger.projector.project import Settings, bring_up_to_end
from metaledger.projector.store import Store
from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskEvent,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
)
from metaledger.schemas.events import Event
from metaledger.schemas.log import LogWriter, NewRecord, Outcome
from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log

from .kit import CODEC, SETTINGS, FailingLog, assert_runs_without_holes, first_times
from .test_disks import LAYOUT

PROCESSES, THREADS, TURNS = 3, 4, 4
ALONE = ["i-1", "i-2"]
NAMES = ["disk", "disk.swap"]
TOGETHER, MET, LEFT = "together", "met", "left"
LETTERS = {
    DiskCreationStarted: "s",
    DiskCreated: "c",
    DiskCreationFailed: "f",
    DiskLayoutBackfilled: "b",
    DiskLayoutChanged: "l",
    DiskDeleted: "d",
}
STATES = {
    "s": "intended",
    "f": "failed",
    "d": "deleted",
    **dict.fromkeys(("c", "b", "l"), "created"),
}
KNOWN = {"intended": "intended", "there": "created", "failed": "failed"}
# A disk is there that was told so last.
THERE = ("c", "l")


def new_disk(instance_uuid: str, name: str = "disk", size_bytes: int = 1024) -> NewDisk:
    layout = replace(LAYOUT, size_bytes=size_bytes)
    return NewDisk(instance_uuid=instance_uuid, disk=name, layout=layout)


@dataclass
class Done:
    """What was done to a disk, a letter each, and how large it is since."""

    letters: str = ""
    size_bytes: int = 0

    @property
    def is_there(self) -> bool:
        return self.letters.endswith(THERE)


def noted(folder: Path, instance_uuid: str) -> dict[str, Done]:
    kept = json.loads((folder / instance_uuid).read_text() or "{}")
    return {name: Done(**kept.get(name, {})) for name in NAMES}


@contextmanager
def alone_at(folder: Path, instance_uuid: str) -> Iterator[dict[str, Done]]:
    """What was noted of the instance's disks, and is again at the end."""
    with (folder / instance_uuid).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = noted(folder, instance_uuid)
        yield done
        kept = {name: vars(it) for name, it in done.items()}
        (folder / instance_uuid).write_text(json.dumps(kept))


def spool_of(folder: Path) -> Spool:
    # However busy the machine is: each of them has its turn.
    return Spool(folder / "spool.db", SETTINGS, wait_s=120)


class Compute:
    """A process of nova-compute."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._disks = Disks(spool_of(folder), SETTINGS.context)

    def run(self) -> None:
        """All its threads work; and then it dies while it makes a disk."""
        with ThreadPoolExecutor(THREADS) as pool:
            for done in [
                pool.submit(self._work, Random(f"{self._number}/{it}")) for it in range(THREADS)
            ]:
                done.result()
        assert self._disks.failures == 0
        with self._disks.creating(new_disk(LEFT, f"disk.{self._number}")):
            os.kill(os.getpid(), signal.SIGKILL)

    def _work(self, random: Random) -> None:
        for turn in range(TURNS):
            self._disks.met(new_disk(MET))
            self._make_together(fails=turn == 0)
            uuid = random.choice(ALONE)
            with alone_at(self._folder, uuid) as done:
                if any(it.is_there for it in done.values()):
                    random.choice([self._make, self._grow, self._resize, self._delete])(
                        uuid, done, random
                    )
                else:
                    self._make(uuid, done, random)
            if turn % 2:
                self._disks.gone(MET)

    def _make_together(self, *, fails: bool) -> None:
        with suppress(OSError), self._disks.creating(new_disk(TOGETHER)):
            if fails:
                raise OSError

    def _make(self, uuid: str, done: dict[str, Done], random: Random) -> None:
        """Both disks; or the first one, and then there is no room."""
        size_bytes = random.randrange(1, 1_000)
        first, second = (new_disk(uuid, name, size_bytes) for name in NAMES)
        fails = random.random() < 0.3
        with suppress(OSError), self._disks.creating(first, second) as creation:
            creation.made(first)
            if fails:
                raise OSError
        for disk in (first, second):
            before = "d" if done[disk.disk].is_there else ""
            outcome = "f" if fails and disk is second else "c"
            done[disk.disk].letters += f"{before}s{outcome}"
            done[disk.disk].size_bytes = size_bytes

    def _grow(self, uuid: str, done: dict[str, Done], _random: Random) -> None:
        self._disks.met(*self._larger(uuid, done))

    def _resize(self, uuid: str, done: dict[str, Done], _random: Random) -> None:
        self._disks.resized(*self._larger(uuid, done))

    def _larger(self, uuid: str, done: dict[str, Done]) -> list[NewDisk]:
        there = {name: it for name, it in done.items() if it.is_there}
        for it in there.values():
            it.letters += "l"
            it.size_bytes += 1
        return [new_disk(uuid, name, it.size_bytes) for name, it in there.items()]

    def _delete(self, uuid: str, done: dict[str, Done], random: Random) -> None:
        gone = random.sample(NAMES, random.randint(1, 2))
        self._disks.gone(uuid, lambda name: name in gone)
        for it in (done[name] for name in gone if done[name].is_there):
            it.letters += "d"


class Wavering(FailingLog):
    """A log that now and then takes nothing, or does not say what it took."""

    def append(self, records: Sequence[NewRecord]) -> Sequence[Outcome]:
        count = len(self.appends)
        self.unsent, self.unanswered = count % 4 == 1, count % 4 == 3
        return super().append(records)


@contextmanager
def relaying(folder: Path, log: EmbeddedLog) -> Iterator[None]:
    """The spool's relay runs; at the end another one sends what is left."""
    spool, stop = spool_of(folder), Flag()

    def new_relay(writer: LogWriter) -> Relay:
        settings = RelaySettings(poll_interval_s=0.001, backoff_max_s=0.001, batch_rows_max=20)
        options = {"partitions": 1, "owner": "relay", "settings": settings}
        return Relay(spool.engine, writer, spool.outbox, **options)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(new_relay(Wavering(log.writer())).run, stop)
        try:
            yield
        finally:
            stop.set()
        running.result()
    new_relay(log.writer()).drain()
    assert administration.status(spool.engine).rows_waiting == 0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    """What they left, who all raced."""
    for uuid in ALONE:
        (tmp_path / uuid).touch()
    fork = multiprocessing.get_context("fork")
    computes = [
        fork.Process(target=Compute(tmp_path, number).run, daemon=True)
        for number in range(PROCESSES)
    ]
    for it in computes:
        it.start()
    opened = create_embedded_log(tmp_path / "log.db")
    with relaying(tmp_path, opened):
        for it in computes:
            it.join()
    assert [it.exitcode for it in computes] == [-signal.SIGKILL] * PROCESSES
    yield opened
    opened.close()


def asked(folder: Path, log: EmbeddedLog, *queries: str) -> list[list[Any]]:
    """What the read model says."""
    engine = connect(f"sqlite:///{folder}/read.db")
    readmodel.migrate(engine)
    bring_up_to_end(log, Store(engine), CODEC, settings=Settings())
    with engine.connect() as connection:
        found = [list(connection.execute(text(query))) for query in queries]
    engine.dispose()
    return found


def test_racing_processes_tell_of_each_disk_what_was_done_to_it(
    tmp_path: Path, log: EmbeddedLog
) -> None:
    events = first_times(log)
    assert_runs_without_holes(log)
    assert not [it for it in events if it.meta.missed]
    letters = letters_of(events)
    rows, anomalies = asked(tmp_path, log, "SELECT * FROM disks", "SELECT kind FROM anomalies")
    assert {it.kind for it in anomalies} <= {"instance_never_booted"}
    states = {(it.instance_uuid, it.disk): it.state for it in rows}
    sizes = {(it.instance_uuid, it.disk): it.size_bytes for it in rows}
    assert states == {key: STATES[its[-1]] for key, its in letters.items()}

    for uuid in ALONE:
        for name, done in noted(tmp_path, uuid).items():
            assert letters[uuid, name] == done.letters
            assert sizes[uuid, name] == done.size_bytes
    # Nobody met it twice, and nobody deleted it twice.
    assert re.fullmatch("(bd)+b?", letters[MET, "disk"])
    # Each told its own intent and its own outcome, whatever came between them.
    counts = Counter(letters[TOGETHER, "disk"])
    assert counts["s"] == PROCESSES * THREADS * TURNS
    assert counts["c"] == PROCESSES * THREADS * (TURNS - 1)
    intended = {key for key, state in states.items() if state == "intended"}
    assert intended == {(LEFT, f"disk.{number}") for number in range(PROCESSES)}
    # What the spool remembers to have told is what was told.
    for key, state in known(tmp_path).items():
        assert states[key] == state


def letters_of(events: Iterable[Event]) -> dict[tuple[str, str], str]:
    """What was told of each disk, a letter each, in the log's order."""
    letters: dict[tuple[str, str], str] = {}
    for event in events:
        assert isinstance(event.data, DiskEvent)
        key = (event.data.instance_uuid, event.data.disk)
        letters[key] = letters.get(key, "") + LETTERS[type(event.data)]
    return letters


def known(folder: Path) -> dict[tuple[str, str], str]:
    with spool_of(folder).engine.connect() as connection:
        return {
            (uuid, name): KNOWN[it.state]
            for uuid in (*ALONE, TOGETHER, MET, LEFT)
            for name, it in told.disks_of(connection, uuid).items()
        }

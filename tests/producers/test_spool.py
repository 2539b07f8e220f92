"""A spool makes events durable or raises; its relay drains it as any outbox."""

import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from metaledger.producers import administration
from metaledger.producers.database import reading
from metaledger.producers.relay import Relay
from metaledger.producers.spool import Spool
from metaledger.producers.tables import outbox
from metaledger.schemas.errors import (
    MalformedRecord,
    OutboxFull,
    Unreachable,
    Unrecorded,
    UsageError,
)
from metaledger.schemas.log.embedded import EmbeddedLog

from .kit import SETTINGS, FailingLog, assert_runs_without_holes, draft, logged_events, told


def aggregates(spool: Spool) -> list[str]:
    with spool.engine.connect() as connection:
        return list(connection.scalars(select(outbox.c.aggregate).order_by(outbox.c.id)))


def test_an_event_is_in_the_file_when_emit_returns(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "spool.db"
    Spool(path, SETTINGS).emit([draft("a"), draft("b")])
    # Another process finds it; nothing is left open or to be flushed.
    assert aggregates(Spool(path, SETTINGS)) == ["image:a", "image:b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_spool_syncs_and_lets_readers_be(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", SETTINGS)
    spool.install()
    with spool.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_who_begins_to_write_leaves_others_of_its_process_their_locks(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path, SETTINGS)
    spool.emit([draft("a")])
    with reading(spool.engine) as connection:
        assert connection.execute(select(outbox.c.aggregate)).all()
        Spool(path, SETTINGS).install()
        # The last one to close such a file puts an end to its log, in which others write on.
        once = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM {}')"
        subprocess.run([sys.executable, "-c", once.format(outbox.name), path], check=True)
        assert Path(f"{path}-wal").exists()


def test_a_spool_is_drained_by_a_relay(
    tmp_path: Path, log: EmbeddedLog, writer: FailingLog
) -> None:
    spool = Spool(tmp_path / "spool.db", SETTINGS)
    spool.emit([draft("a", "1")])
    spool.emit([draft("a", "2")])
    relay = Relay(spool.engine, writer, spool.outbox, partitions=1, owner="me")
    relay.drain()
    assert told(logged_events(log)) == [("a", "1"), ("a", "2")]
    assert_runs_without_holes(log)
    assert aggregates(spool) == []


def test_all_or_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", SETTINGS)
    with pytest.raises(MalformedRecord):
        spool.emit([draft("a"), draft("b", "\0")])
    assert aggregates(spool) == []


def test_a_full_spool_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", replace(SETTINGS, outbox_rows_max=2))
    spool.emit([draft("a"), draft("a")])
    with pytest.raises(OutboxFull, match="outbox_rows_max = 2"):
        spool.emit([draft("a")])
    assert administration.status(spool.engine).unrecorded_aggregates == 0


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    text = tmp_path / "text.db"
    text.write_text("no database at all, but more than a hundred bytes of text " * 5)
    before = foreign.read_bytes(), text.read_bytes()
    with pytest.raises(UsageError, match="no spool"):
        Spool(foreign, SETTINGS).emit([draft("a")])
    with pytest.raises(UsageError, match="no database"):
        Spool(text, SETTINGS).emit([draft("a")])
    assert before == (foreign.read_bytes(), text.read_bytes())


def test_a_path_that_cannot_be_is_an_error_of_the_spool(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unrecorded):
        Spool(tmp_path / "file" / "spool.db", SETTINGS).emit([draft("a")])


def test_a_locked_spool_raises_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaledger.producers.database._BUSY_TIMEOUT_S", 0)
    spool = Spool(tmp_path / "spool.db", SETTINGS)
    spool.install()
    with spool.engine.begin(), pytest.raises(Unreachable, match="locked"):
        spool.emit([draft("a")])
    assert aggregates(spool) == []


def _emit_in_child(spool: Spool, worker: int) -> None:
    for turn in range(5):
        spool.emit([draft("shared", f"{worker}/{turn}")])


def test_a_spool_goes_through_a_fork(tmp_path: Path, log: EmbeddedLog, writer: FailingLog) -> None:
    spool = Spool(tmp_path / "spool.db", SETTINGS)
    spool.emit([draft("shared", "parent")])
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_emit_in_child, args=(spool, n)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    Relay(spool.engine, writer, spool.outbox, partitions=1, owner="me").drain()
    assert len(logged_events(log)) == 16
    assert_runs_without_holes(log)


def test_a_child_forgets_what_its_parent_will_tell(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", SETTINGS)
    spool.install()
    memory = spool.outbox._memory
    memory.missed(3)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(memory._missed).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"0"
    os.close(reader)
    os.close(writer)
    assert memory._missed == 3

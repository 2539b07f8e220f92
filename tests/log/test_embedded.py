"""What the log in a SQLite file promises beyond the conformance suite."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from metaledger.schemas.errors import LogRefused, Unreachable, UsageError
from metaledger.schemas.log import Position, Refused, Unsent
from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log, open_embedded_log
from metaledger.schemas.log.record import RECORD_BYTES_MAX

from .records import by_key, interleaved, read_all, read_count, record
from .test_conformance import append, from_start

# Python 3.12 and later warn, for the other tests' servers have threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def log(path: Path) -> Iterator[EmbeddedLog]:
    with closing(create_embedded_log(path)) as opened:
        yield opened


def test_the_first_writer_makes_the_log_and_the_next_one_opens_it(path: Path) -> None:
    with closing(create_embedded_log(path)) as made, closing(create_embedded_log(path)) as opened:
        assert made.topic_id == opened.topic_id
    assert [found.name for found in path.parent.iterdir()] == ["log.db"]


def test_a_log_syncs_what_it_takes_and_lets_readers_be(path: Path, log: EmbeddedLog) -> None:
    with closing(open_embedded_log(path)) as opened:
        for one in (log, opened):
            with one.engine.connect() as connection:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_opening_makes_no_file(path: Path) -> None:
    with pytest.raises(UsageError, match=r"a relay makes it, or `metaledger emit`.*--ledger"):
        open_embedded_log(path)
    assert not path.exists()


def test_who_opens_the_log_again_leaves_others_of_its_process_their_locks(
    path: Path, log: EmbeddedLog
) -> None:
    log.writer().append([record("image:a", 1)])
    with log.transaction():
        open_embedded_log(path).close()
        # The last one to close such a file puts an end to its WAL, in which others write on.
        once = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM ledger')"
        subprocess.run([sys.executable, "-c", once, path], check=True)
        assert Path(f"{path}-wal").exists()


def _write_and_die(path: Path) -> None:
    log = open_embedded_log(path)
    log.writer().append(interleaved(keys=10, each=20))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_log_whose_writer_was_killed_while_it_carried_its_wal_over_is_whole(path: Path) -> None:
    create_embedded_log(path).close()
    child = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(path,))
    child.start()
    child.join()
    _carry_over_the_first_page(path)
    with closing(open_embedded_log(path)) as log:
        assert len(read_all(log.reader(from_start))) == 200


def _carry_over_the_first_page(path: Path) -> None:
    """It tells of a larger file than is there yet."""
    wal, page_bytes = Path(f"{path}-wal").read_bytes(), 4096
    frames = range(32, len(wal), 24 + page_bytes)
    first = [at + 24 for at in frames if int.from_bytes(wal[at : at + 4]) == 1]
    with path.open("r+b") as file:
        pages = os.fstat(file.fileno()).st_size // page_bytes
        head = wal[first[-1] : first[-1] + page_bytes]
        assert int.from_bytes(head[28:32]) > pages
        file.write(head)


def test_a_log_cannot_be_made_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no log can be made"):
        create_embedded_log(tmp_path / "none" / "log.db")
    with pytest.raises(UsageError, match="cannot be read"):
        open_embedded_log(tmp_path)


def _create(path: Path, ids: "multiprocessing.SimpleQueue[str]") -> None:
    with closing(create_embedded_log(path)) as log:
        append(log, [record(f"image:{os.getpid()}", 1)])
        ids.put(log.topic_id)


def test_processes_that_make_the_log_at_once_make_one(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ids: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    makers = [context.Process(target=_create, args=(path, ids)) for _ in range(6)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(timeout=60)
        assert maker.exitcode == 0
    with closing(open_embedded_log(path)) as log:
        assert {ids.get() for _ in makers} == {log.topic_id}
        assert log.bounds() == {0: (0, len(makers))}


def _write(path: Path, name: str, each: int) -> None:
    with closing(open_embedded_log(path)) as log, closing(log.writer()) as writer:
        for start in range(1, each + 1, 5):
            records = [record(name, seq) for seq in range(start, start + 5)]
            while isinstance(writer.append(records)[0], Unsent):
                pass


def test_many_writers_in_many_processes_lose_nothing_and_leave_no_hole(
    path: Path, log: EmbeddedLog
) -> None:
    context = multiprocessing.get_context("fork")
    names = [f"image:{number}" for number in range(5)]
    writers = [context.Process(target=_write, args=(path, name, 100)) for name in names]
    for process in writers:
        process.start()
    with closing(log.reader(from_start)) as reader:
        found = read_count(reader, 500)
    for process in writers:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert [f.position.offset for f in found] == list(range(500))
    assert by_key(found) == {name: [f"{name}/{seq}" for seq in range(1, 101)] for name in names}
    assert [f.recorded_at for f in found] == sorted(f.recorded_at for f in found)


def test_the_append_time_never_goes_back(path: Path) -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    times = iter([noon, noon, noon - timedelta(hours=1), noon + timedelta(microseconds=500_000)])
    with closing(create_embedded_log(path, clock=lambda: next(times))) as log:
        for seq in (1, 2, 3):
            append(log, [record("image:1", seq)])
        found = log.read(0, records_max=10)
    assert [f.recorded_at for f in found] == [noon, noon, noon + timedelta(microseconds=500_000)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET value = x'00' WHERE offset = 0",
        "DELETE FROM records WHERE offset = 2",
        "DELETE FROM records",
        "INSERT OR REPLACE INTO records SELECT * FROM records WHERE offset = 1",
        "INSERT INTO records SELECT 7, recorded_at, '', '', 1, 1, '', value, value FROM records",
        "INSERT INTO records SELECT -1, recorded_at, '', '', 1, 1, '', value, value FROM records",
        "UPDATE ledger SET topic_id = 'other'",
        "DELETE FROM ledger",
        "INSERT OR REPLACE INTO ledger VALUES (1, 'other', 'now')",
    ],
)
def test_the_file_takes_its_next_record_and_nothing_else(
    path: Path, log: EmbeddedLog, statement: str
) -> None:
    append(log, interleaved(keys=3, each=1))
    before = log.read(0, records_max=10)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    assert log.read(0, records_max=10) == before
    with closing(open_embedded_log(path)) as again:
        assert again.topic_id == log.topic_id


def number_twice(log: EmbeddedLog) -> None:
    with log.transaction() as connection:
        assert log.append_in(connection, [record("image:1", 2)]) == [Position(0, 1)]
        connection.execute(text("INSERT INTO counters VALUES ('image:1', 2)"))


def test_records_and_the_callers_counters_are_one_transaction(log: EmbeddedLog) -> None:
    with log.transaction() as connection:
        connection.execute(text("CREATE TABLE counters (aggregate TEXT PRIMARY KEY, seq INTEGER)"))
        connection.execute(text("INSERT INTO counters VALUES ('image:1', 1)"))
        assert log.append_in(connection, [record("image:1", 1)]) == [Position(0, 0)]
    with pytest.raises(IntegrityError):
        number_twice(log)
    assert log.bounds() == {0: (0, 1)}
    with log.transaction() as connection:
        connection.execute(text("UPDATE counters SET seq = 2"))
        refused, held_back, taken = log.append_in(
            connection,
            [
                record("image:1", 2, value=bytes(RECORD_BYTES_MAX)),
                record("image:1", 3),
                record("image:2", 1),
            ],
        )
    assert (type(refused), type(held_back), taken) == (Refused, Unsent, Position(0, 1))


def test_a_transaction_can_be_appended_to_twice(log: EmbeddedLog) -> None:
    with log.transaction() as connection:
        assert log.append_in(connection, [record("image:1", 1)]) == [Position(0, 0)]
        assert log.append_in(connection, [record("image:1", 2)]) == [Position(0, 1)]


def test_behind_a_lock_a_record_is_unsent_and_later_it_is_sent(path: Path) -> None:
    with closing(create_embedded_log(path, busy_timeout_s=0.05)) as log:
        with closing(open_embedded_log(path)) as other, other.transaction():
            outcomes = log.writer().append([record("image:1", 1)])
            assert [type(outcome) for outcome in outcomes] == [Unsent]
            with pytest.raises(Unreachable, match="locked"), log.transaction():
                pass
            # Readers wait for nobody.
            assert not log.reader(from_start).poll(records_max=1, timeout_s=0)
        append(log, [record("image:1", 1)])


def _append_when_told(log: EmbeddedLog, turn: Connection) -> None:
    for seq in (1, 2):
        turn.recv()
        turn.send(append(log, [record("image:child", seq)]))
    os._exit(0)  # closes nothing in good order


def test_what_a_forked_child_was_told_is_durable_stays_when_the_parent_closes(
    path: Path, log: EmbeddedLog
) -> None:
    append(log, [record("image:parent", 1)])
    context = multiprocessing.get_context("fork")
    turn, childs_turn = context.Pipe()
    child = context.Process(target=_append_when_told, args=(log, childs_turn))
    child.start()
    turn.send("append")
    assert turn.recv() == [Position(0, 1)]
    log.close()
    turn.send("append")
    assert turn.recv() == [Position(0, 2)]
    child.join(timeout=60)
    with closing(open_embedded_log(path)) as again:
        assert again.bounds() == {0: (0, 3)}


def _append_for_ever(path: Path, started: "multiprocessing.SimpleQueue[int]") -> None:
    with closing(open_embedded_log(path)) as log, closing(log.writer()) as writer:
        seq = 0
        while True:
            records = [record("image:1", seq + number) for number in range(1, 301)]
            (*_, last) = writer.append(records)
            seq += 300
            assert isinstance(last, Position)
            started.put(last.offset)


def test_a_writer_that_is_killed_leaves_whole_appends(path: Path, log: EmbeddedLog) -> None:
    context = multiprocessing.get_context("fork")
    told: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    child = context.Process(target=_append_for_ever, args=(path, told))
    child.start()
    acknowledged = [told.get() for _ in range(3)]
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    ((_, end),) = log.bounds().values()
    assert end > acknowledged[-1]
    assert end % 300 == 0
    append(log, [record("image:1", end + 1)])


def test_what_one_poll_gives_is_bounded_in_bytes(log: EmbeddedLog) -> None:
    append(log, [record(f"image:{n}", 1, value=bytes(900_000)) for n in range(25)])
    with closing(log.reader(from_start)) as reader:
        first = reader.poll(records_max=1_000, timeout_s=0)
        assert 0 < sum(len(found.value) for found in first) <= 17 * 2**20
        assert len(first) + len(read_all(reader)) == 25


def _bytes_of(path: Path) -> bytes:
    with closing(create_embedded_log(path)) as log:
        append(log, interleaved(keys=50, each=20))
    return path.read_bytes()


@pytest.mark.parametrize("kept", [1, 15, 16, 99, 4_096, 20_000])
def test_a_truncated_file_is_one_clear_line(path: Path, kept: int) -> None:
    whole = _bytes_of(path)
    assert len(whole) > 30_000
    path.write_bytes(whole[:kept])
    with pytest.raises(LogRefused) as refused:
        open_embedded_log(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == whole[:kept]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"not a database at all\n" * 500, "no SQLite file"),
        (os.urandom(8_192), "no SQLite file"),
    ],
)
def test_a_file_that_is_no_log_is_one_clear_line(path: Path, content: bytes, told: str) -> None:
    path.write_bytes(content)
    for attempt in (open_embedded_log, create_embedded_log):
        with pytest.raises(LogRefused, match=told):
            attempt(path)
    assert path.read_bytes() == content


def test_a_foreign_sqlite_file_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE records (offset INTEGER PRIMARY KEY)")
        connection.commit()
    before = path.read_bytes()
    for attempt in (open_embedded_log, create_embedded_log):
        with pytest.raises(LogRefused, match="something else"):
            attempt(path)
    assert path.read_bytes() == before


def test_a_log_of_another_format_is_refused(path: Path, log: EmbeddedLog) -> None:
    log.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(LogRefused, match="format 2"):
        open_embedded_log(path)


@pytest.mark.parametrize("lost", ["DROP TABLE records", "DROP TABLE ledger"])
def test_a_file_without_its_tables_is_refused(path: Path, log: EmbeddedLog, lost: str) -> None:
    log.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(lost)
    with pytest.raises(LogRefused, match="not laid out"):
        open_embedded_log(path)


def test_what_is_left_of_a_lost_log_is_not_taken_into_a_new_one(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"frames of another log")
    with pytest.raises(LogRefused, match="left of a log"):
        create_embedded_log(path)


def test_a_log_that_was_moved_away_while_it_was_open_is_refused(
    path: Path, log: EmbeddedLog
) -> None:
    append(log, [record("image:1", 1)])
    path.rename(path.with_suffix(".old"))
    with pytest.raises(LogRefused, match="moved"):
        log.writer().append([record("image:1", 2)])
    with pytest.raises(LogRefused, match="moved"):
        log.reader(from_start).poll(records_max=1, timeout_s=0)


def test_values_of_any_type_are_read(path: Path, log: EmbeddedLog) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO records VALUES (0, 5, x'31', x'ff', 'one', -1, x'00', 'text', 7)"
        )
        connection.commit()
    (found,) = log.read(0, records_max=10)
    assert (found.key, found.event_id, found.number) == (None, None, None)
    assert (found.value, found.sha256) == (b"text", b"7")


def test_every_reader_of_a_group_reads_all(log: EmbeddedLog) -> None:
    append(log, interleaved(keys=2, each=2))
    for _ in range(2):
        with closing(log.reader(from_start, group="shared")) as reader:
            assert reader.owned() == frozenset({0})
            assert len(read_count(reader, 4)) == 4

"""What every log promises (`metaledger.schemas.log`)."""

import multiprocessing
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from metaledger.schemas.codec import EVENT_BYTES_MAX
from metaledger.schemas.errors import LogRefused, UsageError
from metaledger.schemas.log import Log, NewRecord, Position, Positions, Refused, Unsent
from metaledger.schemas.log.record import RECORD_BYTES_MAX

from .backends import Backend
from .records import by_key, interleaved, read_all, read_count, record

# Python 3.12 and later warn, for the other tests' servers have threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

# A group needs a few of them to agree; more than this is never.
POLLS_MAX = 200


def from_start(_partitions: Sequence[int]) -> Mapping[int, int]:
    return {}


def after(positions: Sequence[Position]) -> Positions:
    """As a read model that has all of these."""
    following = {position.partition: position.offset + 1 for position in positions}
    return lambda partitions: {p: following.get(p, 0) for p in partitions}


def append(log: Log, records: Sequence[NewRecord]) -> list[Position]:
    with closing(log.writer()) as writer:
        outcomes = writer.append(records)
    positions = [outcome for outcome in outcomes if isinstance(outcome, Position)]
    assert len(positions) == len(records), outcomes
    return positions


def test_a_record_is_read_as_it_was_appended(log: Log) -> None:
    written = record("image:ä-1", 7, value=b"\x00\xff\n")
    before = datetime.now(UTC)
    (position,) = append(log, [written])
    with closing(log.reader(from_start)) as reader:
        (found,) = read_count(reader, 1)
    assert (found.position, found.key, found.value) == (position, written.key, written.value)
    assert (found.sha256, found.event_id) == (written.sha256, written.event_id)
    assert found.number == written.number
    # Kafka's times are to the millisecond.
    assert before - timedelta(milliseconds=1) <= found.recorded_at <= datetime.now(UTC)


def test_what_has_one_key_is_read_in_the_order_in_which_it_was_appended(log: Log) -> None:
    records = interleaved(keys=17, each=60)
    with closing(log.writer()) as writer:
        for start in range(0, len(records), 251):
            writer.append(records[start : start + 251])
    with closing(log.reader(from_start)) as reader:
        found = read_count(reader, len(records))
    assert by_key(found) == {
        f"image:{key}": [f"image:{key}/{seq}" for seq in range(1, 61)] for key in range(17)
    }
    offsets = {p: [f.position.offset for f in found if f.position.partition == p] for p in range(4)}
    assert all(a < b for of in offsets.values() for a, b in pairwise(of))


def test_what_has_one_key_stands_in_one_partition(log: Log) -> None:
    records = interleaved(keys=20, each=3)
    positions = append(log, records)
    partitions: dict[str, set[int]] = {}
    for written, position in zip(records, positions, strict=True):
        partitions.setdefault(written.key, set()).add(position.partition)
        assert position.partition in range(log.partitions)
    assert all(len(of) == 1 for of in partitions.values())


def test_a_returned_append_is_there_when_the_log_is_opened_again(log_backend: Backend) -> None:
    first = log_backend.open()
    positions = append(first, interleaved(keys=3, each=3))
    first.close()
    again = log_backend.open()
    with closing(again.reader(from_start)) as reader:
        found = read_count(reader, 9)
    assert sorted(f.position for f in found) == sorted(positions)
    assert again.topic_id == first.topic_id
    assert again.partitions == first.partitions


@pytest.mark.parametrize("records_max", [1, 7, 1_000])
def test_a_poll_gives_at_most_what_was_asked_for_and_leaves_nothing_out(
    log: Log, records_max: int
) -> None:
    positions = append(log, interleaved(keys=5, each=5))
    with closing(log.reader(from_start)) as reader:
        found = read_all(reader, records_max=records_max)
    assert sorted(f.position for f in found) == sorted(positions)


def test_reading_begins_at_the_position_that_is_given(log: Log) -> None:
    append(log, interleaved(keys=9, each=4))
    with closing(log.reader(from_start)) as reader:
        before = [found.position for found in read_count(reader, 36)]
    later = append(log, [record("image:0", 5), record("image:1", 5)])
    with closing(log.reader(after(before))) as reader:
        assert sorted(f.position for f in read_count(reader, 2)) == sorted(later)
        assert not reader.poll(records_max=10, timeout_s=0.1)


def test_at_the_end_a_poll_is_empty_and_what_comes_later_is_read(log: Log) -> None:
    with closing(log.reader(from_start)) as reader:
        assert not reader.poll(records_max=10, timeout_s=0.5)
        (position,) = append(log, [record("image:1", 1)])
        assert [found.position for found in read_count(reader, 1)] == [position]
        assert not reader.poll(records_max=10, timeout_s=0.1)


def test_a_restart_reads_again_from_where_the_positions_say(log: Log) -> None:
    append(log, interleaved(keys=6, each=2))
    checkpoint: dict[int, int] = {}
    with closing(log.reader(lambda _partitions: checkpoint)) as reader:
        first = read_count(reader, 12)
        reader.restart()
        assert sorted(f.position for f in read_count(reader, 12)) == sorted(
            f.position for f in first
        )
        checkpoint |= {p: end for p, (_, end) in log.bounds().items()}
        reader.restart()
        assert not reader.poll(records_max=10, timeout_s=0.5)


def test_a_position_past_the_end_is_refused(log: Log) -> None:
    append(log, [record("image:1", 1)])
    reader = log.reader(lambda partitions: dict.fromkeys(partitions, 5_000))
    with closing(reader), pytest.raises(LogRefused, match="position"):
        read_all(reader)


def test_the_bounds_are_the_first_offset_and_the_next_one(log: Log) -> None:
    assert log.bounds() == dict.fromkeys(range(log.partitions), (0, 0))
    positions = append(log, interleaved(keys=10, each=3))
    ends = dict.fromkeys(range(log.partitions), (0, 0))
    for position in positions:
        first, end = ends[position.partition]
        ends[position.partition] = (first, max(end, position.offset + 1))
    assert log.bounds() == ends


def test_an_append_of_nothing_is_nothing(log: Log) -> None:
    assert append(log, []) == []


def test_a_log_made_anew_has_another_identity_and_the_old_one_is_refused(
    log_backend: Backend,
) -> None:
    old = log_backend.open()
    reader, writer = old.reader(from_start), old.writer()
    writer.append([record("image:1", 1)])
    log_backend.remove()
    log_backend.create()
    new = log_backend.open()
    assert new.topic_id != old.topic_id
    with pytest.raises(LogRefused):
        old.bounds()
    with closing(reader), pytest.raises(LogRefused):
        read_all(reader)
    with closing(old.writer()) as late, pytest.raises(LogRefused):
        late.append([record("image:1", 2)])
    assert set(new.bounds().values()) == {(0, 0)}
    writer.close()


def test_a_log_that_is_not_there_is_named_with_what_to_do(log_backend: Backend) -> None:
    log_backend.remove()
    with pytest.raises(UsageError, match=r"metaledger (emit|topic create)"):
        log_backend.open()


def test_the_largest_event_is_taken_and_a_larger_record_harms_no_other_key(log: Log) -> None:
    whole = record("image:1", 1, value=b"\x5a" * EVENT_BYTES_MAX)
    larger = record("image:2", 1, value=bytes(RECORD_BYTES_MAX))
    with closing(log.writer()) as writer:
        outcomes = writer.append([record("image:3", 1), larger, whole, record("image:4", 1)])
    assert isinstance(outcomes[1], Refused)
    assert [type(outcome) for outcome in outcomes] == [Position, Refused, Position, Position]
    with closing(log.reader(from_start)) as reader:
        found = {f.key: f.value for f in read_count(reader, 3)}
    assert set(found) == {"image:1", "image:3", "image:4"}
    assert found["image:1"] == whole.value


def test_behind_a_refused_record_nothing_of_its_key_is_appended(log: Log) -> None:
    records = [
        record("image:1", 1),
        record("image:1", 2, value=bytes(RECORD_BYTES_MAX)),
        record("image:1", 3),
        record("image:2", 1),
    ]
    with closing(log.writer()) as writer:
        outcomes = writer.append(records)
        assert [type(o) for o in outcomes] == [Position, Refused, Unsent, Position]
        assert all(isinstance(o, Position) for o in writer.append([record("image:1", 3)]))
    with closing(log.reader(from_start)) as reader:
        assert by_key(read_all(reader)) == {
            "image:1": ["image:1/1", "image:1/3"],
            "image:2": ["image:2/1"],
        }


@pytest.mark.parametrize("key", ["", "image:\0", "image:" + "x" * 2_000, "image:\ud800"])
def test_a_key_that_could_not_be_read_again_is_refused(log: Log, key: str) -> None:
    with closing(log.writer()) as writer:
        (outcome,) = writer.append([record(key, 1, value=b"value")])
    assert isinstance(outcome, Refused)


def test_hostile_records_are_read_and_nothing_is_raised(log_backend: Backend) -> None:
    log = log_backend.open()
    hostile: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
        (None, b"no key, no headers", []),
        (b"image:\xff", b"no text", [("event_id", b"\xff"), ("sha256", b"")]),
        (b"image:1\0", b"NUL", [("stream_id", b"a\0"), ("epoch", b"1"), ("stream_seq", b"1")]),
        (b"k" * 5_000, b"long", [("event_id", b"e" * 5_000)]),
        (b"image:1", None, [("stream_id", b"s"), ("epoch", b"-1"), ("stream_seq", b"1")]),
        (b"image:1", b"", [("stream_id", b"s"), ("epoch", b"1"), ("stream_seq", b"9" * 4_000)]),
        (b"image:1", b"", [("stream_id", b"s"), ("epoch", b"1_0"), ("stream_seq", b" 1")]),
    ]
    for key, value, headers in hostile:
        log_backend.append_raw(key, value, headers)
    append(log, [record("image:1", 1)])
    with closing(log.reader(from_start)) as reader:
        found = read_count(reader, len(hostile) + 1)
    strange = [f for f in found if f.event_id != "image:1/1"]
    assert [f.value for f in strange] == [value or b"" for _, value, _ in hostile]
    assert {f.number for f in strange} == {None}
    assert {f.event_id for f in strange} == {None}
    assert {f.key for f in strange} <= {None, "image:1"}


def test_two_readers_of_a_group_share_the_partitions_and_hand_them_over(
    log_backend: Backend,
) -> None:
    if not log_backend.shares_partitions:
        pytest.skip("one partition: a group has no effect, and every reader reads all")
    log = log_backend.open()
    every = frozenset(range(log.partitions))
    one, two = log.reader(from_start, group="shared"), log.reader(from_start, group="shared")
    with closing(one):
        assert one.owned() == frozenset()
        with closing(two):
            for _ in range(POLLS_MAX):
                for reader in (one, two):
                    assert not reader.poll(records_max=100, timeout_s=0.2)
                if one.owned() and two.owned() and one.owned() | two.owned() == every:
                    break
            assert {len(one.owned()), len(two.owned())} == {2}
            assert one.owned() | two.owned() == every
            append(log, interleaved(keys=40, each=2))
            shares = {reader: read_all(reader) for reader in (one, two)}
            for reader, found in shares.items():
                assert {f.position.partition for f in found} <= reader.owned()
            assert sum(len(found) for found in shares.values()) == 80
        # What it comes to own is read from where the positions say.
        found = []
        for _ in range(POLLS_MAX):
            found.extend(one.poll(records_max=100, timeout_s=0.2))
            if one.owned() == every and len(found) >= 80:
                break
        assert one.owned() == every
        assert {f.position for f in found} >= {f.position for f in shares[two]}


def _append_in_a_child(log: Log, key: str, each: int) -> None:
    with closing(log.writer()) as writer:
        for seq in range(1, each + 1):
            while not isinstance(writer.append([record(key, seq)])[0], Position):
                pass
    log.close()


def test_a_log_that_was_opened_before_a_fork_serves_both_sides(log: Log) -> None:
    append(log, [record("image:parent", 1)])
    children = [
        multiprocessing.get_context("fork").Process(
            target=_append_in_a_child, args=(log, f"image:{number}", 25)
        )
        for number in range(4)
    ]
    for child in children:
        child.start()
    append(log, [record("image:parent", 2)])
    for child in children:
        child.join(timeout=120)
        assert child.exitcode == 0
    with closing(log.reader(from_start)) as reader:
        found = by_key(read_count(reader, 102))
    assert found.pop("image:parent") == ["image:parent/1", "image:parent/2"]
    assert found == {
        f"image:{number}": [f"image:{number}/{seq}" for seq in range(1, 26)] for number in range(4)
    }

"""The pure part: where a key belongs, what stands beside a record, which records a log takes."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from kafka.partitioner.default import murmur2
from kafka.record.default_records import DefaultRecordBatchBuilder

from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import NewRecord, Position, Refused, Unsent
from metaledger.schemas.log import topic as topics
from metaledger.schemas.log.record import (
    EPOCH,
    RECORD_BYTES_MAX,
    readable_time,
    record_bytes,
    refusal,
    sift,
)
from metaledger.schemas.log.topic import partition_of

from .records import record

TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)
RECORDS = st.builds(
    NewRecord,
    key=TEXTS,
    value=st.binary(max_size=300),
    sha256=st.binary(min_size=32, max_size=32),
    event_id=TEXTS,
    number=st.builds(
        StreamNumber,
        stream_id=TEXTS,
        epoch=st.integers(0, 2**31 - 1),
        stream_seq=st.integers(1, 2**63 - 1),
    ),
)

# What Kafka's own `UtilsTest.testMurmur2` asks of Java. They may never change: an aggregate would
# move to another partition.
GOLDEN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "java"), GOLDEN.items())
def test_a_key_has_the_partition_that_java_gives_it(key: bytes, java: int) -> None:
    for partitions in (1, 2, 12, 2**31 - 1):
        assert partition_of(key, partitions) == (java & 0x7FFFFFFF) % partitions


def test_the_partitions_of_aggregates_are_pinned() -> None:
    keys = [
        "image:5f8d0f2b-5bb6-4f0e-9a5a-1d4d9d3b6a01",
        "instance:00000000-0000-0000-0000-000000000000",
        "hypervisor:4f0c1b7e",
        "",
        "image:ä",
    ]
    # As Kafka 4.3's own `Utils.toPositive(Utils.murmur2(key)) % 12` said.
    assert [partition_of(key.encode(), 12) for key in keys] == [8, 8, 2, 9, 5]


@given(st.binary(max_size=200), st.integers(1, 500))
def test_a_partition_is_one_of_those_that_there_are(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) in range(partitions)


@given(RECORDS)
def test_what_stands_beside_a_record_is_read_as_it_was_written(written: NewRecord) -> None:
    if refusal(written) is None:
        event_id, number, sha256 = topics.read_headers(topics.headers(written))
        assert (event_id, number, sha256) == (written.event_id, written.number, written.sha256)
        assert topics.read_key(written.key.encode()) == written.key


@given(RECORDS)
def test_a_records_size_is_never_underestimated(written: NewRecord) -> None:
    # What kafka-python takes at most, and then refuses or begins another batch.
    taken = DefaultRecordBatchBuilder.size_in_bytes(
        2**31, 2**41, written.key.encode(), written.value, topics.headers(written)
    )
    assert taken <= record_bytes(written)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["event_id", "stream_id", "epoch", "stream_seq", "sha256", "x"]),
            st.none() | st.binary(max_size=40) | st.sampled_from([b"1", b"99999999999", b"\xc2"]),
        )
    ),
    st.none() | st.binary(max_size=40),
)
def test_hostile_headers_raise_nothing(
    found: list[tuple[str, bytes | None]], key: bytes | None
) -> None:
    event_id, number, sha256 = topics.read_headers(found)
    assert event_id is None or "\0" not in event_id
    assert number is None or (number.epoch >= 0 and number.stream_seq >= 1 and number.stream_id)
    assert isinstance(sha256, bytes)
    topics.read_key(key)


@pytest.mark.parametrize("milliseconds", [-(2**63), 2**63 - 1, -62_135_596_800_001])
def test_a_time_that_is_none_is_1970(milliseconds: int) -> None:
    assert topics.read_time(milliseconds) == EPOCH


@pytest.mark.parametrize("text", ["", "now", "2026-01-01", None, 5, b"2026-01-01T00:00:00Z"])
def test_a_text_that_is_no_time_is_1970(text: object) -> None:
    assert readable_time(text) == EPOCH


def test_the_settings_that_a_topic_is_made_with_are_those_that_are_asked_of_it() -> None:
    for replication in (1, 2, 3, 5):
        made = topics.settings(replication)
        assert topics.problems(made) == []
        assert 1 <= int(made["min.insync.replicas"]) <= replication


def test_settings_that_cannot_be_read_are_no_leave() -> None:
    assert len(topics.problems({})) == len(topics.SETTINGS_READ)


def test_the_largest_record_fits_into_a_batch_that_every_topic_takes() -> None:
    assert RECORD_BYTES_MAX + DefaultRecordBatchBuilder.header_size_in_bytes() < (
        topics.MESSAGE_BYTES_LEAST
    )


def test_behind_a_refused_record_those_of_its_key_are_held_back_and_no_others() -> None:
    records = [
        record("a", 1),
        record("b", 1, value=bytes(RECORD_BYTES_MAX)),
        record("a", 2),
        record("b", 2),
        record("c", 1),
    ]
    wanted, outcomes = sift(records)
    assert wanted == [0, 2, 4]
    assert isinstance(outcomes[1], Refused)
    assert isinstance(outcomes[3], Unsent)
    assert not any(isinstance(outcome, Position) for outcome in outcomes)


def test_a_streams_progress_stands_in_the_partition_that_it_tells_of() -> None:
    assert [partition_of(b"stream:glance/1/%d" % number, 12) for number in range(12)] == list(
        range(12)
    )


@pytest.mark.parametrize("key", [b"stream:s/12", b"stream:s/01", b"stream:s", b"image:s/1"])
def test_any_other_key_is_hashed(key: bytes) -> None:
    assert partition_of(key, 12) == (murmur2(key) & 0x7FFFFFFF) % 12

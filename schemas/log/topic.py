"""What a Kafka topic must be to be a log, and what stands beside a record in it. Pure; no client.

Rules (RELIABILITY.md, "Kafka client"): the key is the aggregate, the value the event's bytes; event
id, stream number and SHA-256 are headers, so that a value that cannot be decoded still names its
event. A key's partition is Java's murmur2 of it, the same in every client and for ever. A topic
that compacts, expires or takes the producer's time is refused. What is read is hostile: whatever is
not readable is None, and nothing raises.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import NewRecord
from metaledger.schemas.log.record import EPOCH, RECORD_BYTES_MAX, TEXT_BYTES_MAX, readable_number

# Twelve can be shared evenly by 2, 3, 4, 6 or 12 projectors; the number never grows in place.
PARTITIONS_DEFAULT = 12
# One broker may be lost without losing a record, a second without losing the log.
REPLICATION_DEFAULT = 3

# A batch of one record of RECORD_BYTES_MAX with its own head (61 bytes) fits; Kafka's default does.
MESSAGE_BYTES_LEAST = 1_048_576
_MESSAGE_BYTES = 1_048_588

# Requests name the topic, and not its id: for so long a client may take one that was made anew for
# the one that it opened. A question every 5 s costs a broker nothing.
METADATA_AGE_MAX_MS = 5_000

# At most RECORD_BYTES_MAX so that a batch of many records is no larger than one of a single one.
BATCH_BYTES_MAX = RECORD_BYTES_MAX

_REQUIRED = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
}
_WHY = {
    "cleanup.policy": "a topic that compacts loses history",
    "retention.ms": "a topic that expires loses history",
    "retention.bytes": "a topic with a size limit loses history",
    "message.timestamp.type": "recorded_at is the broker's time",
}
SETTINGS_READ = (*_REQUIRED, "max.message.bytes")

Headers = Sequence[tuple[str, bytes | None]]

_STREAM_ID = "stream_id"
_EPOCH = "epoch"
_STREAM_SEQ = "stream_seq"
_EVENT_ID = "event_id"
_SHA256 = "sha256"

_INTEGER_DIGITS_MAX = len(str(2**63))


def settings(replication: int) -> dict[str, str]:
    """The topic's settings at creation. With n replicas, n - 1 must have a record before it is
    acknowledged, so that one may be down and one more be lost.
    """
    return {
        **_REQUIRED,
        "max.message.bytes": str(_MESSAGE_BYTES),
        "min.insync.replicas": str(max(1, replication - 1)),
    }


def problems(actual: Mapping[str, str | None]) -> list[str]:
    """One sentence for each setting with which the topic is no log; empty where it is one."""
    found = []
    for name, wanted in _REQUIRED.items():
        value = actual.get(name)
        if value is None:
            found.append(_unread(name))
        elif value != wanted:
            found.append(f"{name} is {value} and must be {wanted} ({_WHY[name]})")
    largest = actual.get("max.message.bytes")
    if largest is None or not largest.isdigit():
        found.append(_unread("max.message.bytes"))
    elif int(largest) < MESSAGE_BYTES_LEAST:
        found.append(
            f"max.message.bytes is {largest} and must be at least {MESSAGE_BYTES_LEAST} "
            "(an event may have 900,000 bytes)"
        )
    return found


def _unread(name: str) -> str:
    return f"{name} cannot be read (it needs the right DescribeConfigs)"


def headers(record: NewRecord) -> list[tuple[str, bytes]]:
    """What stands beside the record's value."""
    number = record.number
    return [
        (_STREAM_ID, number.stream_id.encode()),
        (_EPOCH, b"%d" % number.epoch),
        (_STREAM_SEQ, b"%d" % number.stream_seq),
        (_EVENT_ID, record.event_id.encode()),
        (_SHA256, record.sha256),
    ]


def read_headers(found: Headers) -> tuple[str | None, StreamNumber | None, bytes]:
    """Event id, stream number and SHA-256 as far as they are readable. Never raises."""
    held = dict(found)
    number = readable_number(
        _text(held.get(_STREAM_ID)), _integer(held.get(_EPOCH)), _integer(held.get(_STREAM_SEQ))
    )
    return _text(held.get(_EVENT_ID)), number, held.get(_SHA256) or b""


def read_key(key: bytes | None) -> str | None:
    """The aggregate that a record names, where it is readable. Never raises."""
    return _text(key)


def _text(value: bytes | None) -> str | None:
    if value is None or len(value) > TEXT_BYTES_MAX:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text and "\0" not in text else None


def _integer(value: bytes | None) -> int | None:
    # isdigit keeps out signs, blanks and underscores, which int() takes.
    if value is None or not value.isdigit() or len(value) > _INTEGER_DIGITS_MAX:
        return None
    return int(value)


@lru_cache(maxsize=64)  # the records of a batch share their time
def read_time(milliseconds: int) -> datetime:
    """The broker's append time; 1970 where it is none. Never raises."""
    try:
        return EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return EPOCH


_PROGRESS = re.compile(rb"stream:.*/(0|[1-9][0-9]{0,5})", re.DOTALL)


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, as every Kafka client computes it.

    A stream's progress in a partition (key `stream:<id>/<partition>`) stands in that very
    partition: it tells that everything before it is there, which only holds within one order.
    """
    named = _PROGRESS.fullmatch(key)
    if named and int(named[1]) < partitions:
        return int(named[1])
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Java's `org.apache.kafka.common.utils.Utils.murmur2`, as an unsigned 32-bit integer."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    whole = len(data) & ~3
    mixed = 0x9747B28C ^ len(data)
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        mixed = (mixed * multiplier & mask) ^ word
    if whole < len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    mixed = (mixed ^ mixed >> 13) * multiplier & mask
    return mixed ^ mixed >> 15

"""Which records every log takes, and what of a record that was read is readable. Pure.

One measure for all backends, so that what one log took can be copied into any other. Reading is the
other side: whoever can write to a log can write anything, so nothing here raises, and what is not
readable (or could not be stored by a database, as NUL) is None.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from metaledger.schemas.errors import InvalidEvent
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import NewRecord, Outcome, Refused, Unsent
from metaledger.schemas.times import parse_time

# An event has at most 900,000 bytes (`codec.EVENT_BYTES_MAX`); the rest is for key and headers.
RECORD_BYTES_MAX = 1_000_000
# The longest aggregate has some hundred; PostgreSQL indexes no text above 2,700.
TEXT_BYTES_MAX = 1_024

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Names (38) and SHA-256 (32), the two integers (10 and 19), a varint before each of the ten parts
# of five headers (20) and the record's own head (31) are 150.
_OVERHEAD_BYTES = 160

_INT_MAX = 2**31 - 1
_LONG_MAX = 2**63 - 1


def refusal(record: NewRecord) -> str | None:
    """Why no log takes the record, in one sentence; None where every log does."""
    for name, text in (
        ("key", record.key),
        ("event_id", record.event_id),
        ("stream_id", record.number.stream_id),
    ):
        if readable_text(text) is None:
            return f"the record's {name} is empty, longer than {TEXT_BYTES_MAX} bytes, or not text"
    size = record_bytes(record)
    if size > RECORD_BYTES_MAX:
        return (
            f"the record of {record.key} has {size} bytes, and a log takes {RECORD_BYTES_MAX}: "
            "lower event_bytes_max"
        )
    return None


def record_bytes(record: NewRecord) -> int:
    """What the record takes in a log; never less than it does."""
    # Four bytes is the longest UTF-8 character, but names and ids are ASCII in all but name.
    beside = record.key + record.event_id + record.number.stream_id
    text_bytes = len(beside) if beside.isascii() else len(beside.encode())
    return len(record.value) + text_bytes + _OVERHEAD_BYTES


def readable_text(text: object) -> str | None:
    """The text, where it is one that every database can hold and index."""
    if not isinstance(text, str) or not text or "\0" in text:
        return None
    if text.isascii():
        return text if len(text) <= TEXT_BYTES_MAX else None
    try:
        return text if len(text.encode()) <= TEXT_BYTES_MAX else None
    except UnicodeEncodeError:
        return None


def readable_number(
    stream_id: str | None, epoch: object, stream_seq: object
) -> StreamNumber | None:
    """The stream number, where its stream is readable and the integers are what they should be."""
    if stream_id is None or not isinstance(epoch, int) or not isinstance(stream_seq, int):
        return None
    if not (0 <= epoch <= _INT_MAX and 1 <= stream_seq <= _LONG_MAX):
        return None
    return StreamNumber(stream_id=stream_id, epoch=epoch, stream_seq=stream_seq)


@lru_cache(maxsize=64)  # the records of a batch share their time
def readable_time(text: object) -> datetime:
    """A time in a text form of `times`; 1970 where it is none."""
    try:
        return parse_time(text, "recorded_at") if isinstance(text, str) else EPOCH
    except InvalidEvent:
        return EPOCH


def sift(records: Sequence[NewRecord]) -> tuple[list[int], list[Outcome]]:
    """Which of the records may be appended, by index, and an outcome for each of all.

    Behind a refused record those of its key are held back (the log's promise of order). What may be
    appended is Unsent until the backend knows better.
    """
    outcomes: list[Outcome] = [_NOT_YET] * len(records)
    wanted: list[int] = []
    held_back: set[str] = set()
    for index, record in enumerate(records):
        if held_back and record.key in held_back:
            outcomes[index] = Unsent(f"held back behind a refused record of {record.key}")
        elif (reason := refusal(record)) is not None:
            outcomes[index] = Refused(reason)
            held_back.add(record.key)
        else:
            wanted.append(index)
    return wanted, outcomes


_NOT_YET = Unsent("not sent")

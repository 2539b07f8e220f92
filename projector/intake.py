"""What a record is to its aggregate: the one place that decides whether an event is admitted. Pure.

A record is read once, before any transaction (`read`), and judged when its turn comes (`judge`):
RELIABILITY.md, "Projector". Nothing here knows a table, a batch or a fold. An event counts for
completeness by its number and for identity by its id: a repeat changes nothing and still counts as
its stream's number, and so does a conflict, whose record is there, in quarantine, and not missing.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import get_args, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import ContractError
from metaledger.schemas.events import EVENTS, Event, StreamNumber
from metaledger.schemas.jsonform import plain
from metaledger.schemas.ledger import GapAccepted, RecordSkipped
from metaledger.schemas.log import LogRecord
from metaledger.schemas.representable import representable

# PostgreSQL refuses an index row of more than 2,704 bytes; two of these must fit into one.
_NAME_BYTES_MAX = 1000
_ERROR_CHARS_MAX = 2000
_INT32_MAX = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1
_DECISIONS = frozenset((GapAccepted, RecordSkipped))
_TIMED = frozenset(
    event
    for event in EVENTS
    if any(datetime in (hint, *get_args(hint)) for hint in get_type_hints(event).values())
)


class Reason(StrEnum):
    """Why a record stands in quarantine."""

    UNDECODABLE = "undecodable"
    UNFOLDABLE = "unfoldable"
    UNSTORABLE = "unstorable"
    NO_KEY = "no_key"
    EVENT_ID_CONFLICT = "event_id_conflict"
    SEQUENCE_CONFLICT = "sequence_conflict"
    FOREIGN_DEPLOYMENT = "foreign_deployment"


class Verdict(StrEnum):
    """What is to be done with an event whose turn it is."""

    APPLY = "apply"
    REPEAT = "repeat"
    WAIT = "wait"
    EVENT_ID_CONFLICT = "event_id_conflict"
    SEQUENCE_CONFLICT = "sequence_conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a ledger asks of its events.

    `topic_id` is the log's: an operator's decision about another log's record means nothing here.
    """

    topic_id: str
    deployment_id: str = "default"
    # NTP keeps hosts within milliseconds; a minute is a clock that nobody keeps.
    clock_skew_max: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a record, in one harmless sentence."""

    reason: Reason
    error: str


# A Struct, as below: there is one a record, and it is the cheaper one to make.
class Read(Struct, frozen=True, kw_only=True):
    """A record and what came of reading it: an event with its data as JSON, or a problem.

    `key`, `event_id` and `number` are None where the record has none that can be used; where the
    value cannot be decoded, they are what stands beside it.
    """

    record: LogRecord
    key: str | None
    event_id: str | None
    number: StreamNumber | None
    event: Event | None = None
    data: bytes = b""
    problem: Problem | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes as they are, in hex."""
        return hashlib.sha256(self.record.value).hexdigest()


class Known(Struct, frozen=True, kw_only=True, gc=False):
    """An event that was admitted before: enough to tell a repeat from a conflict."""

    event_type: str
    occurred_at: datetime
    data: bytes


def read(codec: Codec, record: LogRecord) -> Read:
    """Reads a record; what is wrong with it is in the result. Raises UnknownSchema alone."""
    key = _usable(record.key)
    if key is None or not all(key.partition(":")):
        return unread(record, Reason.NO_KEY, "the record has no key that can be used")
    try:
        event = codec.decode(record.value, record.sha256)
    except ContractError as error:
        return unread(record, Reason.UNDECODABLE, str(error))
    if event.meta.aggregate != key:
        wrong = f"the record's key is not the aggregate of its {event.type}"
        return unread(record, Reason.UNDECODABLE, wrong)
    meta = event.meta
    number = StreamNumber(stream_id=meta.stream_id, epoch=meta.epoch, stream_seq=meta.stream_seq)
    return Read(
        record=record,
        key=key,
        event_id=meta.event_id,
        number=number,
        event=event,
        data=_json(event),
    )


def unread(record: LogRecord, reason: Reason, error: str) -> Read:
    """A record without its event, named by what stands beside its value."""
    return Read(
        record=record,
        key=None if reason is Reason.NO_KEY else _usable(record.key),
        event_id=_usable(record.event_id),
        number=_usable_number(record.number),
        problem=Problem(reason=reason, error=_harmless(error)),
    )


def poisoned(item: Read, reason: Reason, error: str) -> Read:
    """The same record, as one that cannot be admitted."""
    problem = Problem(reason=reason, error=_harmless(error))
    return replace(item, event=None, data=b"", problem=problem)


def judge(event: Event, data: bytes, *, next_seq: int, known: Known | None) -> Verdict:
    """What an event is, given its stream's next number and what is known under its id."""
    seq = event.meta.stream_seq
    if seq > next_seq:
        return Verdict.WAIT
    if known is not None:
        return Verdict.REPEAT if _same(event, data, known) else Verdict.EVENT_ID_CONFLICT
    return Verdict.APPLY if seq == next_seq else Verdict.SEQUENCE_CONFLICT


def is_skewed(event: Event, recorded_at: datetime, rules: Rules) -> bool:
    """Whether the event's time is later than a clock can honestly be."""
    return event.meta.occurred_at - recorded_at > rules.clock_skew_max


def valid_time(
    event: Event, recorded_at: datetime, last_at: datetime | None, rules: Rules
) -> datetime:
    """The event's time, the append time where that is skewed, and never before `last_at`."""
    skewed = is_skewed(event, recorded_at, rules)
    at = recorded_at if skewed else event.meta.occurred_at
    return at if last_at is None or at > last_at else last_at


def is_foreign(event: Event, rules: Rules) -> bool:
    """Whether the event belongs to another deployment's ledger."""
    return event.meta.deployment_id != rules.deployment_id


def is_decision(event: Event | None) -> bool:
    """Whether an operator decided something, which acts although the aggregate is parked."""
    return event is not None and type(event.data) in _DECISIONS


def _harmless(error: str) -> str:
    """An error's text as every database can hold it, and no longer than anybody reads."""
    return representable(error)[:_ERROR_CHARS_MAX]


def _json(event: Event) -> bytes:
    """The event's data as JSON: msgspec's is that of the JSON form but for the text of times."""
    data = plain(event.data) if type(event.data) in _TIMED else event.data
    return msgspec.json.encode(data)


def _usable(name: str | None) -> str | None:
    """A name that every database can hold and index; None where it is not."""
    if not name or "\0" in name:
        return None
    try:
        return name if len(name.encode()) <= _NAME_BYTES_MAX else None
    except UnicodeEncodeError:
        return None


def _usable_number(number: StreamNumber | None) -> StreamNumber | None:
    if number is None or _usable(number.stream_id) is None:
        return None
    fits = 0 < number.epoch <= _INT32_MAX and 0 < number.stream_seq <= _INT64_MAX
    return number if fits else None


def _same(event: Event, data: bytes, known: Known) -> bool:
    if event.type != known.event_type or event.meta.occurred_at != known.occurred_at:
        return False
    return data == known.data or bool(msgspec.json.decode(data) == msgspec.json.decode(known.data))

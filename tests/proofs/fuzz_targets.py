"""What is fuzzed: each reader of bytes that somebody else wrote, and what must hold of its answer.

A target reads one input. What it raises is refused, and is one of the two errors that the contract
names; what it gives back is usable. Every engine of `fuzz_child` uses these and `one_of`.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metaledger.projector import intake
from metaledger.schemas.catalogue import BY_FINGERPRINT
from metaledger.schemas.codec import EVENT_BYTES_MAX
from metaledger.schemas.errors import ContractError, EventTooLarge, UnknownSchema
from metaledger.schemas.events import Event, StreamNumber, recorded
from metaledger.schemas.framing import unframe
from metaledger.schemas.jsonform import parse_line, to_json
from metaledger.schemas.log import LogRecord, NewRecord, Position
from metaledger.schemas.log import topic as kafka_form
from metaledger.schemas.meta import Context
from tests.contract.hostile import ATTACKS, CODEC, IDS, ODD, storable
from tests.contract.mutating import Material, number
from tests.contract.samples import EVENTS

from .fuzz_meter import CPU_S_MAX, Meter

TAKEN = "taken"
RECORD = "record"
GOLDEN = Path(__file__).parents[1] / "contract" / "golden"
# A busy machine makes one reading slow; a hostile input makes each.
_READINGS_MAX = 10
_ERROR_CHARS_MAX = 300
# `emit` reads no longer ones (`services.lines`).
LINE_BYTES_MAX = 7_199_000
_SUM_BYTES = 32
_AT = datetime(2026, 11, 21, tzinfo=UTC)
_CONTEXT = Context(service="emit", host="laptop")
_NUMBER = StreamNumber(stream_id="s", epoch=1, stream_seq=1)
_ID = "01932a5d-ac96-774b-bcce-b302099a8057"


class Broken(AssertionError):
    """The promise is broken by the input that was tried last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A reader, what must hold of what it gives, and what hostile input for it is made of.

    `share` of a hundred inputs are for it. `worst` are those made to be slow or large.
    """

    name: str
    share: int
    read: Callable[[bytes], Any]
    holds: Callable[[Any], None]
    material: Material = field(repr=False)
    worst: Callable[[], Iterable[bytes]] = tuple


def one_of(target: Target, given: bytes, meter: Meter) -> str:
    """What the input came to, read within the meter. Raises Broken, or what the reader wrongly
    raised.
    """
    error: Exception | None = None
    for _ in range(_READINGS_MAX):
        answer = error = None
        try:
            with meter:
                answer = target.read(given)
        except (ContractError, UnknownSchema) as refused:
            error = refused
        if meter.cpu_s <= CPU_S_MAX:
            break
    else:
        raise Broken(f"reading took {meter.cpu_s * 1000:.0f} ms of the processor, again and again")
    if error is not None:
        _harmless(error)
        return type(error).__name__
    target.holds(answer)
    return TAKEN


def _harmless(error: Exception) -> None:
    """One short sentence, and no refusal of what the machine was short of."""
    if len(str(error)) > _ERROR_CHARS_MAX or not str(error).isprintable():
        raise Broken(f"a {type(error).__name__} that nobody can show: {str(error)[:900]!a}")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | RecursionError):
            raise Broken(f"{type(cause).__name__} was taken for the record's fault") from error
        cause = cause.__cause__


def _record(given: bytes) -> Event:
    return CODEC.decode(given, hashlib.sha256(given).digest())


def _record_and_sum(given: bytes) -> Event:
    return CODEC.decode(given[_SUM_BYTES:], given[:_SUM_BYTES])


def _event_holds(event: Event) -> None:
    storable(event)
    encoded = CODEC.encode(event)
    read = intake.read(
        CODEC,
        LogRecord(
            position=Position(0, 0),
            recorded_at=_AT,
            key=event.meta.aggregate,
            value=encoded.value,
            sha256=encoded.sha256,
            event_id=None,
            number=None,
        ),
    )
    if read.event != event and read.key is not None:
        raise Broken(f"the projector reads another event: {read.problem}")


def _frame(given: bytes) -> object:
    with contextlib.suppress(ContractError, UnknownSchema):
        unframe(given, None)
    return unframe(given, IDS)


def _frame_holds(found: Any) -> None:
    schema, start = found
    if BY_FINGERPRINT[schema.fingerprint] is not schema or start not in {5, 10}:
        raise Broken("a frame that names no schema of ours")


def _line(given: bytes) -> Event:
    # As from a file that is UTF-8, and with the lone surrogates that no file can have.
    draft = parse_line(given.decode("utf-8", "surrogateescape"), _CONTEXT)
    return recorded(draft, event_id=_ID, number=_NUMBER, occurred_at=_AT)


def _line_holds(event: Event) -> None:
    try:
        storable(event)
    except EventTooLarge:
        return
    again = parse_line(json.dumps(to_json(event)), _CONTEXT)
    if recorded(again, event_id=_ID, number=_NUMBER, occurred_at=_AT) != event:
        raise Broken("the event is another one when it is read from its own JSON")


def _beside(given: bytes) -> LogRecord:
    """A record as Kafka gives it: a key and headers that anybody may have written."""
    key, *rest = given.split(b"\n")
    names = [one.decode("latin-1") for one in rest[::2]]
    held = dict(zip(names, rest[1::2], strict=False))
    event_id, stream_number, sha256 = kafka_form.read_headers(list(held.items()))
    return LogRecord(
        position=Position(0, 0),
        recorded_at=kafka_form.read_time(int.from_bytes(given[:8], "big")),
        key=kafka_form.read_key(key),
        value=given,
        sha256=sha256,
        event_id=event_id,
        number=stream_number,
    )


def _beside_holds(record: LogRecord) -> None:
    read = intake.read(CODEC, record)
    stream = read.number and read.number.stream_id
    for text in (read.key, read.event_id, stream):
        if text is not None and ("\0" in text or not 0 < len(text.encode()) <= _NAME_BYTES_MAX):
            raise Broken(f"no database can index {text[:80]!a}")
    if read.problem is None or not read.problem.error.isprintable():
        raise Broken("an unreadable record was read, or its error cannot be shown")


_NAME_BYTES_MAX = 1000


def _golden(ending: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted(GOLDEN.glob(f"*{ending}"))]


def _lines() -> list[bytes]:
    scenarios = Path(__file__).parents[1] / "scenarios"
    told = [json.dumps(to_json(event), ensure_ascii=False).encode() for event in EVENTS]
    return told + [
        line
        for file in scenarios.glob("*.jsonl")
        for line in file.read_bytes().splitlines()
        if line
    ]


def _worst_lines() -> Iterator[bytes]:
    for part in (b"[],", b"{},", b"1,", b'"",', b'{"":0},', b'{"":0,"":0},', b'"\\u0041",'):
        yield b"[" + part * (LINE_BYTES_MAX // len(part)) + b"0]"
    # As much text as an event may have, in its longest forms.
    for part in (b"\\u0041", b",", b'\\"', b"\\\\"):
        yield b'{"data":"' + part * EVENT_BYTES_MAX + b'"}'


def _headers() -> list[bytes]:
    record = NewRecord(key="image:i", value=b"", sha256=b"x" * 32, event_id=_ID, number=_NUMBER)
    pairs = [name.encode() + b"\n" + value for name, value in kafka_form.headers(record)]
    return [b"\n".join([b"image:i", *pairs])]


_GOOD = [*_golden(".bin"), *(CODEC.encode(event).value for event in EVENTS)]
_RECORDS = [
    *(_GOOD * 4),
    *(value for value in (*ATTACKS.values(), *ODD.values()) if len(value) < _NAME_BYTES_MAX),
]
_CLAIMS = [
    *(number(sign * (1 << bits) + by) for bits in range(64) for sign in (1, -1) for by in (0, -1)),
    number(1 << 64),
    b"\x80" * 11,
    b"\xff" * 10,
    b"\xc3\x01",
    b"\0",
    b"\xed\xa0\x80",
    "\u202e\U0010ffff".encode(),
]
_TOKENS = [
    *rb"""
    null true false 0 -0 1 -1 0.5 1e9 1e999 NaN -Infinity 2147483648 9223372036854775808
    "" "\u0000" "\ud800" "\udc00\ud800" \u0000 \x {} [] [[ {"a": , : " \ } ] {"a":1,"a":2}
    "meta": "type" "UNKNOWN" "PURGE" "image_id" "aggregate" "image:" ":" "stream_seq"
    "2026-02-30T00:00:00Z" "0001-01-01T00:00:00+23:59" "9999-12-31T23:59:59-23:59"
    """.split(),
    b"[" * 3000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"\xed\xa0\x80",
    b"\xff",
    "\u202e".encode(),
]

TARGETS: tuple[Target, ...] = (
    Target(
        name=RECORD,
        share=70,
        read=_record,
        holds=_event_holds,
        material=Material(_RECORDS, _CLAIMS),
        worst=lambda: (value for value in ATTACKS.values() if len(value) >= _NAME_BYTES_MAX),
    ),
    Target(
        name="record and checksum",
        share=5,
        read=_record_and_sum,
        holds=_event_holds,
        material=Material([hashlib.sha256(one).digest() + one for one in _RECORDS], _CLAIMS),
    ),
    Target(
        name="frame",
        share=5,
        read=_frame,
        holds=_frame_holds,
        material=Material([one[:24] for one in _RECORDS], _CLAIMS),
    ),
    Target(
        name="line",
        share=15,
        read=_line,
        holds=_line_holds,
        material=Material(_lines(), _TOKENS),
        worst=_worst_lines,
    ),
    Target(
        name="key and headers",
        share=5,
        read=_beside,
        holds=_beside_holds,
        material=Material(_headers(), [*_CLAIMS, *_TOKENS, b"\n"]),
    ),
)


def shared_out() -> Sequence[Target]:
    """A hundred places, of which each target has its share."""
    return [target for target in TARGETS for _ in range(target.share)]

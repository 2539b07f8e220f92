"""A file of events in the JSON form, read line by line and checked as a whole.

Nothing is appended before the last line was found good, in bounded memory: what was found good is
`held` meanwhile. The digest comes before the first line, so standard input is put into a temporary
file first. Empty lines are no events.
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from uuid import UUID

from metaledger.schemas.codec import Codec, write_data
from metaledger.schemas.errors import EventTooLarge, InvalidEvent, UsageError
from metaledger.schemas.events import Draft, StreamNumber, Written, head
from metaledger.schemas.identity import derived_id
from metaledger.schemas.jsonform import parse_line
from metaledger.schemas.meta import Context
from metaledger.schemas.times import shown
from metaledger.services.held import Held

# More bad lines than that say nothing new.
BAD_LINES_SHOWN_MAX = 20
# JSON may write one character as six (`\\u0041`), and no event has more than event_bytes_max.
_JSON_EXPANSION_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is no event: which field, what was expected, what is there."""

    line: int
    path: str
    expected: str
    got: str

    @property
    def text(self) -> str:
        """The line's fault in one sentence."""
        what = self.path or "the event"
        return f"line {self.line}: {what}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in a file. `digest` is the SHA-256 of its bytes, hex."""

    digest: str
    events: int
    bad: tuple[BadLine, ...]
    bad_total: int


@contextmanager
def opened(name: str) -> Iterator[BufferedReader]:
    """The file, or standard input for `-`, so that it can be read again. Raises UsageError."""
    try:
        file = _twice_readable(name)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from error
    with file:
        yield file


def _twice_readable(name: str) -> BufferedReader:
    # What is no regular file (a pipe) gives its bytes once only.
    if name != "-" and Path(name).is_file():
        return Path(name).open("rb")
    source = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 (below)
    with source, tempfile.NamedTemporaryFile() as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        return Path(copy.name).open("rb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How lines become drafts.

    With `repeatable` each must say when it occurred, and what has no id gets one that follows from
    the file's bytes and the line: a second run of the same file repeats the first.
    """

    context: Context
    codec: Codec
    repeatable: bool


def check(file: BufferedReader, reading: Reading, held: Held) -> Checked:
    """Looks at every line of the file, and holds what is good."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    bad: list[BadLine] = []
    events = bad_total = 0
    for line, raw in _lines(file, reading.codec):
        try:
            draft = _draft(raw, reading)
            if draft is not None:
                held.put(line, draft, _written(draft, raw, reading.codec))
                events += 1
        except InvalidEvent as error:
            bad_total += 1
            if len(bad) < BAD_LINES_SHOWN_MAX:
                bad.append(
                    BadLine(line=line, path=error.path, expected=error.expected, got=error.got)
                )
    return Checked(digest, events, tuple(bad), bad_total)


def drafts(checked: Checked, reading: Reading, held: Held) -> Iterator[Draft]:
    """The drafts of a file that was found good."""
    for line, draft in held:
        if reading.repeatable and draft.event_id is None:
            yield replace(draft, event_id=derived_id("emit", checked.digest, line))
        else:
            yield draft


def _lines(file: BufferedReader, codec: Codec) -> Iterator[tuple[int, bytes]]:
    """Each line with its number from 1; of one that is too long, its too long beginning."""
    file.seek(0)
    limit = codec.event_bytes_max * _JSON_EXPANSION_MAX
    line = 0
    while raw := file.readline(limit):
        line += 1
        yield line, raw
        while len(raw) == limit and not raw.endswith(b"\n"):
            raw = file.readline(limit)


def _draft(raw: bytes, reading: Reading) -> Draft | None:
    """The draft of a line, None for an empty one. Raises InvalidEvent."""
    cap = reading.codec.event_bytes_max
    if len(raw) >= cap * _JSON_EXPANSION_MAX:
        expected = f"an event of at most {cap} bytes"
        raise InvalidEvent("", expected=expected, got="a line of more than eight times that")
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        got = f"byte {raw[error.start]:#04x} at column {error.start + 1}"
        raise InvalidEvent("", expected="UTF-8", got=got) from error
    if not text:
        return None
    draft = parse_line(text, reading.context)
    deployment = reading.context.deployment_id
    if draft.context.deployment_id != deployment:
        got = shown(draft.context.deployment_id)
        raise InvalidEvent("meta.deployment_id", expected=shown(deployment), got=got)
    if reading.repeatable and draft.occurred_at is None:
        expected = "a time, so that a second run repeats the first"
        raise InvalidEvent("meta.occurred_at", expected=expected, got="nothing")
    return draft


def _written(draft: Draft, raw: bytes, codec: Codec) -> Written:
    """The draft's data as bytes; the whole event must fit. Raises InvalidEvent."""
    try:
        written = write_data(draft.data)
        # Avro's form is never twice as long as the JSON that it comes from, so few pay for this.
        if len(raw) > codec.event_bytes_max // 2:
            meta = head(draft, event_id=_NO_ID, number=_NO_NUMBER, occurred_at=_EPOCH)
            codec.encode_written(meta, written)
    except EventTooLarge as error:
        expected = f"an event of at most {codec.event_bytes_max} bytes"
        raise InvalidEvent("", expected=expected, got="a larger one") from error
    return written


# As long as the real ones will be at most.
_NO_ID = str(UUID(int=0))
_NO_NUMBER = StreamNumber(stream_id="x" * 64, epoch=2**31 - 1, stream_seq=2**62)
_EPOCH = datetime.fromtimestamp(0, UTC)

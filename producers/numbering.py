"""From drafts to numbered, encoded records: one statement a step for all of them, none a draft.

The order of the steps is the promise: first the counters' locks, then the time, then the bytes. So
`occurred_at` grows with the numbers of an aggregate, as far as the machine's clock grows.
"""

from collections import Counter as Tally
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import Connection

from metaledger.producers import claiming, counters
from metaledger.producers.counters import Counter, Taken
from metaledger.producers.tables import AGGREGATE_CHARS_MAX, STREAM_ID_CHARS_MAX
from metaledger.schemas.bounds import encode_within
from metaledger.schemas.codec import Codec, write_data
from metaledger.schemas.errors import EventTooLarge, UsageError
from metaledger.schemas.events import Draft, Event, StreamNumber, Written, head
from metaledger.schemas.identity import Clock, NewId
from metaledger.schemas.log import NewRecord
from metaledger.schemas.meta import Origin
from metaledger.schemas.representable import representable

_MISSED_MAX = 2**63 - 1
_LONGEST_NUMBER = StreamNumber(
    stream_id="x" * STREAM_ID_CHARS_MAX, epoch=2**31 - 1, stream_seq=2**63 - 1
)
# These tell all that the database holds, so they mend whatever was not recorded before them.
MENDING = frozenset({Origin.RECONCILED, Origin.IMPORTED})
_NOTHING = Taken("", {})


@dataclass(frozen=True, slots=True)
class Numbered:
    """A record, and its `occurred_at`."""

    record: NewRecord
    occurred_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """What numbering needs of its surroundings."""

    codec: Codec
    clock: Clock
    new_id: NewId

    def number(
        self,
        connection: Connection,
        drafts: Sequence[Draft],
        *,
        unrecorded: Collection[str] = (),
        claimed: Mapping[str, StreamNumber] = MappingProxyType({}),
    ) -> list[Numbered]:
        """The drafts with their numbers, in the given order.

        `unrecorded` aggregates are locked with the others (one sorted order) and marked, unless a
        draft mends them. `claimed` are numbers that were given out to some aggregates' first
        drafts; those that none has are given back. Raises ContractError, UsageError.
        """
        left = dict(claimed)
        known = [draft.number or left.pop(draft.aggregate, None) for draft in drafts]
        claiming.give_back(connection, left)
        if not drafts and not unrecorded:
            return []
        own = Tally(
            draft.aggregate for draft, number in zip(drafts, known, strict=True) if number is None
        )
        increments = {**dict.fromkeys(unrecorded, 0), **own}
        require_storable(increments)
        # Who claimed has found the stream.
        taken = counters.take(connection, increments) if increments or not claimed else _NOTHING
        now = self.clock()
        _settle(connection, taken.counters, drafts, unrecorded, now)
        numbers = _numbers(drafts, known, taken, increments)
        return [
            self._numbered(draft, number, now)
            for draft, number in zip(drafts, numbers, strict=True)
        ]

    def numbered(self, draft: Draft, number: StreamNumber) -> Numbered:
        """The draft with this number, which is known to be its next. Raises ContractError."""
        return self._numbered(draft, number, self.clock())

    def written(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts with their data written, as small as `event_bytes_max` asks for.

        Raises ContractError, UsageError where one could not be recorded.
        """
        require_storable({draft.aggregate for draft in drafts})
        now = self.clock()
        return [replace(draft, data=self._written(draft, now)) for draft in drafts]

    def _written(self, draft: Draft, now: datetime) -> Written:
        if isinstance(draft.data, Written):
            return draft.data
        # As large as it can become: what fits now has to fit then.
        largest = replace(draft, number=draft.number or _LONGEST_NUMBER, missed=_MISSED_MAX)
        meta = head(largest, event_id=self.new_id(now), number=_LONGEST_NUMBER, occurred_at=now)
        try:
            written = write_data(draft.data)
            self.codec.encode_written(meta, written)
        except EventTooLarge:
            event, _ = encode_within(self.codec, Event(meta, draft.data))
            written = write_data(event.data)
        return written

    def _numbered(self, draft: Draft, number: StreamNumber, now: datetime) -> Numbered:
        event_id = draft.event_id or self.new_id(now)
        meta = head(draft, event_id=event_id, number=number, occurred_at=now)
        try:
            encoded = self.codec.encode_written(meta, write_data(draft.data))
        except EventTooLarge:
            if isinstance(draft.data, Written):
                raise
            _, encoded = encode_within(self.codec, Event(meta, draft.data))
        record = NewRecord(
            key=meta.aggregate,
            value=encoded.value,
            sha256=encoded.sha256,
            event_id=event_id,
            number=number,
        )
        return Numbered(record, meta.occurred_at)


def is_storable(name: str) -> bool:
    """Whether the tables can hold an aggregate of this name."""
    return len(name) <= AGGREGATE_CHARS_MAX and representable(name) == name


def require_storable(aggregates: Collection[str]) -> None:
    """Raises UsageError where a name is none that the tables can hold."""
    for name in aggregates:
        if len(name) > AGGREGATE_CHARS_MAX:
            raise UsageError(
                f"an aggregate's name has {len(name)} characters, and at most "
                f"{AGGREGATE_CHARS_MAX} are possible"
            )
        if not is_storable(name):
            raise UsageError(f"an aggregate's name has a NUL or half a surrogate: {name!a}")


def _numbers(
    drafts: Sequence[Draft],
    known: Sequence[StreamNumber | None],
    taken: Taken,
    increments: Mapping[str, int],
) -> list[StreamNumber]:
    stream_id, numbers = taken.stream_id, []
    given = {name: counter.seq - increments[name] for name, counter in taken.counters.items()}
    for draft, number in zip(drafts, known, strict=True):
        if number is not None:
            numbers.append(number)
            continue
        name = draft.aggregate
        given[name] += 1
        epoch = taken.counters[name].epoch
        numbers.append(StreamNumber(stream_id=stream_id, epoch=epoch, stream_seq=given[name]))
    return numbers


def _settle(
    connection: Connection,
    taken: Mapping[str, Counter],
    drafts: Sequence[Draft],
    unrecorded: Collection[str],
    now: datetime,
) -> None:
    """Sets and takes the marks of counters that are locked now."""
    marked = {name for name, counter in taken.items() if counter.unrecorded}
    if not marked and not unrecorded:
        return
    mended = {draft.aggregate for draft in drafts if draft.origin in MENDING}
    counters.unmark(connection, marked & mended)
    counters.mark(connection, set(unrecorded) - mended, now)

"""What a relay sends next, and what an answer of the log means: the pure core. No I/O, no clock.

The rules: order within an aggregate is that of its numbers and never that of the rows' ids. Sent is
what follows on what the log has (`seq + 1`), and nothing behind a number that is not there. What an
older epoch left goes first. Rows that another stream has numbered (they came with their numbers, as
from a file) are nobody's to hold back: they go in the order of their numbers.

Repeating is harmless (`event_id`), and so is sending by two relays at once, for each of them sends
a run without holes that begins with what was not acknowledged.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from metaledger.schemas.log import Outcome, Position, Refused

if TYPE_CHECKING:
    from metaledger.producers.counters import Stream

# The guard trusts the last report: what a reseed marks, which may take it some time, is told soon.
_RESEEDING = timedelta(seconds=30)
_WHILE_RESEEDING = timedelta(seconds=1)


class Waiting(NamedTuple):
    """A row of the outbox without its bytes, of which it has `value_bytes`."""

    id: int
    aggregate: str
    stream_id: str
    epoch: int
    stream_seq: int
    event_id: str
    value_bytes: int


@dataclass(frozen=True, slots=True)
class Sent:
    """How far the log has an aggregate's events of this stream. `held`: it refused the next one."""

    epoch: int = 0
    seq: int = 0
    held: bool = False


NOTHING_SENT = Sent()
_FIRST_EPOCH = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, in this order. `gaps`: the number that is missing before an aggregate's rows.

    A gap may only mean that these rows were not all that wait: read those aggregates whole.
    """

    rows: Sequence[Waiting]
    gaps: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settled:
    """What the log's answers mean. `sent` is how far it has each aggregate now."""

    acknowledged: Sequence[int] = ()
    sent: Mapping[str, Sent] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    unsent: Sequence[str] = ()


def sendable(
    rows: Iterable[Waiting],
    sent: Mapping[str, Sent],
    *,
    stream_id: str,
    whole: Collection[str] = (),
    bytes_max: int,
) -> Plan:
    """Plans from the rows that were read; at least one of those that may go, whatever its size.

    Only of `whole` aggregates is it known that all their rows are there, at least the first ones;
    only these may go over into a new epoch.
    """
    ready: list[Waiting] = []
    gaps: dict[str, str] = {}
    for (aggregate, stream), lane in _lanes(rows):
        if stream != stream_id:
            ready += lane
            continue
        state = sent.get(aggregate, NOTHING_SENT)
        run, gap = _run(lane, state, is_whole=aggregate in whole)
        ready += run[:1] if state.held else run
        if gap is not None:
            gaps[aggregate] = gap
    return Plan(_within(ready, bytes_max), gaps)


def settle(
    rows: Sequence[Waiting],
    outcomes: Sequence[Outcome],
    sent: Mapping[str, Sent],
    *,
    stream_id: str,
) -> Settled:
    """What to delete and to note, given one outcome for each of a plan's rows.

    Behind what the log does not have, an acknowledged row stays too and is sent again: the numbers
    before it come first.
    """
    acknowledged: list[int] = []
    now_sent: dict[str, Sent] = {}
    refused: dict[str, str] = {}
    unsent: list[str] = []
    stopped: set[tuple[str, str]] = set()
    for row, outcome in zip(rows, outcomes, strict=True):
        lane = (row.aggregate, row.stream_id)
        if lane in stopped:
            continue
        if isinstance(outcome, Position):
            acknowledged.append(row.id)
            before = now_sent.get(row.aggregate) or sent.get(row.aggregate, NOTHING_SENT)
            if row.stream_id == stream_id:
                now_sent[row.aggregate] = _moved(before, row)
            elif before.held:
                now_sent[row.aggregate] = replace(before, held=False)
            continue
        stopped.add(lane)
        if isinstance(outcome, Refused):
            refused[row.aggregate] = outcome.reason
        else:
            unsent.append(outcome.reason)
    return Settled(acknowledged, now_sent, refused, unsent)


def _lanes(rows: Iterable[Waiting]) -> Iterable[tuple[tuple[str, str], list[Waiting]]]:
    """The rows of each aggregate and stream in the order of their numbers; older rows first."""
    lanes: dict[tuple[str, str], list[Waiting]] = {}
    for row in sorted(rows, key=lambda row: (row.epoch, row.stream_seq)):
        lanes.setdefault((row.aggregate, row.stream_id), []).append(row)
    return sorted(lanes.items(), key=lambda item: item[1][0].id)


def _run(
    lane: Sequence[Waiting], state: Sent, *, is_whole: bool
) -> tuple[list[Waiting], str | None]:
    """The rows that follow on what was sent, without a hole, and the number that is missing."""
    run: list[Waiting] = []
    epoch, seq = state.epoch, state.seq
    for row in lane:
        is_oldest = is_whole or row.epoch == _FIRST_EPOCH
        begins = row.epoch > epoch and row.stream_seq == 1 and is_oldest
        if begins or (row.epoch == epoch and row.stream_seq == seq + 1):
            epoch, seq = row.epoch, row.stream_seq
        elif (row.epoch, row.stream_seq) > (epoch, seq):
            missing = seq + 1 if row.epoch == epoch else 1
            return run, f"number {missing} of epoch {row.epoch} is not there"
        # Else the log has it already, and it is sent as a repeat: dropping it could be a loss.
        run.append(row)
    return run, None


def _within(rows: Sequence[Waiting], bytes_max: int) -> Sequence[Waiting]:
    total = 0
    for index, row in enumerate(rows):
        total += row.value_bytes
        if total > bytes_max and index > 0:
            return rows[:index]
    return rows


def _moved(before: Sent, row: Waiting) -> Sent:
    if (row.epoch, row.stream_seq) <= (before.epoch, before.seq):
        return replace(before, held=False)
    return Sent(row.epoch, row.stream_seq)


def is_report_due(
    source: "Stream", reported_at: datetime | None, now: datetime, *, interval: timedelta
) -> bool:
    """Whether it is to be told how the source is, which was told at `reported_at` last."""
    if reported_at is None:
        return True
    began_at = source.epoch_began_at if source.epoch > 1 else None
    if began_at is not None and now < began_at + _RESEEDING:
        interval = min(interval, _WHILE_RESEEDING)
    return now >= reported_at + interval

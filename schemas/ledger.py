"""The events of the ledger itself: the progress of its sources, and what operators decided.

Decisions are events, so that a replay comes to the same end (EVENTS.md, "Of the ledger itself").
They stand on the aggregate that waits, and act at once although that aggregate is parked. A record
without a readable key is an aggregate of its own, which has such decisions and nothing else.
"""

from dataclasses import dataclass
from datetime import datetime

RECORD_KIND = "record"


def record_aggregate(topic_id: str, log_partition: int, log_offset: int) -> str:
    """The aggregate that a record without a readable key is."""
    return f"{RECORD_KIND}:{topic_id}/{log_partition}/{log_offset}"


class _OfAnyAggregate:
    """What these events share: their data does not name their aggregate, only `meta` does."""

    __slots__ = ()

    @property
    def aggregate(self) -> None:
        """Nothing: `meta.aggregate` must be given."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceProgressed(_OfAnyAggregate):
    """A stream's relay reports, for one partition, how far its source is.

    Its aggregate is `stream:<stream_id>/<partition>`. Everything of that stream and partition that
    was committed before `oldest_unsent_at` is in the log; None: nothing waits.
    """

    oldest_unsent_at: datetime | None = None
    rows_waiting: int
    rows_max: int
    unrecorded_aggregates: int
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GapAccepted(_OfAnyAggregate):
    """An operator accepts that these numbers of a stream will never come."""

    gap_stream_id: str
    gap_epoch: int
    from_seq: int
    to_seq: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSkipped(_OfAnyAggregate):
    """An operator decides that a quarantined record is never to be folded."""

    topic_id: str
    log_partition: int
    log_offset: int
    reason: str


LedgerEvent = SourceProgressed | GapAccepted | RecordSkipped
LEDGER_EVENTS = (SourceProgressed, GapAccepted, RecordSkipped)

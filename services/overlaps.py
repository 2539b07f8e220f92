"""Which types of events are told by two, though each has one owner (`producers/owners`). Pure.

A service's name alone does not say who tells, for `[metaledger] service` is whatever an operator
writes. So the streams are looked at as well: one that reports its progress is a service's outbox or
spool, and is of one place; one that reports none is the operators' own (`emit`), who may tell any
type, in a ledger that is fed from files alone.

Only what was told lately is an overlap: a trial is over when it is over.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from metaledger.producers.owners import OWNERS, Owner
from metaledger.schemas.events import EVENT_BY_TYPE
from metaledger.schemas.times import time_text
from metaledger.services.terminal import seconds_only

# Long enough for what happens once a week, and short enough for who made a trial.
LATELY = timedelta(days=7)

# Owners that write through one stream.
_PLACES: Mapping[Owner, str] = {
    Owner.ENGINE_PLUGIN: "a service's database",
    Owner.NOTIFICATION_DRIVER: "nova-compute",
    Owner.DISK_HOOK: "nova-compute",
    Owner.EMIT: "operators",
    Owner.RELAY: "the relay",
}

Row = Mapping[str, Any]


def overlaps(told: Sequence[Row], reporting: Collection[str]) -> list[str]:
    """A sentence for each overlap.

    `told` has for each type, service and stream how many `events` it told lately and when the last
    (`last_recorded_at`); `reporting` are the streams that report their progress.
    """
    return [*_of_types(told, reporting), *_of_streams(told, reporting)]


def _of_types(told: Sequence[Row], reporting: Collection[str]) -> Iterator[str]:
    """Types that two services tell, or a service and operators in its name."""
    by_type: dict[str, dict[tuple[str, bool], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in told:
        teller = row["service"], row["stream_id"] not in reporting
        by_type[row["event_type"]][teller].append(row)
    for event_type, tellers in by_type.items():
        if len(tellers) > 1:
            each = " and ".join(
                f"{service} ({_counted(rows, ' from files' if is_emitted else '')})"
                for (service, is_emitted), rows in tellers.items()
            )
            yield (
                f"{event_type} is written by {each}: a fact has one owner, and this one's is the "
                f"{_owner(event_type).value}"
            )


def _of_streams(told: Sequence[Row], reporting: Collection[str]) -> Iterator[str]:
    """Streams of services that tell what has owners in two places."""
    by_stream: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in told:
        if row["stream_id"] in reporting:
            place = _PLACES[_owner(row["event_type"])]
            by_stream[row["stream_id"]][place].append(row)
    for stream_id, places in by_stream.items():
        if len(places) > 1:
            each = " and ".join(
                f"{rows[0]['event_type']} ({_counted(rows)}), which is told in {place}"
                for place, rows in places.items()
            )
            yield f"the stream {stream_id} tells {each}: a stream is of one place"


def _owner(event_type: str) -> Owner:
    return OWNERS[EVENT_BY_TYPE[event_type]]


def _counted(rows: Sequence[Row], how: str = "") -> str:
    events = sum(row["events"] for row in rows)
    last = max(row["last_recorded_at"] for row in rows)
    return f"{events:,}{how}, the last at {seconds_only(time_text(last))}"

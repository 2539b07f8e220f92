"""What every event carries, whatever it tells: identity, stream, origin and context.

Pure values, named exactly as in the Avro schemas and the JSON form (EVENTS.md, `meta`). A `Meta`
is complete; before the outbox has given an event its number there is only a `Context` (who did it,
on whose behalf), so that an event without a number cannot be mistaken for a recorded one.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Origin(StrEnum):
    """How the ledger came to know: seen as it happened, at cold start, or to mend a gap."""

    OBSERVED = "OBSERVED"
    IMPORTED = "IMPORTED"
    RECONCILED = "RECONCILED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Who saw the change, and the request that it belongs to."""

    service: str
    host: str
    deployment_id: str = "default"
    request_id: str | None = None
    global_request_id: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    causation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The head of every event.

    `aggregate` is `<kind>:<id>` and the Kafka key. `stream_seq` counts 1, 2, 3 … for each
    (aggregate, stream, epoch). `occurred_at` is aware, in UTC, to the microsecond. `missed` counts
    the changes that the process failed to record since its last event.
    """

    event_id: str
    deployment_id: str = "default"
    aggregate: str
    stream_id: str
    epoch: int
    stream_seq: int
    occurred_at: datetime
    service: str
    host: str
    origin: Origin = Origin.OBSERVED
    missed: int = 0
    request_id: str | None = None
    global_request_id: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    causation_id: str | None = None

"""All events, and the envelope in which one travels. Pure.

An aggregate is added by its own file of event classes and one line in `EVENTS` and `EventData`
below. In the life of an event this is its first form; `codec` gives it its bytes, `jsonform` its
text.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from metaledger.schemas.disk import DISK_EVENTS, DiskEvent
from metaledger.schemas.hypervisor import HYPERVISOR_EVENTS, HypervisorEvent
from metaledger.schemas.image import IMAGE_EVENTS, ImageEvent
from metaledger.schemas.instance import INSTANCE_EVENTS, InstanceEvent
from metaledger.schemas.ledger import LEDGER_EVENTS, LedgerEvent
from metaledger.schemas.meta import Context, Meta, Origin

EventData = ImageEvent | InstanceEvent | DiskEvent | HypervisorEvent | LedgerEvent
EVENTS: tuple[type[EventData], ...] = (
    *IMAGE_EVENTS,
    *INSTANCE_EVENTS,
    *DISK_EVENTS,
    *HYPERVISOR_EVENTS,
    *LEDGER_EVENTS,
)
EVENT_BY_TYPE: dict[str, type[EventData]] = {event.__name__: event for event in EVENTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamNumber:
    """Where an event stands in its stream: `stream_seq` counts from 1 for each aggregate."""

    stream_id: str
    epoch: int
    stream_seq: int


@dataclass(frozen=True, slots=True)
class Written:
    """Data that has its bytes already (`codec.write_data`), for they hang on nothing that comes
    later: whoever checks an event long before it is recorded keeps these, and not the data.
    """

    type: str
    aggregate: str | None
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event before it is recorded: what it tells and by whom, without its number.

    `aggregate` must be given where `data.aggregate` is None. What is None here is filled in when
    the event is recorded: a fresh UUIDv7, the next number, the time under the counter's lock.
    """

    data: EventData | Written
    aggregate: str
    context: Context
    origin: Origin = Origin.OBSERVED
    missed: int = 0
    event_id: str | None = None
    occurred_at: datetime | None = None
    number: StreamNumber | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A fact: its head and what it tells. `data.aggregate` is None where only `meta` names it."""

    meta: Meta
    data: EventData

    @property
    def type(self) -> str:
        """The event's type, as in Avro, SQL and JSON."""
        return type(self.data).__name__


# The one text form of a UUID: identity is compared as text.
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_event_id(text: str) -> bool:
    """Whether the text is a UUID in the form in which event ids are written."""
    return _UUID.fullmatch(text) is not None


def head_flaw(meta: Meta, told: str | None) -> str | None:
    """Where the head breaks what its types cannot say, as `<path>: <what>`; None: nowhere.

    `told` is the aggregate that the data names, if it names one.
    """
    if not is_event_id(meta.event_id):
        return "meta.event_id: no UUID in lower case"
    if not all(meta.aggregate.partition(":")):
        return "meta.aggregate: not <kind>:<id>"
    if told is not None and told != meta.aggregate:
        return "meta.aggregate: not the aggregate of the data"
    if not meta.stream_id or meta.epoch < 1 or meta.stream_seq < 1:
        return "meta.stream_seq: no number from 1, of an epoch from 1, of a named stream"
    return None


def recorded(draft: Draft, *, event_id: str, number: StreamNumber, occurred_at: datetime) -> Event:
    """The event that the draft becomes; what the draft gave itself stands. Not for Written data."""
    if isinstance(draft.data, Written):
        raise TypeError("an event of written data has no other form than its bytes")
    meta = head(draft, event_id=event_id, number=number, occurred_at=occurred_at)
    return Event(meta, draft.data)


def head(draft: Draft, *, event_id: str, number: StreamNumber, occurred_at: datetime) -> Meta:
    """The head of the event that the draft becomes; what the draft gave itself stands."""
    number = draft.number or number
    who = draft.context
    return Meta(
        event_id=draft.event_id or event_id,
        deployment_id=who.deployment_id,
        aggregate=draft.aggregate,
        stream_id=number.stream_id,
        epoch=number.epoch,
        stream_seq=number.stream_seq,
        occurred_at=draft.occurred_at or occurred_at,
        service=who.service,
        host=who.host,
        origin=draft.origin,
        missed=draft.missed,
        request_id=who.request_id,
        global_request_id=who.global_request_id,
        user_id=who.user_id,
        project_id=who.project_id,
        causation_id=who.causation_id,
    )

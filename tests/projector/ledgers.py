"""A real log for the tests, with all control over what goes into it, and the way out of it."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from metaledger.projector.project import Progress, Settings, bring_up_to_end
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Draft, Event, EventData, StreamNumber, recorded
from metaledger.schemas.identity import derived_id
from metaledger.schemas.image import ImageRegistered, ImageUpdated, Mode, PropertyChange
from metaledger.schemas.log import (
    Log,
    LogReader,
    LogRecord,
    NewRecord,
    Position,
    Positions,
)
from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log
from metaledger.schemas.meta import Context, Origin

from ..store.readmodels import store_of

AT = datetime(2026, 11, 21, 13, 0, tzinfo=UTC)
RECORDED_AT = AT + timedelta(days=1)
CONTEXT = Context(service="glance-api", host="controller-1")
CODEC = Codec()
# Every record of these small logs may be poison.
TOLERANT = Settings(poison_records_min=1_000_000)


def registered(image: str = "a", **properties: str) -> ImageRegistered:
    return ImageRegistered(image_id=image, status="queued", properties=properties)


def updated(image: str = "a", **properties: str) -> ImageUpdated:
    change = PropertyChange(mode=Mode.MERGE, set=properties)
    return ImageUpdated(image_id=image, change=change)


def event(
    data: EventData,
    seq: int,
    *,
    stream: str = "glance-1",
    event_id: str | None = None,
    aggregate: str | None = None,
    at: datetime | None = None,
    missed: int = 0,
    deployment_id: str = "default",
    origin: Origin = Origin.OBSERVED,
) -> Event:
    """An event with the number `seq`; its id follows from aggregate, stream and number."""
    name = aggregate or data.aggregate
    assert name is not None
    draft = Draft(
        data=data,
        aggregate=name,
        context=replace(CONTEXT, deployment_id=deployment_id),
        missed=missed,
        origin=origin,
    )
    return recorded(
        draft,
        event_id=event_id or derived_id("test", name, stream, seq),
        number=StreamNumber(stream_id=stream, epoch=1, stream_seq=seq),
        occurred_at=at or AT + timedelta(minutes=seq),
    )


def record(of: Event) -> NewRecord:
    """The event as its relay appends it."""
    encoded = CODEC.encode(of)
    meta = of.meta
    return NewRecord(
        key=meta.aggregate,
        value=encoded.value,
        sha256=encoded.sha256,
        event_id=meta.event_id,
        number=StreamNumber(stream_id=meta.stream_id, epoch=meta.epoch, stream_seq=meta.stream_seq),
    )


def damaged(of: Event) -> NewRecord:
    """The event's record with a byte that fell over; what stands beside the value is whole."""
    whole = record(of)
    return replace(whole, value=whole.value[:-1] + bytes([whole.value[-1] ^ 1]))


def garbage(of: Event, value: bytes = b"garbage") -> NewRecord:
    """A record with the event's name on it and nothing of it inside."""
    return replace(record(of), value=value, sha256=hashlib.sha256(value).digest())


@dataclass
class Ledger:
    """An embedded log. Its clock stands still, so that two logs of the same records are equal."""

    path: Path
    log: EmbeddedLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = create_embedded_log(
            self.path, clock=lambda: RECORDED_AT, new_id=lambda _now: "the-log"
        )

    def append(self, *records: Event | NewRecord) -> list[Position]:
        new = [record(item) if isinstance(item, Event) else item for item in records]
        outcomes = self.log.writer().append(new)
        assert all(isinstance(outcome, Position) for outcome in outcomes), outcomes
        return [outcome for outcome in outcomes if isinstance(outcome, Position)]

    def project(self, url: str, settings: Settings = TOLERANT, log: Log | None = None) -> Progress:
        """Brings the read model at `url` up to the end of the log."""
        with store_of(url) as store:
            return bring_up_to_end(log or self.log, store, CODEC, settings=settings)


@dataclass
class Hooked:
    """A log whose reader passes what it reads through a hook; all else is the log's own."""

    log: Log
    hook: Callable[[Sequence[LogRecord]], Iterable[LogRecord]] = lambda records: records
    sizes: Iterable[int] = ()
    # The log's own readers, for those who want to disturb them.
    readers: list[LogReader] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def reader(self, positions: Positions, *, group: str | None = None) -> LogReader:
        self.readers.append(self.log.reader(positions, group=group))
        return _HookedReader(self, self.readers[-1])


class _HookedReader:
    def __init__(self, hooked: Hooked, reader: LogReader) -> None:
        self._hooked = hooked
        self._reader = reader
        self._sizes = iter(hooked.sizes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[LogRecord]:
        size = min(records_max, next(self._sizes, records_max))
        return list(self._hooked.hook(self._reader.poll(records_max=size, timeout_s=timeout_s)))


# A batch a poll: nothing is gathered after the first.
POLL_IS_BATCH = replace(TOLERANT, batch_time_max_s=0.0)


def split(log: Log, sizes: Iterable[int]) -> Hooked:
    """The log read in batches of these sizes, where POLL_IS_BATCH is set."""
    return Hooked(log, sizes=sizes)

"""Random histories of images.

`realistic` simulates a service with a database of its own: what it records is true, apart from what
it failed to record and what it did against its own rules. `wild` says anything that the contract
lets one say. Both give events in the log's order with times that never go back, as intake admits
them. `event` and `fact` make any aggregate's.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from metaledger.projector.folds import Fact
from metaledger.schemas.digest import properties_digest, text_digest
from metaledger.schemas.events import Event, EventData
from metaledger.schemas.identity import derived_id
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.log import Position
from metaledger.schemas.meta import Meta, Origin

START = datetime(2026, 11, 21, 13, 0, tzinfo=UTC)
IMAGE = "f411e336-fdd2-4d9b-8fd6-78dfe6809d3b"
BIG = "as large as it gets"

KEYS = st.sampled_from(["a", "b", "c", "d", "image_type", "os_glance_import", "schlüssel"])
VALUES = st.sampled_from(
    [None, "", "1", "2", "snapshot", BIG, text_digest(BIG), "\u202e\U0001f4be"]
)
MAPS = st.dictionaries(KEYS, VALUES, max_size=5)
KEY_LISTS = st.lists(KEYS, max_size=4).map(tuple)
ORIGINS = st.sampled_from(
    [Origin.OBSERVED, Origin.OBSERVED, Origin.OBSERVED, Origin.IMPORTED, Origin.RECONCILED]
)
TAGS = st.lists(st.sampled_from(["x", "y", 'quoted "', "ü\n"]), max_size=3).map(tuple)
TEXTS = st.sampled_from([None, "one", "two"])
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["name", "status", "visibility", "location_count", "size", "tags", "a"]),
    st.sampled_from([None, "one", "17", "9" * 30, "true"]),
    max_size=3,
)
# How long after the event before it: at the same moment, too.
PAUSES = st.sampled_from([0, 0, 1, 999_999, 60_000_000])


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def event(
    data: EventData,
    *,
    number: int,
    at: datetime,
    origin: Origin = Origin.OBSERVED,
    stream_id: str = "glance-1",
) -> Event:
    """An event of `data`; its id follows from aggregate, stream and number."""
    aggregate = data.aggregate
    assert aggregate is not None
    meta = Meta(
        event_id=derived_id("test", aggregate, stream_id, number),
        aggregate=aggregate,
        stream_id=stream_id,
        epoch=1,
        stream_seq=number,
        occurred_at=at,
        service="glance-api",
        host="controller-1",
        origin=origin,
    )
    return Event(meta, data)


def fact(of: Event, offset: int = 0) -> Fact:
    """The event as intake admits it where no clock went back."""
    at = of.meta.occurred_at
    return Fact(of, Position(0, offset), at, at)


# --- anything that the contract lets one say

_WILD_CHANGES = st.builds(
    PropertyChange,
    mode=st.sampled_from([Mode.MERGE, Mode.PURGE]),
    set=MAPS,
    removed=_maybe(KEY_LISTS),
    seen=_maybe(KEY_LISTS),
    exempt=KEY_LISTS,
    before=_maybe(MAPS),
    after=_maybe(MAPS),
    before_digest=_maybe(MAPS.map(properties_digest)),
    after_digest=_maybe(MAPS.map(properties_digest)),
    altered=st.just(()) | KEY_LISTS,
)
_HASHES = {"checksum": TEXTS, "os_hash_algo": TEXTS, "os_hash_value": TEXTS}
_UPLOADS = {"size": st.integers(-1, 2**63 - 1), "status": st.just("active"), **_HASHES}


def _wild_data(image_id: str) -> st.SearchStrategy[EventData]:
    this = st.just(image_id)
    return st.one_of(
        st.builds(
            ImageRegistered,
            image_id=this,
            name=TEXTS,
            status=st.sampled_from(["queued", "active"]),
            owner=TEXTS,
            visibility=TEXTS,
            disk_format=TEXTS,
            container_format=TEXTS,
            min_disk=_maybe(st.integers(0, 9)),
            min_ram=_maybe(st.integers(0, 9)),
            protected=_maybe(st.booleans()),
            tags=TAGS,
            properties=MAPS,
            altered=st.just(()) | KEY_LISTS,
            attributes=st.just({}) | ATTRIBUTES,
        ),
        st.builds(
            ImageUpdated,
            image_id=this,
            attributes=ATTRIBUTES,
            tags=_maybe(TAGS),
            change=_WILD_CHANGES,
        ),
        st.builds(
            SnapshotUploaded,
            image_id=this,
            instance_uuid=st.just("instance"),
            change=_WILD_CHANGES,
            **_UPLOADS,
        ),
        st.builds(ImageDataUploaded, image_id=this, change=_WILD_CHANGES, **_UPLOADS),
        st.builds(ImageDeleted, image_id=this, deleted_at=st.just(START)),
    )


@st.composite
def wild(draw: st.DrawFn, image_id: str = IMAGE, *, events_max: int = 8) -> list[Event]:
    """Anything, in any order."""
    at = START
    events = []
    for number in range(1, draw(st.integers(1, events_max)) + 1):
        at += timedelta(microseconds=draw(PAUSES))
        data = draw(_wild_data(image_id))
        events.append(event(data, number=number, at=at, origin=draw(ORIGINS)))
    return events


# --- a service with a database

_TELLINGS = st.sampled_from(["images", "images", "digests", "nothing"])


@st.composite
def realistic(
    draw: st.DrawFn, image_id: str = IMAGE, *, events_max: int = 12, faults: bool = True
) -> list[Event]:
    """A service's life with an image; with `faults` some goes unrecorded or against its rules."""
    service = _Service(draw, image_id, faults=faults)
    for _ in range(draw(st.integers(1, events_max))):
        service.step()
    return service.events


class _Service:
    """What a service holds of one image, and the events that it wrote."""

    def __init__(self, draw: st.DrawFn, image_id: str, *, faults: bool) -> None:
        self.draw = draw
        self.image_id = image_id
        self.faults = faults
        self.properties: dict[str, str | None] = {}
        self.state = "absent"
        self.unrecorded = False
        self.at = START
        self.events: list[Event] = []

    def step(self) -> None:
        """One request: registers what is absent, updates or deletes what is there."""
        self.at += timedelta(microseconds=self.draw(PAUSES))
        if self.unrecorded and self.draw(st.booleans()):
            self._mend()
        if self.state == "absent":
            self._register()
        elif self.state == "deleted" or self.draw(st.integers(0, 9)) == 0:
            self._delete()
        else:
            self._change()

    def _write(self, data: EventData, origin: Origin = Origin.OBSERVED) -> None:
        if self.faults and origin is Origin.OBSERVED and self.draw(st.integers(0, 5)) == 0:
            self.unrecorded = True
            return
        number = len(self.events) + 1
        self.events.append(event(data, number=number, at=self.at, origin=origin))

    def _register(self) -> None:
        self.properties = dict(self.draw(MAPS))
        data = ImageRegistered(
            image_id=self.image_id,
            name=self.draw(TEXTS),
            status="queued",
            tags=self.draw(TAGS),
            properties=dict(self.properties),
            attributes=self.draw(ATTRIBUTES),
        )
        self.state = "there"
        self._write(data, self.draw(st.sampled_from([Origin.OBSERVED, Origin.IMPORTED])))

    def _delete(self) -> None:
        self.properties = {}
        self.state = "deleted"
        self._write(ImageDeleted(image_id=self.image_id, deleted_at=self.at))

    def _mend(self) -> None:
        held = dict(self.properties)
        change = PropertyChange(mode=Mode.PURGE, set=held, after=held)
        self._write(ImageUpdated(image_id=self.image_id, change=change), Origin.RECONCILED)
        self.unrecorded = False

    def _change(self) -> None:
        before = dict(self.properties)
        change = self._intent(before)
        after = dict(change.set)
        if change.mode is Mode.MERGE:
            after = {**before, **after}
            for key in change.removed or ():
                after.pop(key, None)
        else:
            after = {**{k: before[k] for k in change.exempt if k in before}, **after}
        if self.faults and self.draw(st.integers(0, 7)) == 0:
            after = dict(self.draw(MAPS))
        self.properties = after
        telling = self.draw(_TELLINGS)
        if telling == "images":
            change = replace(change, before=before, after=dict(after))
        elif telling == "digests":
            digests = properties_digest(before), properties_digest(after)
            change = replace(change, before_digest=digests[0], after_digest=digests[1])
        self._write(self._of(change))

    def _intent(self, before: dict[str, str | None]) -> PropertyChange:
        """A merge, or a set that was read, changed and sent back: by one who read it late too."""
        draw = self.draw
        some = st.lists(st.sampled_from(sorted(before) or ["a"]), max_size=2).map(tuple)
        if draw(st.booleans()):
            known = draw(_maybe(some))
            return PropertyChange(mode=Mode.MERGE, set=draw(MAPS), removed=known)
        missed = set(draw(some))
        read = {key: value for key, value in before.items() if key not in missed}
        dropped = draw(some)
        new = {**{k: v for k, v in read.items() if k not in dropped}, **draw(MAPS)}
        knows = draw(st.sampled_from(["removed", "seen", "nothing"]))
        return PropertyChange(
            mode=Mode.PURGE,
            set=new,
            removed=dropped if knows == "removed" else None,
            seen=tuple(read) if knows == "seen" else None,
            exempt=draw(st.sampled_from([(), ("os_glance_import",)])),
        )

    def _of(self, change: PropertyChange) -> EventData:
        kind = self.draw(st.integers(0, 5))
        if kind == 0:
            return SnapshotUploaded(image_id=self.image_id, size=1, status="active", change=change)
        if kind == 1:
            return ImageDataUploaded(image_id=self.image_id, size=1, status="active", change=change)
        tags = self.draw(_maybe(TAGS))
        attributes = self.draw(ATTRIBUTES)
        return ImageUpdated(image_id=self.image_id, attributes=attributes, tags=tags, change=change)

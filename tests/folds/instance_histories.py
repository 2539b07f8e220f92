"""Random histories of instances with their disks.

`realistic` simulates a cloud with a database of its own: what it records is true, apart from what
it failed to record and what it did against its own rules. `wild` says anything that the contract
lets one say. `owner` says who would have told an event: streams of two owners have no order between
them but the log's.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from hypothesis import strategies as st

from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskEvent,
    DiskLayout,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
    DiskSource,
    SourceKind,
)
from metaledger.schemas.events import Event, EventData
from metaledger.schemas.instance import (
    DestroyJudged,
    InstanceBooted,
    InstanceDeleted,
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceRescued,
    InstanceSystemMetadataSaved,
    InstanceUnrescued,
    RelocationCause,
    SnapshotPurpose,
    SnapshotTaken,
    Verdict,
)

from .histories import ORIGINS, PAUSES, START, event

INSTANCE = "5c0c7a31-2f4e-4f0a-8f0e-61c1a3f70b21"
BASE = "image_base_image_ref"
KEYS = st.sampled_from([BASE, "image_a", "image_b", "image_", "owner", "IMAGE_c", "image_ref"])
VALUES = st.sampled_from([None, "", "1", "2", "i-1", "i-2", "\u202e\U0001f4be"])
MAPS = st.dictionaries(KEYS, VALUES, max_size=5)
IMAGES = st.sampled_from(["i-1", "i-2", ""])
KEY_LISTS = st.just(()) | st.lists(KEYS, max_size=2).map(tuple)
OPERATIONS = st.sampled_from(["attach_interface", "rebuild", "resize", "shelve"])
HYPERVISORS = st.sampled_from([None, "hv-1", "hv-2", ""])
HOSTS = st.sampled_from([None, "a", "b"])
DISKS = st.sampled_from(["disk", "disk.swap"])
REQUESTS = st.sampled_from([None, "req-1", "req-2"])


def _said(enum: type[StrEnum]) -> st.SearchStrategy[Any]:
    return st.sampled_from([each for each in enum if str(each) != "UNKNOWN"])


LAYOUTS = st.builds(
    DiskLayout,
    version=st.just("1.0"),
    backend=st.sampled_from(["qcow2", "flat"]),
    format=st.just("raw"),
    size_bytes=st.sampled_from([1, 2**63 - 1]),
    source=st.builds(
        DiskSource,
        kind=_said(SourceKind),
        image_id=st.sampled_from([None, "i-1"]),
        function=st.none(),
    ),
    location=st.none(),
    extra=st.sampled_from([{}, {"a": None}]),
)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def _wild_data(name: str) -> st.SearchStrategy[EventData]:
    this = {"instance_uuid": st.just(name)}
    told = {"altered": KEY_LISTS, **this}
    disk = {"disk": DISKS, **this}
    return st.one_of(
        st.builds(
            InstanceBooted,
            image_ref=_maybe(IMAGES),
            system_metadata=MAPS,
            flavor=st.sampled_from([None, "m1"]),
            hypervisor_id=HYPERVISORS,
            host=HOSTS,
            **told,
        ),
        st.builds(
            InstanceSystemMetadataSaved,
            operation=OPERATIONS,
            before=_maybe(MAPS),
            after=MAPS,
            **told,
        ),
        st.builds(
            SnapshotTaken,
            snapshot_image_id=IMAGES,
            purpose=_said(SnapshotPurpose),
            properties=MAPS,
            **told,
        ),
        st.builds(
            InstanceRebuilt,
            previous_image_ref=_maybe(IMAGES),
            image_ref=IMAGES,
            before=_maybe(MAPS),
            after=_maybe(MAPS),
            **told,
        ),
        st.builds(InstanceRebuildRolledBack, image_ref=_maybe(IMAGES), after=_maybe(MAPS), **told),
        st.builds(InstanceRescued, rescue_image_ref=IMAGES, rescue_metadata=MAPS, **told),
        st.builds(InstanceUnrescued, **this),
        st.builds(
            InstanceRelocated,
            cause=_said(RelocationCause),
            from_hypervisor_id=HYPERVISORS,
            to_hypervisor_id=HYPERVISORS,
            from_host=HOSTS,
            to_host=HOSTS,
            **this,
        ),
        st.builds(InstanceDeleted, deleted_at=st.just(START), **this),
        st.builds(
            DestroyJudged,
            hypervisor_id=st.just("hv-1"),
            host=st.just("a"),
            verdict=st.sampled_from(Verdict),
            reason=st.just("r"),
            **this,
        ),
        st.builds(DiskCreationStarted, layout=LAYOUTS, **disk),
        st.builds(DiskCreated, layout=_maybe(LAYOUTS), **disk),
        st.builds(DiskCreationFailed, error=st.just("e"), **disk),
        st.builds(DiskLayoutBackfilled, layout=LAYOUTS, **disk),
        st.builds(DiskLayoutChanged, layout=LAYOUTS, reason=st.just("r"), **disk),
        st.builds(DiskDeleted, **disk),
    )


@st.composite
def wild(draw: st.DrawFn, name: str = INSTANCE, *, events_max: int = 10) -> list[Event]:
    """Anything, in any order."""
    at = START
    events = []
    for number in range(1, draw(st.integers(1, events_max)) + 1):
        at += timedelta(microseconds=draw(PAUSES))
        told = event(draw(_wild_data(name)), number=number, at=at, origin=draw(ORIGINS))
        events.append(_asked(told, draw(REQUESTS)))
    return events


# A resize loses the base of an instance that runs from a volume: no image is none of its bases.
LOST_BASE = [
    event(
        InstanceBooted(instance_uuid=INSTANCE, system_metadata={BASE: "i-1"}), number=1, at=START
    ),
    event(
        InstanceSystemMetadataSaved(instance_uuid=INSTANCE, operation="resize", after={}),
        number=2,
        at=START,
    ),
]


def _asked(told: Event, request_id: str | None) -> Event:
    return Event(replace(told.meta, request_id=request_id), told.data)


def owner(told: Event) -> str:
    """Who tells of it: the service's database, what the compute side sees, or the guard."""
    match told.data:
        case InstanceRescued() | InstanceUnrescued():
            return "rescue"
        case SnapshotTaken():
            return "snapshots"
        case DestroyJudged():
            return "guard"
        case data if isinstance(data, DiskEvent):
            return f"disk {data.disk}"
        case _:
            return "database"


# --- a cloud with a database


@st.composite
def realistic(
    draw: st.DrawFn, name: str = INSTANCE, *, events_max: int = 14, faults: bool = True
) -> list[Event]:
    """The life of an instance; with `faults` some goes unrecorded or against the rules."""
    cloud = _Cloud(draw, name, faults=faults)
    for _ in range(draw(st.integers(1, events_max))):
        cloud.step()
    return cloud.events


class _Cloud:
    """What a cloud holds of one instance, and the events that it wrote."""

    def __init__(self, draw: st.DrawFn, name: str, *, faults: bool) -> None:
        self.draw = draw
        self.name = name
        self.faults = faults
        self.stored: dict[str, str | None] = {}
        self.image_ref = ""
        self.before_rebuild: str | None = None
        self.place: tuple[str | None, str | None] = (None, None)
        self.disks: dict[str, DiskLayout] = {}
        self.state = "absent"
        self.at = START
        self.events: list[Event] = []

    def step(self) -> None:
        """One request."""
        self.at += timedelta(microseconds=self.draw(PAUSES))
        if self.state == "absent":
            self._boot()
        elif self.state == "deleted":
            self._write(DiskDeleted(instance_uuid=self.name, disk=self.draw(DISKS)))
        else:
            choices = [
                self._save,
                self._save,
                self._rebuild,
                self._rebuild,
                self._roll_back,
                self._relocate,
                self._rescue,
                self._snapshot,
                self._disk,
                self._disk,
                self._delete,
            ]
            choices[self.draw(st.integers(0, len(choices) - 1))]()

    def _write(self, data: EventData, request_id: str | None = None) -> None:
        if self.faults and self.draw(st.integers(0, 7)) == 0:
            return
        number = len(self.events) + 1
        self.events.append(_asked(event(data, number=number, at=self.at), request_id))

    def _boot(self) -> None:
        self.stored = dict(self.draw(MAPS))
        self.image_ref = self.draw(IMAGES)
        self.state = "there"
        self._write(
            InstanceBooted(
                instance_uuid=self.name,
                image_ref=self.image_ref,
                system_metadata=dict(self.stored),
                flavor="m1",
            )
        )

    def _stored_as(self, after: Mapping[str, str | None]) -> dict[str, Any]:
        before, self.stored = dict(self.stored), dict(after)
        told = self.draw(st.booleans())
        return {"before": before if told else None, "after": dict(after)}

    def _save(self) -> None:
        after = {**self.stored, **self.draw(MAPS)} if self.draw(st.booleans()) else self.stored
        change = self._stored_as(after)
        operation = self.draw(st.sampled_from(["attach_interface", "resize", "shelve"]))
        self._write(
            InstanceSystemMetadataSaved(instance_uuid=self.name, operation=operation, **change)
        )

    def _rebuild(self) -> None:
        self.before_rebuild, self.image_ref = self.image_ref, self.draw(IMAGES)
        told = {
            "instance_uuid": self.name,
            "previous_image_ref": self.before_rebuild,
            "image_ref": self.image_ref,
        }
        others = {key: v for key, v in self.stored.items() if not key.startswith("image_")}
        change = self._stored_as({**others, **self.draw(MAPS)})
        if self.draw(st.booleans()):
            self._write(InstanceRebuilt(**told, **change))
            return
        request_id = f"req-{len(self.events)}"
        self._write(InstanceRebuilt(**told), request_id)
        self._write(
            InstanceSystemMetadataSaved(instance_uuid=self.name, operation="rebuild", **change),
            request_id,
        )

    def _roll_back(self) -> None:
        if self.before_rebuild is None:
            return
        self.image_ref, self.before_rebuild = self.before_rebuild, None
        self._write(InstanceRebuildRolledBack(instance_uuid=self.name, image_ref=self.image_ref))

    def _relocate(self) -> None:
        left, self.place = self.place, (self.draw(HYPERVISORS), self.draw(HOSTS))
        self._write(
            InstanceRelocated(
                instance_uuid=self.name,
                cause=self.draw(_said(RelocationCause)),
                from_hypervisor_id=left[0],
                from_host=left[1],
                to_hypervisor_id=self.place[0],
                to_host=self.place[1],
            )
        )

    def _rescue(self) -> None:
        if self.draw(st.booleans()):
            metadata = self.draw(MAPS)
            data = InstanceRescued(
                instance_uuid=self.name, rescue_image_ref="i-2", rescue_metadata=metadata
            )
            self._write(data)
        else:
            self._write(InstanceUnrescued(instance_uuid=self.name))

    def _snapshot(self) -> None:
        self._write(
            SnapshotTaken(
                instance_uuid=self.name,
                snapshot_image_id="i-3",
                image_ref=self.image_ref,
                purpose=SnapshotPurpose.SNAPSHOT,
            )
        )

    def _disk(self) -> None:
        """A disk that is not there is created or fails; another is met, changed or deleted."""
        name = self.draw(DISKS)
        this = {"instance_uuid": self.name, "disk": name}
        layout = self.draw(LAYOUTS)
        if name not in self.disks:
            self._write(DiskCreationStarted(**this, layout=layout))
            if self.draw(st.integers(0, 3)) == 0:
                self._write(DiskCreationFailed(**this, error="no space left on device"))
                return
            self.disks[name] = layout
            self._write(DiskCreated(**this))
            return
        match self.draw(st.integers(0, 2)):
            case 0:
                self._write(DiskLayoutBackfilled(**this, layout=layout))
            case 1:
                self.disks[name] = layout
                self._write(DiskLayoutChanged(**this, layout=layout, reason="resize"))
            case _:
                del self.disks[name]
                self._write(DiskDeleted(**this))

    def _delete(self) -> None:
        self.state = "deleted"
        self._write(InstanceDeleted(instance_uuid=self.name, deleted_at=self.at))

"""One disk of an instance: what it is made of, and whether it is there (EVENTS.md, "Folding
instances"). Pure.

Gives the rows of `disks` and `disk_layout_history`, and the anomalies that disks raise. The layout
that was recorded first stands, until the disk's own creation or a meant change tells another.
Decided here, where the contract leaves it open:

- `deleted` ends a layout, and what comes then is another disk of that name, which shows no layout
  until one is told. A creation that failed ends none; where there never was a disk, the next intent
  begins anew and may differ.
- An intent for a disk that is there is not its layout yet: a difference raises disk_layout_mismatch
  at once, and becomes the layout when the disk is created. "As intended" is the last intent, or
  what a change made of it.
- A disk that was created, met (a backfill) or changed is there until it is deleted, whatever was
  told before and whatever failed since.
- `disk_created_unrecorded` is raised by OBSERVED events, where no intent came since there was no
  disk of that name.
- A layout differs where anything of it does. `details` of disk_layout_mismatch: `disk`, and
  `expected` and `found` with what differs.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, assert_never

from msgspec import Struct, structs

from metaledger.projector.folds.step import Fact, Put, Row, anomaly
from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskEvent,
    DiskLayout,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
    SourceKind,
)
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.meta import Origin

DiskState = Literal["intended", "created", "failed", "deleted"]
RecordedBy = Literal["intent", "backfill", "change", "outcome"]


class Layout(Struct, frozen=True, array_like=True):
    """A DiskLayout as a state keeps it, named as in `disks`."""

    layout_version: str
    backend: str
    format: str
    size_bytes: int
    source_kind: str
    source_image_id: str | None
    source_function: str | None
    location: str | None
    extra: dict[str, str | None]


class Disk(Struct, frozen=True, array_like=True, kw_only=True):
    """A disk as of its last event.

    `layout` is the one that it has (`is_live`) or, deleted, last had, with all that its row needs
    when it ends. `intended`: what is being created. `was_intended`: an intent came since there was
    none of that name. `is_there`: it was seen to exist, and not deleted since.
    """

    state: DiskState
    layout: Layout | None = None
    is_live: bool = False
    version: int = 0
    valid_from: datetime | None = None
    set_by_event: str | None = None
    recorded_by: RecordedBy | None = None
    intended: Layout | None = None
    was_intended: bool = False
    last_error: str | None = None
    is_there: bool = False


def fold_disk(was: Disk | None, fact: Fact, data: DiskEvent) -> tuple[Disk, list[Put]]:
    """The disk after the event, and the rows that changed. Raises Unfoldable."""
    turn = _Turn(was, fact, data)
    match data:
        case DiskCreationStarted():
            turn.started(_layout_of(data.layout))
        case DiskCreated():
            turn.created(None if data.layout is None else _layout_of(data.layout))
        case DiskCreationFailed():
            turn.become("failed", intended=None, last_error=data.error)
        case DiskLayoutBackfilled():
            turn.backfilled(_layout_of(data.layout))
        case DiskLayoutChanged():
            turn.changed(_layout_of(data.layout))
        case DiskDeleted():
            turn.deleted()
        case _:  # pragma: no cover (the type check proves it)
            assert_never(data)
    return turn.disk, turn.finish()


class _Turn:
    """One event's work on one disk; `disk` is as of now."""

    __slots__ = ("_fact", "_names", "_was", "disk", "rows")

    def __init__(self, was: Disk | None, fact: Fact, data: DiskEvent) -> None:
        self._was = was
        self._fact = fact
        self._names: Row = {"instance_uuid": data.instance_uuid, "disk": data.disk}
        self.disk = was or _NO_DISK
        self.rows: list[Put] = []

    @property
    def recorded(self) -> Layout | None:
        """The layout that it has."""
        return self.disk.layout if self.disk.is_live else None

    def started(self, layout: Layout) -> None:
        """It is about to be created."""
        never_made = self.disk.state == "failed" and not self.disk.is_there
        if self.recorded is None or never_made:
            self._record(layout, "intent")
        else:
            self._compare(self.recorded, layout)
        self.become("intended", intended=layout, was_intended=True)

    def created(self, told: Layout | None) -> None:
        """It was created, with that layout or as it was intended."""
        if not self.disk.was_intended and self._fact.event.meta.origin is Origin.OBSERVED:
            details = {"disk": self._names["disk"]}
            self.rows.append(anomaly(self._fact, "disk_created_unrecorded", "error", details))
        intended = self.disk.intended
        expected = intended or self.recorded
        if told is not None:
            self._compare(expected, told)
        made = told or expected
        if made is not None:
            self._record(made, "intent" if made == intended else "outcome")
        self.become("created", intended=None, is_there=True)

    def backfilled(self, layout: Layout) -> None:
        """It was met, and described from what the driver does today."""
        if self.recorded is None:
            self._record(layout, "backfill")
        else:
            self._compare(self.recorded, layout)
        self.become("created", is_there=True)

    def changed(self, layout: Layout) -> None:
        """Its layout was changed on purpose."""
        self._record(layout, "change")
        self.become("created", intended=None, is_there=True)

    def deleted(self) -> None:
        """It is gone."""
        if self.disk.is_live:
            self._end("disk_deleted")
        self.become("deleted", intended=None, was_intended=False, is_there=False)

    def become(self, state: DiskState, **changes: Any) -> None:  # noqa: ANN401 (of any field)
        """It is in that state. Why a creation failed, only a failed one says; a layout that ended,
        only a deleted one shows.
        """
        if state != "deleted" and not self.disk.is_live:
            changes |= {"layout": None, "recorded_by": None}
        self.disk = structs.replace(self.disk, **{"last_error": None, **changes}, state=state)

    def finish(self) -> list[Put]:
        """All rows that changed, that of the disk first."""
        if self.disk == self._was:
            return self.rows
        row: Row = {
            **self._names,
            "state": self.disk.state,
            **_layout_columns(self.disk.layout),
            "recorded_by": self.disk.recorded_by,
            "last_error": self.disk.last_error,
        }
        return [Put("disks", row, is_new=self._was is None), *self.rows]

    def _compare(self, expected: Layout | None, found: Layout) -> None:
        if expected is None or expected == found:
            return
        one, other = structs.asdict(expected), structs.asdict(found)
        names = [name for name in one if one[name] != other[name]]
        details = {
            "disk": self._names["disk"],
            "expected": {name: one[name] for name in names},
            "found": {name: other[name] for name in names},
        }
        self.rows.append(anomaly(self._fact, "disk_layout_mismatch", "warning", details))

    def _record(self, layout: Layout, recorded_by: RecordedBy) -> None:
        if layout == self.recorded:
            return
        if self.disk.is_live:
            self._end("overwritten")
        self.disk = structs.replace(
            self.disk,
            layout=layout,
            is_live=True,
            version=self.disk.version + 1,
            valid_from=self._fact.at,
            set_by_event=self._fact.event.meta.event_id,
            recorded_by=recorded_by,
        )
        self._put(None)

    def _end(self, reason: str) -> None:
        self._put(reason)
        self.disk = structs.replace(self.disk, is_live=False)

    def _put(self, end_reason: str | None) -> None:
        disk = self.disk
        row: Row = {
            **self._names,
            "version": disk.version,
            **_layout_columns(disk.layout),
            "valid_from": disk.valid_from,
            "valid_to": end_reason and self._fact.at,
            "set_by_event": disk.set_by_event,
            "recorded_by": disk.recorded_by,
            "ended_by_event": end_reason and self._fact.event.meta.event_id,
            "end_reason": end_reason,
        }
        self.rows.append(Put("disk_layout_history", row, is_new=end_reason is None))


_NO_DISK = Disk(state="deleted")


def _layout_of(told: DiskLayout) -> Layout:
    source = told.source
    if source.kind is SourceKind.UNKNOWN:
        raise Unfoldable("the disk's source is of a kind that this build does not know")
    return Layout(
        layout_version=told.version,
        backend=told.backend,
        format=told.format,
        size_bytes=told.size_bytes,
        source_kind=source.kind.value,
        source_image_id=source.image_id,
        source_function=source.function,
        location=told.location,
        extra=dict(told.extra),
    )


def _layout_columns(layout: Layout | None) -> Mapping[str, Any]:
    if layout is None:
        return _NO_LAYOUT
    info = {
        "version": layout.layout_version,
        "backend": layout.backend,
        "format": layout.format,
        "size": layout.size_bytes,
    }
    return {**structs.asdict(layout), "driver_info": {"libvirt_disk_metadata": info}}


_NO_LAYOUT = dict.fromkeys((*Layout.__struct_fields__, "driver_info"))

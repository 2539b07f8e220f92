"""The image aggregate: what its events make of an image (EVENTS.md, "Folding properties"). Pure.

Gives the rows of `images`, `image_property_history`, `image_attribute_history`, `snapshot_uploads`
and the anomalies that images raise, each kind once an event, and marks an image whose lineage it
touched. Decided here, where the contract leaves it open:

- Attributes are kept as text: integers in decimal, booleans as `true` and `false`, tags as a sorted
  JSON array. A null of a registration or an upload tells nothing; one of an update is a value,
  where there was another before.
- A deletion ends properties and attributes; the row of `images` keeps what was last known.
- A registration or an update of a deleted image brings it back: it can be deleted again.
- What a second registration replaces or leaves out ended unseen. `registration_told_at` says since
  when a registration is known, `registered_at` when somebody saw one; the first of each stays.
- An upload that nobody saw (IMPORTED, RECONCILED) has no time, and changes nothing of a snapshot of
  which an upload was told.
- `history_gap` is raised by OBSERVED events: the others are there to mend one.
- `details`: `reasons` of a history_gap (`never_registered`, `registered_again`, `was_deleted`,
  `before_differs`), `expected` and `found` of it and of a semantics_divergence (the keys that
  differ, or digests); `mode` and lost `properties` of a purge; `keys` of a value_altered.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, assert_never

from msgspec import Struct, field, json

from metaledger.projector.folds.intervals import Edit, History, Values
from metaledger.projector.folds.properties import (
    Difference,
    as_recorded,
    change_properties,
    difference,
)
from metaledger.projector.folds.step import (
    Fact,
    Projection,
    Put,
    Row,
    Step,
    anomaly,
    mark,
    origin_of,
    seen_at,
)
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.image import (
    ChangeEvent,
    ImageDataUploaded,
    ImageDeleted,
    ImageEvent,
    ImageRegistered,
    ImageUpdated,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.meta import Origin


class ImageState(Struct, frozen=True, array_like=True, kw_only=True):
    """An image as of its last event.

    `known`: the last values of what `images` may show, ended or not. `altered`: the live properties
    whose recorded value is not quite the service's. `snapshot_uploaded`: it has a row of
    `snapshot_uploads`.
    """

    properties: History = field(default_factory=History)
    attributes: History = field(default_factory=History)
    known: dict[str, str | None] = field(default_factory=dict)
    altered: tuple[str, ...] = ()
    is_snapshot: bool = False
    registered_at: datetime | None = None
    registration_told_at: datetime | None = None
    data_uploaded_at: datetime | None = None
    deleted_at: datetime | None = None
    snapshot_uploaded: bool = False


def fold_image(state: ImageState | None, fact: Fact) -> Step[ImageState]:
    """The image after the event. Raises Unfoldable."""
    data = fact.event.data
    if not isinstance(data, ImageEvent):
        raise Unfoldable(f"{fact.event.type} is no event of an image")
    turn = _Turn(state, fact, data.image_id)
    match data:
        case ImageRegistered():
            return _registered(turn, data)
        case SnapshotUploaded() | ImageDataUploaded() | ImageUpdated():
            return _changed(turn, data)
        case ImageDeleted():
            return _deleted(turn, data)
        case _:  # pragma: no cover (the type check proves it)
            assert_never(data)


IMAGE_PROJECTION = Projection(aggregate_kind="image", state_type=ImageState, fold=fold_image)


class _Turn:
    """One event's work on one image: where it starts, what it edits, what it finds."""

    __slots__ = (
        "anomalies",
        "attributes",
        "fact",
        "image_id",
        "is_new",
        "origin",
        "properties",
        "was",
    )

    def __init__(self, state: ImageState | None, fact: Fact, image_id: str) -> None:
        self.is_new = state is None
        self.was = state or _NOTHING_KNOWN
        self.fact = fact
        self.image_id = image_id
        self.origin = origin_of(fact)
        owner = ("image_id", image_id)
        self.properties = Edit("image_property_history", owner, self.was.properties, fact)
        self.attributes = Edit("image_attribute_history", owner, self.was.attributes, fact)
        self.anomalies: list[Put] = []

    @property
    def was_seen(self) -> bool:
        """Whether anybody saw it happen."""
        return self.origin is Origin.OBSERVED

    def found(self, kind: str, severity: str, details: Mapping[str, Any]) -> None:
        """Raises an anomaly."""
        self.anomalies.append(anomaly(self.fact, kind, severity, details))

    def missed(self, reasons: Sequence[str], gap: Difference | None) -> None:
        """Raises the event's history_gap, one for all reasons, if there is any."""
        if reasons and self.was_seen:
            self.found("history_gap", "warning", {"reasons": list(reasons), **_shown(gap)})

    def still_altered(self, named: Sequence[str]) -> tuple[str, ...]:
        """The state's next `altered`; raises value_altered for what this event brought."""
        before = self.was.altered
        if not named and not before:
            return ()
        held = self.properties.values
        fresh = {put.row["key"] for put in self.properties.rows if put.is_new}
        told = {put.row["key"] for put in self.attributes.rows if put.is_new}
        brought = {
            key
            for key in named
            if key in fresh or key in told or (key in held and key not in before)
        }
        if brought:
            self.found("value_altered", "warning", {"keys": sorted(brought)})
        kept = {*named, *(key for key in before if key not in fresh)}
        return tuple(sorted(kept & held.keys()))

    def step(self, state: ImageState) -> Step[ImageState]:
        """The step to that state, with all rows that changed."""
        image = Put("images", _image_row(self.image_id, state, self.fact), is_new=self.is_new)
        histories = (*self.properties.rows, *self.attributes.rows)
        return Step(state, (image, *histories, *self._lineage(state), *self.anomalies))

    def _lineage(self, state: ImageState) -> Sequence[Put]:
        """The upload of a snapshot; and the mark, where the event said anything of its lineage."""
        data = self.fact.event.data
        was_uploaded = self.was.snapshot_uploaded
        if isinstance(data, SnapshotUploaded) and (self.was_seen or not was_uploaded):
            upload = {
                "image_id": self.image_id,
                "instance_uuid": data.instance_uuid,
                "occurred_at": seen_at(self.fact),
                "event_id": self.fact.event.meta.event_id,
            }
            row = Put("snapshot_uploads", upload, is_new=not was_uploaded)
            return (row, mark(self.fact, data.aggregate))
        # One may have come unseen and gone again by this event, so what is live does not tell.
        of_base = any(put.row["key"] == BASE_IMAGE_REF for put in self.properties.rows)
        # A snapshot of which only the upload is known was taken when it was registered.
        is_late = state.snapshot_uploaded and self.was.registered_at != state.registered_at
        return (mark(self.fact, f"image:{self.image_id}"),) if of_base or is_late else ()


def _registered(turn: _Turn, data: ImageRegistered) -> Step[ImageState]:
    again = turn.was.registration_told_at is not None
    was = turn.was if turn.was.deleted_at is None else _NOTHING_KNOWN
    held = turn.properties.values
    properties = as_recorded(data.properties, held, turn.was.altered)
    if again:
        turn.missed(["registered_again"], difference(held, properties))
    told = {**data.attributes, **_told(_REGISTERED, _registered_values(data))}
    told["tags"] = _tags_text(data.tags)
    turn.properties.become(properties, via="registered", replaced="unseen")
    turn.attributes.overlay(told, via="registered", replaced="unseen")
    return turn.step(
        ImageState(
            properties=turn.properties.history,
            attributes=turn.attributes.history,
            known=_known(was.known, told),
            altered=turn.still_altered(data.altered),
            is_snapshot=was.is_snapshot or _says_snapshot(data.properties),
            registered_at=was.registered_at or (turn.fact.at if turn.was_seen else None),
            registration_told_at=was.registration_told_at or turn.fact.at,
            data_uploaded_at=was.data_uploaded_at,
            snapshot_uploaded=turn.was.snapshot_uploaded,
        )
    )


def _changed(turn: _Turn, data: ChangeEvent) -> Step[ImageState]:
    was = turn.was
    known = was.known
    reasons = ["never_registered"] if turn.is_new else []
    if was.deleted_at is not None:
        reasons.append("was_deleted")
        known = {**known, "status": None}
    _change_properties(turn, data.change, reasons)
    if isinstance(data, ImageUpdated):
        told = dict(data.attributes)
        if data.tags is not None:
            told["tags"] = _tags_text(data.tags)
    else:
        told = _told(_UPLOADED, _uploaded_values(data))
    if turn.origin is Origin.RECONCILED:
        turn.attributes.overlay(told, via="unseen", replaced="unseen")
    else:
        turn.attributes.overlay(told, via="merge", replaced="overwritten")
    uploaded = turn.was_seen and not isinstance(data, ImageUpdated)
    return turn.step(
        ImageState(
            properties=turn.properties.history,
            attributes=turn.attributes.history,
            known=_known(known, told),
            altered=turn.still_altered(data.change.altered),
            is_snapshot=was.is_snapshot
            or isinstance(data, SnapshotUploaded)
            or _says_snapshot(turn.properties.values)
            or _says_snapshot(data.change.before),
            registered_at=was.registered_at,
            registration_told_at=was.registration_told_at,
            data_uploaded_at=turn.fact.at if uploaded else was.data_uploaded_at,
            snapshot_uploaded=was.snapshot_uploaded or isinstance(data, SnapshotUploaded),
        )
    )


def _change_properties(turn: _Turn, change: PropertyChange, reasons: list[str]) -> None:
    outcome = change_properties(turn.properties, change, turn.origin, turn.was.altered)
    if outcome.gap is not None:
        reasons.append("before_differs")
    turn.missed(reasons, outcome.gap)
    if outcome.divergence is not None:
        details = {"mode": change.mode.value, **_shown(outcome.divergence)}
        turn.found("semantics_divergence", "warning", details)
    lost = {key: value for key, value in outcome.lost.items() if not key.startswith("os_glance_")}
    if lost:
        details = {"mode": change.mode.value, "properties": lost}
        turn.found("properties_lost_to_purge", "error" if outcome.proven else "warning", details)


def _deleted(turn: _Turn, data: ImageDeleted) -> Step[ImageState]:
    was = turn.was
    if was.deleted_at is not None:
        return Step(was, ())
    if turn.is_new:
        turn.missed(["never_registered"], None)
    turn.properties.end_all("image_deleted")
    turn.attributes.end_all("image_deleted")
    return turn.step(
        ImageState(
            properties=turn.properties.history,
            attributes=turn.attributes.history,
            known={**was.known, "status": "deleted"},
            is_snapshot=was.is_snapshot,
            registered_at=was.registered_at,
            registration_told_at=was.registration_told_at,
            data_uploaded_at=was.data_uploaded_at,
            deleted_at=data.deleted_at,
            snapshot_uploaded=was.snapshot_uploaded,
        )
    )


BASE_IMAGE_REF = "base_image_ref"
_NOTHING_KNOWN = ImageState()
_REGISTERED = (
    "name",
    "status",
    "owner",
    "visibility",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
    "protected",
)
_UPLOADED = ("status", "size", "checksum", "os_hash_algo", "os_hash_value")
_SHOWN = frozenset((*_REGISTERED, *_UPLOADED))
_registered_values = attrgetter(*_REGISTERED)
_uploaded_values = attrgetter(*_UPLOADED)


def _told(names: Sequence[str], values: Sequence[str | int | None]) -> dict[str, str | None]:
    return {
        name: value if isinstance(value, str) else _text(value)
        for name, value in zip(names, values, strict=True)
        if value is not None
    }


def _text(value: int) -> str:
    return str(value).lower()  # True is an int, and `true` its text


def _tags_text(tags: Sequence[str]) -> str:
    return json.encode(sorted(set(tags))).decode() if tags else "[]"


def _known(known: Mapping[str, str | None], told: Values) -> dict[str, str | None]:
    return {**known, **{name: value for name, value in told.items() if name in _SHOWN}}


def _says_snapshot(properties: Values | None) -> bool:
    return properties is not None and properties.get("image_type") == "snapshot"


def _shown(gap: Difference | None) -> dict[str, Any]:
    return {} if gap is None else {"expected": dict(gap.expected), "found": dict(gap.found)}


def integer(text: str | None) -> int | None:
    """The number, where it is one that a column of 64 bits holds."""
    return int(text) if text and text.isdecimal() and len(text) <= _DIGITS_MAX else None


_DIGITS_MAX = 18


def _image_row(image_id: str, state: ImageState, fact: Fact) -> Row:
    known = state.known.get
    return {
        "image_id": image_id,
        "name": known("name"),
        "status": known("status"),
        "owner": known("owner"),
        "visibility": known("visibility"),
        "disk_format": known("disk_format"),
        "container_format": known("container_format"),
        "size": integer(known("size")),
        "checksum": known("checksum"),
        "image_type": "snapshot" if state.is_snapshot else "image",
        "registered_at": state.registered_at,
        "registration_told_at": state.registration_told_at,
        "data_uploaded_at": state.data_uploaded_at,
        "deleted_at": state.deleted_at,
        "last_event_id": fact.event.meta.event_id,
    }

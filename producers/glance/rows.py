"""From what the database held before and after a transaction to the right few events. Pure.

Rules, from EVENTS.md:
- The rows decide *whether* something happened: where before and after are equal there is no event,
  whatever statements ran (a PATCH that changes nothing stamps `updated_at`, and is none).
- The intent decides *how it was meant*: a purge or a merge, what the caller had read, what it asked
  to remove.
- One transaction gives an image one event. Two, where data arrives: its own event does not carry
  `location_count`, `virtual_size` and tags, so an ImageUpdated follows with what is left. An image
  that is registered with data has that in its registration, which can carry every attribute.
- An image is gone from the moment its status is `deleted` (or `pending_delete`, where deletion is
  delayed): the purge of that transaction is part of the deletion, and nothing after it adds
  anything, unless an operator restores the image.

What Glance really does with a set of properties is narrower than "replace all", because it compares
with its own read, which is older than the counter's lock (`_set_properties_for_image`): it spares
live rows that it had not read as live, does not write a value that it had read as it is, and does
not bring back a row that it had read as live. `_meant` says so, so that a fold computes what the
database holds. One case in some hundred racing PATCHes on PostgreSQL is left to `after`, and to
`semantics_divergence`: a row that Glance had read as deleted comes back with a value that another
request gave it meanwhile, and that nobody sent.

Times, ids and the request's context are arguments.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter

from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageEvent,
    ImageRegistered,
    ImageUpdated,
    Mode,
    Properties,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.representable import representable, representable_map

ATTRIBUTES = (
    *("name", "status", "owner", "visibility", "disk_format", "container_format"),
    *("min_disk", "min_ram", "protected", "os_hidden", "size", "virtual_size"),
    *("checksum", "os_hash_algo", "os_hash_value", "location_count"),
)
# What a registration has no field for, and what an upload says itself, so that nobody has to again.
_NOT_REGISTERED = ATTRIBUTES[9:]
_not_registered = attrgetter(*_NOT_REGISTERED)
_UPLOADED_SAYS = frozenset({"status", "size", "checksum", "os_hash_algo", "os_hash_value"})
# What an attribute has unless somebody says otherwise: 0 is false, too.
_NOTHING = frozenset({None, 0})
_GONE = frozenset({"deleted", "pending_delete"})
_WITHOUT_DATA = frozenset({"queued", "saving", "uploading", "importing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageState:
    """What Glance's tables hold of one image: live rows only, locations by their number.

    `deleted_at` is read where a deleted image is told, and stands for "unknown" everywhere else.
    """

    image_id: str
    name: str | None = None
    status: str
    owner: str | None = None
    visibility: str | None = None
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int | None = 0
    min_ram: int | None = 0
    protected: bool | None = False
    os_hidden: bool | None = False
    size: int | None = None
    virtual_size: int | None = None
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    location_count: int = 0
    deleted: bool = False
    deleted_at: datetime | None = None
    tags: tuple[str, ...] = ()
    properties: Properties = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """Whether users see it no more."""
        return self.deleted or self.status in _GONE


@dataclass(frozen=True, slots=True)
class Known:
    """A property's row as Glance had read it, live or marked as deleted."""

    value: str | None
    live: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What the service was told to do with an image's properties in this transaction.

    `sent` is the set that it was given, `exempt` the keys that it leaves alone, `known` the rows
    as it had read them itself. `seen`: the keys that the caller had read before it made
    its set, None where nobody knows. `removed`: the keys that the caller asked to remove, likewise;
    an event names those that were there to be removed.
    """

    purge: bool
    sent: Properties
    exempt: frozenset[str] = frozenset()
    known: Mapping[str, Known] = field(default_factory=dict)
    seen: frozenset[str] | None = None
    removed: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One image in one transaction.

    `dropped`: a statement that named the image deleted rows of properties for good; where no other
    intent is known, their loss is a decision then. `occurred_at` is aware.
    """

    before: ImageState | None
    after: ImageState | None
    intent: Intent | None = None
    dropped: bool = False
    occurred_at: datetime


def events(transition: Transition) -> list[ImageEvent]:
    """What happened, in order; empty where nothing did."""
    before, after = transition.before, transition.after
    if before is None:
        return [] if after is None else registered(after)
    if after is None or after.gone:
        if before.gone:
            return []
        return [ImageDeleted(image_id=before.image_id, deleted_at=transition.occurred_at)]
    return _updated(before, after, transition)


def registered(state: ImageState) -> list[ImageEvent]:
    """An image that was just made: its registration, and its data."""
    return _registered(state, uploaded=True)


def first_met(state: ImageState) -> list[ImageEvent]:
    """A live image as it stands, to a ledger that knows nothing of it, before what happens next."""
    return _registered(state, uploaded=_is_snapshot(state.properties))


def _registered(state: ImageState, *, uploaded: bool) -> list[ImageEvent]:
    """`uploaded`: there is an upload to be told, where there is data. Nobody saw that of an image
    from before, and it would get a wrong time; but of a snapshot it tells the instance.
    """
    upload = uploaded and state.status == "active" and state.size is not None
    left = {
        name: _as_text(value)
        for name, value in zip(_NOT_REGISTERED, _not_registered(state), strict=True)
        # No data is another thing than data without a byte.
        if (value not in _NOTHING or (name == "size" and value is not None))
        and not (upload and name in _UPLOADED_SAYS)
    }
    properties, altered = representable_map(state.properties)
    attributes, altered_attributes = representable_map(left)
    told: list[ImageEvent] = [
        ImageRegistered(
            image_id=state.image_id,
            name=_text(state.name),
            status=state.status,
            owner=_text(state.owner),
            visibility=state.visibility,
            disk_format=_text(state.disk_format),
            container_format=_text(state.container_format),
            min_disk=state.min_disk,
            min_ram=state.min_ram,
            protected=state.protected,
            tags=_texts(state.tags),
            properties=properties,
            altered=(*altered, *altered_attributes),
            attributes=attributes,
        )
    ]
    if upload:
        # What the registration says of the properties need not be said again.
        told.append(_uploaded(state, state, _NOTHING_MORE))
    return told


def imported(state: ImageState, now: datetime) -> list[ImageEvent]:
    """The image as it stands, to a ledger that knows nothing of it (origin IMPORTED).

    A deleted one is registered as it last was, and then deleted: when its row says so, else `now`.
    """
    told = _registered(state, uploaded=_is_snapshot(state.properties))
    if state.gone:
        deleted_at = state.deleted_at or now
        told.append(ImageDeleted(image_id=state.image_id, deleted_at=deleted_at))
    return told


def reconciled(state: ImageState, *, occurred_at: datetime) -> ImageEvent:
    """All that the database holds, to mend what could not be recorded (origin RECONCILED)."""
    if state.gone:
        return ImageDeleted(image_id=state.image_id, deleted_at=state.deleted_at or occurred_at)
    properties, altered = representable_map(state.properties)
    attributes, altered_attributes = representable_map(attributes_of(state))
    return ImageUpdated(
        image_id=state.image_id,
        attributes=attributes,
        tags=_texts(state.tags),
        change=PropertyChange(
            mode=Mode.PURGE,
            set=properties,
            after=properties,
            altered=(*altered, *altered_attributes),
        ),
    )


def attributes_of(state: ImageState) -> dict[str, str | None]:
    """All its attributes as text."""
    return {name: _as_text(getattr(state, name)) for name in ATTRIBUTES}


def _updated(before: ImageState, after: ImageState, transition: Transition) -> list[ImageEvent]:
    attributes, altered = representable_map(_changed(before, after))
    tags = _texts(after.tags) if set(before.tags) != set(after.tags) else None
    same = before.properties == after.properties
    if same and not attributes and tags is None:
        return []
    change = _change(before.properties, after.properties, transition)
    told: list[ImageEvent] = []
    if before.status in _WITHOUT_DATA and after.status == "active" and after.size is not None:
        told.append(_uploaded(before, after, change))
        attributes = {key: attributes[key] for key in attributes.keys() - _UPLOADED_SAYS}
        change = _no_change(after.properties)
        if not attributes and tags is None:
            return told
    named = (*change.altered, *(key for key in altered if key in attributes))
    told.append(
        ImageUpdated(
            image_id=after.image_id,
            attributes=attributes,
            tags=tags,
            change=_renamed(change, named),
        )
    )
    return told


def _uploaded(before: ImageState, after: ImageState, change: PropertyChange) -> ImageEvent:
    """An image is a snapshot if it said so before or after: the upload may purge what says it."""
    said = {**before.properties, **after.properties}
    size = after.size or 0
    if _is_snapshot(said):
        return SnapshotUploaded(
            image_id=after.image_id,
            instance_uuid=_text(said.get("instance_uuid")),
            size=size,
            checksum=after.checksum,
            os_hash_algo=after.os_hash_algo,
            os_hash_value=after.os_hash_value,
            status=after.status,
            change=change,
        )
    return ImageDataUploaded(
        image_id=after.image_id,
        size=size,
        checksum=after.checksum,
        os_hash_algo=after.os_hash_algo,
        os_hash_value=after.os_hash_value,
        status=after.status,
        change=change,
    )


def _is_snapshot(said: Properties) -> bool:
    return said.get("image_type") == "snapshot" or said.get("instance_uuid") is not None


def _change(before: Properties, after: Properties, transition: Transition) -> PropertyChange:
    meant = _meant(before, after, transition)
    fresh = {key for key in after if key not in before or before[key] != after[key]}
    sent, _ = representable_map(meant.sent)
    held, _ = representable_map(before)
    holds, _ = representable_map(after)
    _, altered = representable_map({key: after[key] for key in after if key in fresh})
    return PropertyChange(
        mode=Mode.PURGE if meant.purge else Mode.MERGE,
        set=sent,
        removed=_keys(meant.removed),
        seen=_keys(meant.seen),
        exempt=_keys(meant.exempt) or (),
        before=held,
        after=holds,
        altered=altered,
    )


def _meant(before: Properties, after: Properties, transition: Transition) -> Intent:
    """The intent as a fold has to read it; made up from the rows where no intent is known."""
    intent = transition.intent
    lost = frozenset(before.keys() - after.keys())
    if intent is None:
        if transition.dropped or not lost:
            fresh = {key: after[key] for key in after if before.get(key, _ABSENT) != after[key]}
            return Intent(purge=False, sent=fresh, removed=lost or None)
        return Intent(purge=True, sent=after)
    unwritten = {key for key in intent.sent if not _writes(intent, key, before)}
    sent = {key: value for key, value in intent.sent.items() if key not in unwritten}
    if not intent.purge:
        return Intent(purge=False, sent=sent, removed=intent.removed or lost or None)
    read = {key for key, row in intent.known.items() if row.live}
    unread = before.keys() - read - sent.keys()
    spared = intent.exempt | unread | (unwritten & before.keys())
    removed = intent.removed
    if removed is not None:
        # Else a patch that adds and removes ten thousand other keys makes an event too large.
        removed &= before.keys() | (intent.seen or frozenset())
    return Intent(
        purge=True, sent=sent, exempt=frozenset(spared), seen=intent.seen, removed=removed
    )


def _writes(intent: Intent, key: str, before: Properties) -> bool:
    """Whether Glance makes the key have the value that was sent, given what it had read."""
    if key in intent.exempt:
        return False
    row = intent.known.get(key)
    if row is None:
        return True
    if key not in before:
        return not row.live
    return row.value != intent.sent[key] or before[key] == intent.sent[key]


def _no_change(properties: Properties) -> PropertyChange:
    held, _ = representable_map(properties)
    return PropertyChange(mode=Mode.MERGE, before=held, after=held)


def _renamed(change: PropertyChange, altered: tuple[str, ...]) -> PropertyChange:
    return change if altered == tuple(change.altered) else replace(change, altered=altered)


def _changed(before: ImageState, after: ImageState) -> dict[str, str | None]:
    return {
        name: _as_text(getattr(after, name))
        for name in ATTRIBUTES
        if getattr(before, name) != getattr(after, name)
    }


def _as_text(value: object) -> str | None:
    """An attribute's one text form: `true` and `false` for booleans, decimal for numbers."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _text(value: str | None) -> str | None:
    return None if value is None else representable(value)


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(representable(value) for value in values)


def _keys(keys: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if keys is None else _texts(sorted(keys))


_NOTHING_MORE = PropertyChange(mode=Mode.MERGE)
_ABSENT = object()  # equals no value of a property, None among them

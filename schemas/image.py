"""The events of an image, aggregate `image:<image_id>` (EVENTS.md, "Event types").

Pure values: what happened and what was meant, in the past tense. Each class has the name of its
Avro schema (`avro/image/`), and a test holds the two together field by field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

Properties = Mapping[str, str | None]


class Mode(StrEnum):
    """What a change of properties was meant to do with the keys that it does not name."""

    MERGE = "MERGE"
    PURGE = "PURGE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyChange:
    """A change of an image's properties: the intent, and what the database held around it.

    `removed`: the keys that the caller asked to remove; None: the hook could not know.
    `seen`: the keys that the caller had read, where it sends the whole set back; else None.
    `exempt`: the keys that a purge spares. `before`, `after`: live rows only, None where unknown or
    too large, and then `before_digest`, `after_digest` stand for them. `altered`: the keys whose
    value could not be represented and stands here in another form.
    """

    mode: Mode
    set: Properties = field(default_factory=dict)
    removed: Sequence[str] | None = None
    seen: Sequence[str] | None = None
    exempt: Sequence[str] = ()
    before: Properties | None = None
    after: Properties | None = None
    before_digest: str | None = None
    after_digest: str | None = None
    altered: Sequence[str] = ()


class _OfImage:
    """What all events of an image share: their aggregate."""

    __slots__ = ()
    image_id: str

    @property
    def aggregate(self) -> str:
        """The aggregate, and the Kafka key."""
        return f"image:{self.image_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRegistered(_OfImage):
    """An image record was created; its data may come later.

    `attributes`: those that have no field here, as ImageUpdated has them (since version 2).
    `altered`: see PropertyChange.
    """

    image_id: str
    name: str | None = None
    status: str
    owner: str | None = None
    visibility: str | None = None
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int | None = None
    min_ram: int | None = None
    protected: bool | None = None
    tags: Sequence[str] = ()
    properties: Properties = field(default_factory=dict)
    altered: Sequence[str] = ()
    attributes: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotUploaded(_OfImage):
    """The data of a snapshot was uploaded; `change` is what that did to the properties."""

    image_id: str
    instance_uuid: str | None = None
    size: int
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    status: str
    change: PropertyChange


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDataUploaded(_OfImage):
    """The data of an image that is no snapshot was uploaded."""

    image_id: str
    size: int
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    status: str
    change: PropertyChange


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUpdated(_OfImage):
    """Attributes, tags or properties of an image changed.

    `attributes` holds the changed core attributes as text (`name`, `status`, `visibility`,
    `location_count` …); `tags` is the whole set where it changed, else None.
    """

    image_id: str
    attributes: Properties = field(default_factory=dict)
    tags: Sequence[str] | None = None
    change: PropertyChange


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDeleted(_OfImage):
    """An image was deleted; what its service purged with it is part of the deletion."""

    image_id: str
    deleted_at: datetime


ImageEvent = ImageRegistered | SnapshotUploaded | ImageDataUploaded | ImageUpdated | ImageDeleted
# Those that carry a change of properties.
ChangeEvent = SnapshotUploaded | ImageDataUploaded | ImageUpdated
IMAGE_EVENTS = (ImageRegistered, SnapshotUploaded, ImageDataUploaded, ImageUpdated, ImageDeleted)

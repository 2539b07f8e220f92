"""The events of an instance's disks, which are the instance's (EVENTS.md, "Event types").

Pure values, as in `instance`; their schemas stand in `avro/disk/`. A disk is known by its name
within its instance: `disk`, `disk.local`, `disk.swap` …
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from metaledger.schemas.instance import OfInstance


class SourceKind(StrEnum):
    """What a disk's content was made from: an image, or a function such as mkfs."""

    IMAGE = "IMAGE"
    FUNCTION = "FUNCTION"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSource:
    """What a disk's content was made from: the image, or the name of the function."""

    kind: SourceKind
    image_id: str | None = None
    function: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLayout:
    """What a disk is made of. `version` is that of the description; `extra` is for what a backend
    has to say beyond it.
    """

    version: str
    backend: str
    format: str
    size_bytes: int
    source: DiskSource
    location: str | None = None
    extra: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCreationStarted(OfInstance):
    """A disk is about to be created. Durable before the disk exists."""

    instance_uuid: str
    disk: str
    layout: DiskLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCreated(OfInstance):
    """A disk was created; without a `layout` as it was intended."""

    instance_uuid: str
    disk: str
    layout: DiskLayout | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCreationFailed(OfInstance):
    """A disk could not be created."""

    instance_uuid: str
    disk: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLayoutBackfilled(OfInstance):
    """An old disk was met unrecorded, and described from the driver's current behaviour."""

    instance_uuid: str
    disk: str
    layout: DiskLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLayoutChanged(OfInstance):
    """The layout of a disk was changed on purpose: a resize, another backend."""

    instance_uuid: str
    disk: str
    layout: DiskLayout
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskDeleted(OfInstance):
    """A disk was deleted."""

    instance_uuid: str
    disk: str


DiskEvent = (
    DiskCreationStarted
    | DiskCreated
    | DiskCreationFailed
    | DiskLayoutBackfilled
    | DiskLayoutChanged
    | DiskDeleted
)
DISK_EVENTS = (
    DiskCreationStarted,
    DiskCreated,
    DiskCreationFailed,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
    DiskDeleted,
)

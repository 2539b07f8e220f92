"""The events of an instance, aggregate `instance:<uuid>` (EVENTS.md, "Event types"); those of its
disks stand in `disk`.

Pure values: what happened and what was meant, in the past tense. Each class has the name of its
Avro schema (`avro/instance/`), and a test holds the two together field by field. In all of them
`altered` names the keys whose value could not be represented and stands here in another form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, nonmember

Metadata = Mapping[str, str | None]


class SnapshotPurpose(StrEnum):
    """What a snapshot was taken for."""

    SNAPSHOT = "SNAPSHOT"
    BACKUP = "BACKUP"
    SHELVE = "SHELVE"
    UNKNOWN = "UNKNOWN"


class RelocationCause(StrEnum):
    """Why an instance came to another hypervisor."""

    SCHEDULED = "SCHEDULED"
    EVACUATION = "EVACUATION"
    LIVE_MIGRATION = "LIVE_MIGRATION"
    COLD_MIGRATION = "COLD_MIGRATION"
    RESIZE = "RESIZE"
    UNSHELVE = "UNSHELVE"
    UNKNOWN = "UNKNOWN"


class Verdict(StrEnum):
    """Whether an instance may be destroyed. UNKNOWN is an answer too, and refuses as DENY does: so
    does whatever symbol an older build does not know.
    """

    # For `shape`: elsewhere nobody may say UNKNOWN.
    SAYS_UNKNOWN = nonmember(True)
    ALLOW = "ALLOW"
    DENY = "DENY"
    UNKNOWN = "UNKNOWN"


class OfInstance:
    """What all events of an instance share: their aggregate."""

    __slots__ = ()
    instance_uuid: str

    @property
    def aggregate(self) -> str:
        """The aggregate, and the Kafka key."""
        return f"instance:{self.instance_uuid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceBooted(OfInstance):
    """An instance was created. `system_metadata` is what it booted with; `hypervisor_id` and `host`
    are None until it is scheduled.
    """

    instance_uuid: str
    image_ref: str | None = None
    system_metadata: Metadata = field(default_factory=dict)
    flavor: str | None = None
    hypervisor_id: str | None = None
    host: str | None = None
    altered: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSystemMetadataSaved(OfInstance):
    """The stored system metadata changed. `after` is the whole map, `before` None where unknown."""

    instance_uuid: str
    operation: str
    before: Metadata | None = None
    after: Metadata = field(default_factory=dict)
    altered: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken(OfInstance):
    """A snapshot was begun. `image_ref` is the image that the instance runs, `properties` what was
    sent to the image service.
    """

    instance_uuid: str
    snapshot_image_id: str
    image_ref: str | None = None
    purpose: SnapshotPurpose
    properties: Metadata = field(default_factory=dict)
    altered: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRebuilt(OfInstance):
    """An instance was rebuilt. Where `after` is None, the save with operation `rebuild` of the same
    request completes it.
    """

    instance_uuid: str
    previous_image_ref: str | None = None
    image_ref: str
    before: Metadata | None = None
    after: Metadata | None = None
    altered: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRebuildRolledBack(OfInstance):
    """A rebuild was taken back; `image_ref` is the image that was put back."""

    instance_uuid: str
    image_ref: str | None = None
    after: Metadata | None = None
    altered: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRescued(OfInstance):
    """An instance runs from a rescue image, whose metadata operations use meanwhile."""

    instance_uuid: str
    rescue_image_ref: str
    rescue_metadata: Metadata = field(default_factory=dict)
    altered: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceUnrescued(OfInstance):
    """An instance runs from its own image again."""

    instance_uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRelocated(OfInstance):
    """An instance came to another hypervisor, or to its first one."""

    instance_uuid: str
    cause: RelocationCause
    from_hypervisor_id: str | None = None
    to_hypervisor_id: str | None = None
    from_host: str | None = None
    to_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDeleted(OfInstance):
    """An instance was deleted."""

    instance_uuid: str
    deleted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DestroyJudged(OfInstance):
    """It was judged whether a compute service may destroy an instance that it holds."""

    instance_uuid: str
    hypervisor_id: str
    host: str
    verdict: Verdict
    reason: str


InstanceEvent = (
    InstanceBooted
    | InstanceSystemMetadataSaved
    | SnapshotTaken
    | InstanceRebuilt
    | InstanceRebuildRolledBack
    | InstanceRescued
    | InstanceUnrescued
    | InstanceRelocated
    | InstanceDeleted
    | DestroyJudged
)
INSTANCE_EVENTS = (
    InstanceBooted,
    InstanceSystemMetadataSaved,
    SnapshotTaken,
    InstanceRebuilt,
    InstanceRebuildRolledBack,
    InstanceRescued,
    InstanceUnrescued,
    InstanceRelocated,
    InstanceDeleted,
    DestroyJudged,
)

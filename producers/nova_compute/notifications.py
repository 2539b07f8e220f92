"""What a notification of nova-compute tells. Pure.

Both formats are read. A versioned one is complete by itself but for shelving and rescue metadata;
an unversioned one says what happened, and the `Operation` in which it happened says to what. Where
both are sent, the operation remembers what was told, and an unversioned one without an operation
tells nothing: a fact is told once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from metaledger.producers.nova_compute.operations import Operation
from metaledger.schemas.instance import (
    InstanceRescued,
    InstanceUnrescued,
    SnapshotPurpose,
    SnapshotTaken,
)
from metaledger.schemas.representable import representable, representable_map

Told = SnapshotTaken | InstanceRescued | InstanceUnrescued

_VERSIONED, _UNVERSIONED = "instance.", "compute.instance."
_SERVICES = ("nova-compute", "compute")
# The unversioned names that differ.
_NAMES = {
    "resize.confirm.end": "resize_confirm.end",
    "live_migration._post.end": "live_migration_post.end",
}
_BACKUP = "image_backup"
_CONFIRMED = "resize_confirm.end"


class Disks(Enum):
    """What became of the instance's disks on this machine."""

    GONE = auto()
    RESCUE_GONE = auto()
    LEFT = auto()


_DISKS = {
    "delete.end": Disks.GONE,
    "shelve_offload.end": Disks.GONE,
    "unrescue.end": Disks.RESCUE_GONE,
    _CONFIRMED: Disks.LEFT,
    # Whatever host it names: the source's own object of the instance is as it was before.
    "live_migration_post.end": Disks.LEFT,
}
_TELLING = {"snapshot.start", "shelve.start", "rescue.end", "unrescue.end"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A notification about an instance that may tell something, in one form for both formats."""

    action: str
    versioned: bool
    instance_uuid: str
    image_ref: str | None
    task_state: str | None
    snapshot_image_id: str | None = None
    rescue_image_ref: str | None = None
    elsewhere: bool = False

    @property
    def disks(self) -> Disks | None:
        """What became of the disks; None: nothing. What is confirmed on the host where the
        instance stays moved none.
        """
        if self.action == _CONFIRMED and not self.elsewhere:
            return None
        return _DISKS.get(self.action)


def read(message: Mapping[str, Any]) -> Notice | None:
    """The notice; None where the notification is none of nova-compute's that tells anything.

    Raises KeyError, TypeError where it has not the form of one.
    """
    event_type: str = message["event_type"]
    versioned = event_type.startswith(_VERSIONED)
    if not versioned and not event_type.startswith(_UNVERSIONED):
        return None
    action = event_type.removeprefix(_VERSIONED if versioned else _UNVERSIONED)
    action = _NAMES.get(action, action)
    service, _, host = message["publisher_id"].partition(":" if versioned else ".")
    if service not in _SERVICES or not (action in _TELLING or action in _DISKS):
        return None
    payload: Mapping[str, Any] = message["payload"]
    return _versioned(action, payload, host) if versioned else _unversioned(action, payload, host)


def told(notice: Notice, operation: Operation | None) -> Told | None:
    """The fact that it tells, if it tells one and it was not told before. Raises ValueError."""
    if operation is None and not notice.versioned:
        return None
    fact = _fact(notice, operation)
    if operation is not None and fact is not None:
        if type(fact) in operation.told:
            return None
        operation.told.add(type(fact))
    return fact


def _fact(notice: Notice, operation: Operation | None) -> Told | None:
    if notice.action in {"snapshot.start", "shelve.start"}:
        return _snapshot(notice, operation)
    if notice.action == "rescue.end":
        return _rescued(notice, operation)
    if notice.action == "unrescue.end":
        return InstanceUnrescued(instance_uuid=notice.instance_uuid)
    return None


def _snapshot(notice: Notice, operation: Operation | None) -> SnapshotTaken | None:
    image_id = notice.snapshot_image_id or (operation and operation.snapshot_image_id)
    purpose = SnapshotPurpose.SNAPSHOT
    if notice.action == "shelve.start":
        # An instance on a volume is shelved without an image.
        purpose = SnapshotPurpose.SHELVE
    elif notice.task_state == _BACKUP:
        purpose = SnapshotPurpose.BACKUP
    if not image_id:
        return None
    return SnapshotTaken(
        instance_uuid=notice.instance_uuid,
        snapshot_image_id=image_id,
        image_ref=notice.image_ref,
        purpose=purpose,
    )


def _rescued(notice: Notice, operation: Operation | None) -> InstanceRescued:
    image_ref = (operation and operation.rescue_image_ref) or notice.rescue_image_ref
    if not image_ref:
        raise ValueError("a rescue without its image")
    metadata, altered = representable_map(operation.rescue_metadata if operation else {})
    return InstanceRescued(
        instance_uuid=notice.instance_uuid,
        rescue_image_ref=representable(image_ref),
        rescue_metadata=metadata,
        altered=altered,
    )


def _versioned(action: str, payload: Mapping[str, Any], host: str) -> Notice:
    data: Mapping[str, Any] = payload["nova_object.data"]
    return Notice(
        action=action,
        versioned=True,
        instance_uuid=data["uuid"],
        image_ref=data.get("image_uuid") or None,
        task_state=data.get("task_state"),
        snapshot_image_id=data.get("snapshot_image_id"),
        rescue_image_ref=data.get("rescue_image_ref"),
        elsewhere=data.get("host") != host,
    )


def _unversioned(action: str, payload: Mapping[str, Any], host: str) -> Notice:
    url: str = payload.get("image_ref_url") or ""
    return Notice(
        action=action,
        versioned=False,
        instance_uuid=payload["instance_id"],
        image_ref=url.rpartition("/")[2] or None,
        task_state=payload.get("state_description"),
        elsewhere=payload.get("host") != host,
    )

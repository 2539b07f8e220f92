"""What happens in a shop, by chance: the next events of an image, an instance or a hypervisor, and
what its service then holds of it. Pure; `shop` commits it.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from random import Random
from typing import Any

from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskLayout,
    DiskLayoutChanged,
    DiskSource,
    SourceKind,
)
from metaledger.schemas.events import EventData
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.instance import (
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
)

IMAGES, INSTANCES, HYPERVISORS = 16, 6, 3
# Fewer than hypervisors, so that two may share one.
_HOSTS = ("host-1", "host-2", "host-3")
_DISKS = ("disk", "disk.local", "disk.swap")
_KEYS = ("a", "b", "c", "d", "image_type", "os_glance_import")
# What an image says it was made from, for whoever asks where it descends from.
_BASE = "base_image_ref"
_VALUES = (None, "", "1", "2", "snapshot", "\u202e\U0001f4be")

Properties = dict[str, str | None]
# What the service holds of an aggregate, as JSON can have it; None where there is none.
Held = dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Happening:
    """What is told in one transaction, in order, what is held then, and whose request it was."""

    events: list[EventData]
    held: Held
    request_id: str | None = None


def happens(random: Random, aggregate: str, held: Held, now: datetime) -> Happening:
    """What happens next to this aggregate, of which that is held."""
    kind, _, name = aggregate.partition(":")
    if kind == "image":
        data, after = change(random, name, held, now)
        return Happening([data], after)
    if kind == "hypervisor":
        return _of_hypervisor(random, name, held)
    return _boot(random, name) if held is None else _of_instance(random, name, held, now)


def change(
    random: Random, image_id: str, held: Properties | None, now: datetime
) -> tuple[EventData, Properties | None]:
    """What happens next to an image, and its properties then; None where there is no image."""
    if held is None:
        first = _some(random)
        return ImageRegistered(image_id=image_id, status="queued", properties=first), first
    if random.random() < 0.05:
        return ImageDeleted(image_id=image_id, deleted_at=now), None
    changed = _merge(random, held) if random.random() < 0.5 else _purge(random, held)
    after = dict(changed.after or {})
    if random.random() < 0.2:
        told_too = {"before": None, "after": None} if random.random() < 0.5 else {}
        changed = replace(changed, **told_too)
    if random.random() < 0.1:
        size = random.randrange(1 << 40)
        if random.random() < 0.5:
            instance = f"instance-{random.randrange(INSTANCES)}"
            snapshot = SnapshotUploaded(
                image_id=image_id,
                instance_uuid=instance,
                size=size,
                status="active",
                change=changed,
            )
            return snapshot, after
        upload = ImageDataUploaded(image_id=image_id, size=size, status="active", change=changed)
        return upload, after
    attributes = {"name": random.choice("xyz")} if random.random() < 0.3 else {}
    return ImageUpdated(image_id=image_id, attributes=attributes, change=changed), after


def _of_hypervisor(random: Random, name: str, held: Held) -> Happening:
    host = random.choice(_HOSTS)
    if held is None:
        registered = HypervisorRegistered(
            hypervisor_id=name,
            id_source=random.choice([IdSource.NATIVE, IdSource.FILE]),
            host=host,
            hypervisor_type=random.choice(["QEMU", "ironic"]),
        )
        return Happening([registered], {"host": host})
    if random.random() < 0.1:
        return Happening([HypervisorRemoved(hypervisor_id=name)], None)
    changed = HypervisorHostChanged(hypervisor_id=name, from_host=held["host"], to_host=host)
    return Happening([changed], {"host": host})


def _boot(random: Random, uuid: str) -> Happening:
    image = _image(random)
    metadata = _first_metadata(random, image)
    boot = InstanceBooted(instance_uuid=uuid, image_ref=image, system_metadata=metadata)
    # `rebuild` is the request of one that is under way.
    held = {"metadata": metadata, "rebuild": None, "rescued": False, "disks": {}}
    return Happening([boot], held)


def _of_instance(random: Random, uuid: str, held: dict[str, Any], now: datetime) -> Happening:
    if held["rebuild"] is not None and random.random() < 0.7:
        return _end_rebuild(random, uuid, held)
    if random.random() < 0.1:
        gone = [DiskDeleted(instance_uuid=uuid, disk=disk) for disk in held["disks"]]
        return Happening([InstanceDeleted(instance_uuid=uuid, deleted_at=now), *gone], None)
    some = random.choice(
        [
            _rebuild,
            _begin_rebuild,
            _begin_rebuild,
            _save,
            _relocate,
            _rescue,
            _snapshot,
            _disks,
            _disks,
        ]
    )
    return some(random, uuid, held)


def _rebuild(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    image = _image(random)
    after = _first_metadata(random, image)
    rebuilt = InstanceRebuilt(
        instance_uuid=uuid, image_ref=image, before=held["metadata"], after=after
    )
    return Happening([rebuilt], {**held, "metadata": after, "rebuild": None})


def _begin_rebuild(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    """Its metadata is told by another transaction of the same request."""
    request = f"req-{random.getrandbits(32):08x}"
    rebuilt = InstanceRebuilt(instance_uuid=uuid, image_ref=_image(random))
    return Happening([rebuilt], {**held, "rebuild": request}, request)


def _end_rebuild(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    request, ended = held["rebuild"], {**held, "rebuild": None}
    if random.random() < 0.2:
        taken_back = InstanceRebuildRolledBack(instance_uuid=uuid)
        return Happening([taken_back], ended, request)
    after = _first_metadata(random, _image(random))
    saved = InstanceSystemMetadataSaved(
        instance_uuid=uuid, operation="rebuild", before=held["metadata"], after=after
    )
    return Happening([saved], {**ended, "metadata": after}, request)


def _save(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    after = {**held["metadata"], **_metadata(random)}
    saved = InstanceSystemMetadataSaved(
        instance_uuid=uuid, operation="save", before=held["metadata"], after=after
    )
    return Happening([saved], {**held, "metadata": after})


def _relocate(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    relocated = InstanceRelocated(
        instance_uuid=uuid,
        cause=RelocationCause.LIVE_MIGRATION,
        to_hypervisor_id=f"hypervisor-{random.randrange(HYPERVISORS)}",
        to_host=random.choice(_HOSTS),
    )
    return Happening([relocated], held)


def _rescue(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    after = {**held, "rescued": not held["rescued"]}
    if held["rescued"]:
        return Happening([InstanceUnrescued(instance_uuid=uuid)], after)
    rescued = InstanceRescued(
        instance_uuid=uuid, rescue_image_ref=_image(random), rescue_metadata=_metadata(random)
    )
    return Happening([rescued], after)


def _snapshot(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    taken = SnapshotTaken(
        instance_uuid=uuid,
        snapshot_image_id=_image(random),
        image_ref=random.choice([None, held["metadata"]["image_base_image_ref"]]),
        purpose=SnapshotPurpose.SNAPSHOT,
    )
    return Happening([taken], held)


def _disks(random: Random, uuid: str, held: dict[str, Any]) -> Happening:
    """Some are intended at once, and later each was created or failed; else one is changed or
    deleted.
    """
    disks: dict[str, str] = dict(held["disks"])
    told: list[EventData] = []
    if intended := [disk for disk, state in disks.items() if state == "intended"]:
        for disk in intended:
            fails = random.random() < 0.3
            disks[disk] = "failed" if fails else "created"
            told.append(
                DiskCreationFailed(instance_uuid=uuid, disk=disk, error="no space left")
                if fails
                else DiskCreated(instance_uuid=uuid, disk=disk, layout=_maybe_layout(random))
            )
    elif lacking := [disk for disk in _DISKS if disks.get(disk) != "created"]:
        for disk in lacking[: random.randint(1, len(lacking))]:
            disks[disk] = "intended"
            layout = _layout(random)
            told.append(DiskCreationStarted(instance_uuid=uuid, disk=disk, layout=layout))
    else:
        disk = random.choice(_DISKS)
        if random.random() < 0.5:
            del disks[disk]
            told.append(DiskDeleted(instance_uuid=uuid, disk=disk))
        else:
            layout = _layout(random)
            told.append(
                DiskLayoutChanged(instance_uuid=uuid, disk=disk, layout=layout, reason="resize")
            )
    return Happening(told, {**held, "disks": disks})


def _layout(random: Random) -> DiskLayout:
    return DiskLayout(
        version="1.0",
        backend=random.choice(["qcow2", "flat"]),
        format="raw",
        size_bytes=random.randrange(1 << 40),
        source=DiskSource(kind=SourceKind.IMAGE, image_id=_image(random)),
    )


def _maybe_layout(random: Random) -> DiskLayout | None:
    """What it came out as, where that is not what was intended."""
    return _layout(random) if random.random() < 0.2 else None


def _first_metadata(random: Random, image: str) -> Properties:
    return {"image_base_image_ref": image, **_metadata(random)}


def _metadata(random: Random) -> Properties:
    return {f"image_{key}": value for key, value in _some(random).items()}


def _merge(random: Random, held: Properties) -> PropertyChange:
    new = _some(random)
    removed = tuple(key for key in held if key not in new and random.random() < 0.2)
    after = {key: value for key, value in {**held, **new}.items() if key not in removed}
    return PropertyChange(mode=Mode.MERGE, set=new, removed=removed, before=held, after=after)


def _purge(random: Random, held: Properties) -> PropertyChange:
    """All is sent back that was read, and what was not read is lost."""
    seen = {key: value for key, value in held.items() if random.random() < 0.9}
    new = {key: value for key, value in seen.items() if random.random() < 0.8} | _some(random)
    return PropertyChange(mode=Mode.PURGE, set=new, seen=tuple(seen), before=held, after=new)


def _some(random: Random) -> Properties:
    some = {key: random.choice(_VALUES) for key in _KEYS if random.random() < 0.3}
    return some | ({_BASE: _image(random)} if random.random() < 0.2 else {})


def _image(random: Random) -> str:
    return f"image-{random.randrange(IMAGES)}"

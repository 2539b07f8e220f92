"""What a whole cloud does, as its hooks record it: images, instances and their disks.

Two events in five are those of the images' workload, as they are there. The others are lives of
instances, whose parts come by streams of their own: what Nova's database holds, what the compute
services tell, and the images of snapshots from Glance.

An instance boots from one of the first images, with fifteen keys of metadata, is placed, and gets
its disks, each an intent and an outcome: one in three has a swap disk too, and one disk in a
hundred fails. Then come six changes on average: of twenty, eight save the metadata with one value
changed, five are snapshots (and the snapshot's image is registered, and its data arrives, in three
events), four are live migrations, one is a resize, one a rebuild with its save and its disk made
anew, and one a rescue. Three instances in four are deleted, with their disks. Changes meet any of
the latest 2,000 instances. The same seed gives the same events.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from random import Random
from uuid import UUID

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
from metaledger.schemas.events import Event, EventData
from metaledger.schemas.hypervisor import HypervisorRegistered, IdSource
from metaledger.schemas.image import (
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceDeleted,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceRescued,
    InstanceSystemMetadataSaved,
    InstanceUnrescued,
    RelocationCause,
    SnapshotPurpose,
    SnapshotTaken,
)

from .workload import META, START
from .workload import events as image_events

_LIVE_MAX = 2_000
_HOSTS = 50
_BASES = 40
_GIGABYTE = 2**30
_IMAGES, _DATABASE, _COMPUTE = "glance-1", "nova-1", "compute"
_FROM_IMAGE = {
    "image_architecture": "x86_64",
    "image_container_format": "bare",
    "image_disk_format": "qcow2",
    "image_hw_disk_bus": "virtio",
    "image_hw_vif_model": "virtio",
    "image_min_disk": "0",
    "image_min_ram": "0",
    "image_os_distro": "debian",
    "image_os_type": "linux",
}

# A stream, and what is told in it.
Told = Iterator[tuple[str, EventData]]


class _Instance:
    """What Nova holds of one instance, and its host of its disks."""

    def __init__(self, chance: Random, image_id: str) -> None:
        self.uuid = _new_uuid(chance)
        self.image_id = image_id
        self.host: int | None = None
        self.disks = ("disk", "disk.swap") if chance.random() < 1 / 3 else ("disk",)
        self.metadata: dict[str, str | None] = {
            **_FROM_IMAGE,
            "image_base_image_ref": image_id,
            "boot_roles": "member,reader",
            "owner_project_name": f"project-{chance.randrange(500)}",
            "owner_user_name": f"user-{chance.randrange(5_000)}",
            "network_allocated": "True",
            "revision": "0",
        }

    @property
    def compute(self) -> str:
        """The stream of its host."""
        return f"{_COMPUTE}-{self.host}"


def events(count: int, *, seed: int = 1) -> Iterator[Event]:
    """So many events, in the log's order."""
    chance = Random(seed)
    numbers = Counter[tuple[str, str]]()
    at = START
    for number, (stream, data) in zip(range(count), _happenings(chance, seed), strict=False):
        aggregate = str(data.aggregate)
        numbers[stream, aggregate] += 1
        at += timedelta(milliseconds=chance.randrange(1, 200))
        meta = replace(
            META,
            event_id=str(UUID(int=(number << 80) | chance.getrandbits(80))),
            aggregate=aggregate,
            stream_id=stream,
            stream_seq=numbers[stream, aggregate],
            occurred_at=at,
            service="glance-api" if stream == _IMAGES else stream,
            request_id=f"req-{chance.getrandbits(64):016x}",
        )
        yield Event(meta, data)


def _happenings(chance: Random, seed: int) -> Told:
    for host in range(_HOSTS):
        yield (
            f"{_COMPUTE}-{host}",
            HypervisorRegistered(
                hypervisor_id=_hypervisor(host), id_source=IdSource.FILE, host=f"compute-{host}"
            ),
        )
    bases: list[str] = []
    # As many as anybody may ask for.
    images = (event.data for event in image_events(10**9, seed=seed))
    instances = _instances(chance, bases)
    while True:
        if len(bases) == _BASES and chance.random() < 0.6:
            yield next(instances)
            continue
        data = next(images)
        if isinstance(data, ImageRegistered) and len(bases) < _BASES:
            bases.append(data.image_id)
        yield _IMAGES, data


def _instances(chance: Random, bases: list[str]) -> Told:
    live: deque[_Instance] = deque(maxlen=_LIVE_MAX)
    while True:
        turn = chance.random()
        if turn < 0.13 or not live:
            instance = _Instance(chance, chance.choice(bases))
            live.append(instance)
            yield from _booted(instance, chance)
        elif turn < 0.23:
            place = chance.randrange(len(live))
            instance = live[place]
            del live[place]
            yield from _deleted(instance)
        else:
            instance = live[chance.randrange(len(live))]
            (change,) = chance.choices(_CHANGES, _WEIGHTS)
            yield from change(instance, chance)


def _booted(instance: _Instance, chance: Random) -> Told:
    yield (
        _DATABASE,
        InstanceBooted(
            instance_uuid=instance.uuid,
            image_ref=instance.image_id,
            system_metadata=dict(instance.metadata),
            flavor="m1.small",
        ),
    )
    yield from _moved(instance, chance, RelocationCause.SCHEDULED)
    for disk in instance.disks:
        yield from _made(instance, disk, chance)


def _moved(instance: _Instance, chance: Random, cause: RelocationCause) -> Told:
    left, instance.host = instance.host, chance.randrange(_HOSTS)
    yield (
        _DATABASE,
        InstanceRelocated(
            instance_uuid=instance.uuid,
            cause=cause,
            from_hypervisor_id=None if left is None else _hypervisor(left),
            to_hypervisor_id=_hypervisor(instance.host),
            from_host=None if left is None else f"compute-{left}",
            to_host=f"compute-{instance.host}",
        ),
    )


def _made(instance: _Instance, disk: str, chance: Random) -> Told:
    this = {"instance_uuid": instance.uuid, "disk": disk}
    yield instance.compute, DiskCreationStarted(**this, layout=_layout(instance, disk))
    if chance.random() < 0.01:
        yield instance.compute, DiskCreationFailed(**this, error="no space left on device")
    else:
        yield instance.compute, DiskCreated(**this)


def _saved(instance: _Instance, chance: Random, operation: str = "save") -> Told:
    before = dict(instance.metadata)
    instance.metadata["revision"] = str(chance.getrandbits(32))
    yield (
        _DATABASE,
        InstanceSystemMetadataSaved(
            instance_uuid=instance.uuid,
            operation=operation,
            before=before,
            after=dict(instance.metadata),
        ),
    )


def _snapshot(instance: _Instance, chance: Random) -> Told:
    image_id = _new_uuid(chance)
    properties = {
        **{key.removeprefix("image_"): value for key, value in instance.metadata.items()},
        "image_type": "snapshot",
        "instance_uuid": instance.uuid,
    }
    unchanged = PropertyChange(mode=Mode.MERGE, removed=(), before=properties, after=properties)
    yield (
        instance.compute,
        SnapshotTaken(
            instance_uuid=instance.uuid,
            snapshot_image_id=image_id,
            image_ref=instance.image_id,
            purpose=SnapshotPurpose.SNAPSHOT,
        ),
    )
    yield (
        _IMAGES,
        ImageRegistered(
            image_id=image_id,
            name=f"snapshot {image_id[:8]}",
            status="queued",
            owner=META.project_id,
            visibility="private",
            disk_format="qcow2",
            container_format="bare",
            min_disk=0,
            min_ram=0,
            protected=False,
            properties=properties,
        ),
    )
    yield (
        _IMAGES,
        SnapshotUploaded(
            image_id=image_id,
            instance_uuid=instance.uuid,
            size=2_361_393_152,
            checksum=image_id.replace("-", ""),
            status="active",
            change=unchanged,
        ),
    )
    attributes = {"location_count": "1", "virtual_size": "21474836480"}
    yield _IMAGES, ImageUpdated(image_id=image_id, attributes=attributes, change=unchanged)


def _migrated(instance: _Instance, chance: Random) -> Told:
    return _moved(instance, chance, RelocationCause.LIVE_MIGRATION)


def _resized(instance: _Instance, chance: Random) -> Told:
    yield from _moved(instance, chance, RelocationCause.RESIZE)
    layout = _layout(instance, "disk", gigabytes=chance.randrange(20, 200))
    yield (
        instance.compute,
        DiskLayoutChanged(instance_uuid=instance.uuid, disk="disk", layout=layout, reason="resize"),
    )


def _rebuilt(instance: _Instance, chance: Random) -> Told:
    yield (
        _DATABASE,
        InstanceRebuilt(
            instance_uuid=instance.uuid,
            previous_image_ref=instance.image_id,
            image_ref=instance.image_id,
            before=dict(instance.metadata),
        ),
    )
    yield from _saved(instance, chance, "rebuild")
    yield instance.compute, DiskDeleted(instance_uuid=instance.uuid, disk="disk")
    yield from _made(instance, "disk", chance)


def _rescued(instance: _Instance, _chance: Random) -> Told:
    yield (
        instance.compute,
        InstanceRescued(
            instance_uuid=instance.uuid,
            rescue_image_ref=instance.image_id,
            rescue_metadata=dict(_FROM_IMAGE),
        ),
    )
    yield instance.compute, InstanceUnrescued(instance_uuid=instance.uuid)


def _deleted(instance: _Instance) -> Told:
    yield _DATABASE, InstanceDeleted(instance_uuid=instance.uuid, deleted_at=START)
    for disk in instance.disks:
        yield instance.compute, DiskDeleted(instance_uuid=instance.uuid, disk=disk)


def _layout(instance: _Instance, disk: str, *, gigabytes: int = 20) -> DiskLayout:
    from_image = DiskSource(kind=SourceKind.IMAGE, image_id=instance.image_id)
    return DiskLayout(
        version="1.0",
        backend="qcow2",
        format="qcow2",
        size_bytes=gigabytes * _GIGABYTE,
        source=from_image
        if disk == "disk"
        else DiskSource(kind=SourceKind.FUNCTION, function="mkswap"),
        location=f"/var/lib/nova/instances/{instance.uuid}/{disk}",
    )


def _new_uuid(chance: Random) -> str:
    return str(UUID(int=chance.getrandbits(128)))


def _hypervisor(host: int) -> str:
    return str(UUID(int=(1 << 120) | host))


_CHANGES: tuple[Callable[[_Instance, Random], Told], ...]
_CHANGES = (_saved, _snapshot, _migrated, _resized, _rebuilt, _rescued)
_WEIGHTS = (8, 5, 4, 1, 1, 1)

"""What a cloud's images do all day, as its hooks record it: the load of the projecting benchmarks.

One image's life: it is registered with ten properties, its data arrive within the next hundred
events (two in five are snapshots), which gives the upload's own event and one for `location_count`;
then come three PATCHes on average, each sending back the whole set with one value changed, one key
new and sometimes one gone; half of the images are deleted. Every change carries the properties
before and after it, as Glance's hook gives them: a record has about 900 bytes. PATCHes and
deletions meet any of the latest 5,000 images, so a batch finds some that the one before touched
and some that it did not. The same seed gives the same events.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event, EventData, StreamNumber
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.instance import InstanceBooted, SnapshotPurpose, SnapshotTaken
from metaledger.schemas.log import LogWriter, NewRecord, Position
from metaledger.schemas.meta import Meta

START = datetime(2026, 11, 21, 13, 0, tzinfo=UTC)
_LIVE_MAX = 5_000
_STREAMS: dict[type, str] = {InstanceBooted: "nova-1", SnapshotTaken: "compute-1"}
_COMMON = {
    "architecture": "x86_64",
    "hw_disk_bus": "virtio",
    "hw_vif_model": "virtio",
    "hypervisor_type": "qemu",
    "os_distro": "debian",
    "os_type": "linux",
    "os_version": "13",
}
META = Meta(
    event_id="",
    aggregate="",
    stream_id="glance-1",
    epoch=1,
    stream_seq=1,
    occurred_at=START,
    service="glance-api",
    host="controller-1",
    user_id="5b7e2c2a9d5f4f0c8d1b",
    project_id="9a1d5c7e3f604d0bb2c4",
)


class _Image:
    """What the service holds of one image."""

    def __init__(self, chance: Random) -> None:
        self.id = str(UUID(int=chance.getrandbits(128)))
        self.is_snapshot = chance.random() < 0.4
        self.properties: dict[str, str | None] = {
            **_COMMON,
            "image_type": "snapshot" if self.is_snapshot else "image",
            "build_id": str(chance.getrandbits(40)),
            "owner_specified.team": f"team-{chance.randrange(50)}",
        }
        self.stream_seq = 0


def events(count: int, *, seed: int = 1) -> Iterator[Event]:
    """So many events, in the log's order."""
    chance = Random(seed)
    at = START
    for number, (image, data) in zip(range(count), _happenings(chance), strict=False):
        image.stream_seq += 1
        at += timedelta(milliseconds=chance.randrange(1, 200))
        meta = replace(
            META,
            event_id=str(UUID(int=(number << 80) | chance.getrandbits(80))),
            aggregate=f"image:{image.id}",
            stream_seq=image.stream_seq,
            occurred_at=at,
            request_id=f"req-{chance.getrandbits(64):016x}",
        )
        yield Event(meta, data)


def registrations(count: int, *, seed: int = 1) -> Iterator[Event]:
    """So many images, each registered and nothing more: what makes a read model large."""
    chance = Random(seed)
    for number in range(count):
        image = _Image(chance)
        meta = replace(
            META,
            event_id=str(UUID(int=(number << 80) | chance.getrandbits(80))),
            aggregate=f"image:{image.id}",
            occurred_at=START + timedelta(seconds=number),
        )
        yield Event(meta, _registered(image))


def chains(count: int, *, depth: int, seed: int = 1) -> Iterator[Event]:
    """So many images, each with a snapshot of an instance that booted from it, with a snapshot of
    one that booted from that, and so on, so deep; each snapshot declares what it was made from.
    """
    chance = Random(seed)
    for number, data in enumerate(_chains(count, depth, chance)):
        meta = replace(
            META,
            event_id=str(UUID(int=(number << 80) | chance.getrandbits(80))),
            aggregate=str(data.aggregate),
            stream_id=_STREAMS.get(type(data), META.stream_id),
            occurred_at=START + timedelta(milliseconds=number),
        )
        yield Event(meta, data)


def _chains(count: int, depth: int, chance: Random) -> Iterator[EventData]:
    for _ in range(count):
        parent = _Image(chance)
        yield _registered(parent)
        for _ in range(depth):
            instance_uuid, snapshot = str(UUID(int=chance.getrandbits(128))), _Image(chance)
            yield InstanceBooted(instance_uuid=instance_uuid, image_ref=parent.id)
            yield SnapshotTaken(
                instance_uuid=instance_uuid,
                snapshot_image_id=snapshot.id,
                image_ref=parent.id,
                purpose=SnapshotPurpose.SNAPSHOT,
            )
            snapshot.properties |= {
                "image_type": "snapshot",
                "instance_uuid": instance_uuid,
                "base_image_ref": parent.id,
            }
            yield _registered(snapshot)
            parent = snapshot


def append(writer: LogWriter, them: Iterator[Event]) -> int:
    """Writes the events into a log as their relay would; gives their number."""
    codec = Codec()
    written = 0
    batch: list[NewRecord] = []
    for event in them:
        batch.append(record(codec, event))
        if len(batch) == 5_000:
            written += _append(writer, batch)
            batch = []
    return written + _append(writer, batch)


def record(codec: Codec, event: Event) -> NewRecord:
    encoded = codec.encode(event)
    meta = event.meta
    return NewRecord(
        key=meta.aggregate,
        value=encoded.value,
        sha256=encoded.sha256,
        event_id=meta.event_id,
        number=StreamNumber(stream_id=meta.stream_id, epoch=meta.epoch, stream_seq=meta.stream_seq),
    )


def _append(writer: LogWriter, batch: list[NewRecord]) -> int:
    if batch:
        outcomes = writer.append(batch)
        if not all(isinstance(outcome, Position) for outcome in outcomes):
            raise RuntimeError(f"the log did not take it: {outcomes[-1]}")
    return len(batch)


def _happenings(chance: Random) -> Iterator[tuple[_Image, EventData]]:
    live: deque[_Image] = deque(maxlen=_LIVE_MAX)
    arriving: deque[_Image] = deque()
    while True:
        turn = chance.random()
        if turn < 0.154 or not live:
            image = _Image(chance)
            arriving.append(image)
            live.append(image)
            yield image, _registered(image)
        elif turn < 0.462:
            if len(arriving) > 15:
                image = arriving.popleft()
                yield image, _uploaded(image)
                yield image, _located(image)
        elif turn < 0.923:
            image = live[chance.randrange(len(live))]
            yield image, _patched(image, chance)
        else:
            place = chance.randrange(len(live))
            image = live[place]
            if image not in arriving:
                del live[place]
                yield image, ImageDeleted(image_id=image.id, deleted_at=START)


def _registered(image: _Image) -> ImageRegistered:
    return ImageRegistered(
        image_id=image.id,
        name=f"image {image.id[:8]}",
        status="queued",
        owner="9a1d5c7e3f604d0bb2c4",
        visibility="private",
        disk_format="qcow2",
        container_format="bare",
        min_disk=0,
        min_ram=0,
        protected=False,
        properties=dict(image.properties),
    )


def _unchanged(image: _Image) -> PropertyChange:
    held = dict(image.properties)
    return PropertyChange(mode=Mode.MERGE, removed=(), before=held, after=held)


def _uploaded(image: _Image) -> EventData:
    told = {
        "image_id": image.id,
        "size": 2_361_393_152,
        "checksum": image.id.replace("-", ""),
        "os_hash_algo": "sha512",
        "os_hash_value": image.id.replace("-", "") * 4,
        "status": "active",
        "change": _unchanged(image),
    }
    return SnapshotUploaded(**told) if image.is_snapshot else ImageDataUploaded(**told)


def _located(image: _Image) -> ImageUpdated:
    attributes = {"location_count": "1", "virtual_size": "21474836480"}
    return ImageUpdated(image_id=image.id, attributes=attributes, change=_unchanged(image))


def _patched(image: _Image, chance: Random) -> ImageUpdated:
    before = dict(image.properties)
    image.properties["os_version"] = str(chance.randrange(1, 1000))
    image.properties[f"note-{chance.randrange(5)}"] = str(chance.getrandbits(32))
    removed = ()
    if chance.random() < 0.3:
        gone = chance.choice(sorted(image.properties))
        removed = (gone,) if gone in before else ()
        image.properties.pop(gone)
    after = dict(image.properties)
    change = PropertyChange(
        mode=Mode.PURGE,
        set=after,
        removed=removed,
        seen=tuple(before),
        before=before,
        after=after,
    )
    return ImageUpdated(image_id=image.id, change=change)

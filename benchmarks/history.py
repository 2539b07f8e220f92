"""Lives of images as a cloud has them: registered, uploaded, changed twice, some of them deleted.

The same number gives the same life. A snapshot has twelve properties, and the hook knows what the
database held before and after a change: an event of a change has about 1.5 kB in Avro.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from metaledger.schemas.events import Event, EventData
from metaledger.schemas.identity import derived_id
from metaledger.schemas.image import (
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.meta import Context, Meta

CONTEXT = Context(service="benchmark", host="here")
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def history(lives: int, *, first: int = 0) -> Iterator[Event]:
    """The events of so many images, interleaved: one step of each of a hundred, then the next."""
    for start in range(first, first + lives, 100):
        group = [life(number) for number in range(start, min(start + 100, first + lives))]
        for step in range(max(map(len, group))):
            yield from (events[step] for events in group if step < len(events))


def life(number: int) -> list[Event]:
    """All events of one image, numbered from 1."""
    return [_event(number, seq, data) for seq, data in enumerate(_life(number), start=1)]


def _life(number: int) -> list[EventData]:
    image_id = str(UUID(int=number + (0xF411E336 << 96)))
    instance = str(UUID(int=number + (0x60FC2546 << 96)))
    at_first = _properties(number, instance)
    uploaded = {**at_first, "image_state": "available", "image_location": "snapshot"}
    renamed = {**uploaded, "os_version": f"12.{number % 9}"}
    fewer = {key: value for key, value in renamed.items() if key != "hw_rng_model"}
    registered = ImageRegistered(
        image_id=image_id,
        name=f"snapshot {number}",
        status="queued",
        owner=f"{number % 997:032x}",
        visibility="private",
        disk_format="qcow2",
        container_format="bare",
        min_disk=20,
        min_ram=0,
        protected=False,
        tags=("nightly",),
        properties=at_first,
    )
    data: list[EventData] = [
        registered,
        SnapshotUploaded(
            image_id=image_id,
            instance_uuid=instance,
            size=2_361_393_152 + number,
            checksum=f"{number:032x}",
            os_hash_algo="sha512",
            os_hash_value=f"{number:0128x}",
            status="active",
            change=_change(at_first, uploaded),
        ),
        ImageUpdated(
            image_id=image_id,
            attributes={"name": f"release {number}"},
            change=_change(uploaded, renamed),
        ),
        ImageUpdated(image_id=image_id, change=_change(renamed, fewer)),
    ]
    if number % 2:
        data.append(ImageDeleted(image_id=image_id, deleted_at=_BEGIN + timedelta(days=30)))
    return data


def _properties(number: int, instance: str) -> dict[str, str | None]:
    return {
        "image_type": "snapshot",
        "image_state": "pending",
        "instance_uuid": instance,
        "base_image_ref": str(UUID(int=number % 50 + (0x89AB6EDC << 96))),
        "user_id": f"{number % 4999:032x}",
        "owner_user_name": f"user-{number % 4999}",
        "owner_project_name": f"project-{number % 997}",
        "boot_roles": "member,reader",
        "hw_disk_bus": "virtio",
        "hw_vif_model": "virtio",
        "hw_rng_model": "virtio",
        "os_distro": "debian",
    }


def _change(
    before: dict[str, str | None], after: dict[str, str | None], mode: Mode = Mode.PURGE
) -> PropertyChange:
    removed = tuple(key for key in before if key not in after)
    return PropertyChange(
        mode=mode, set=after, removed=removed, seen=tuple(before), before=before, after=after
    )


def _event(number: int, seq: int, data: EventData) -> Event:
    meta = Meta(
        event_id=derived_id("benchmark", number, seq),
        deployment_id="region-1",
        aggregate=str(data.aggregate),
        stream_id="0a1b2c3d-glance",
        epoch=1,
        stream_seq=seq,
        occurred_at=_BEGIN + timedelta(seconds=number, microseconds=seq),
        service="glance-api",
        host="controller-1",
        request_id=f"req-{UUID(int=number * 8 + seq)}",
        user_id=f"{number % 4999:032x}",
        project_id=f"{number % 997:032x}",
    )
    return Event(meta, data)

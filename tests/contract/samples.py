"""One event of every type, by hand: what tests start from that want any good event."""

from datetime import UTC, datetime

from metaledger.schemas.events import Event, EventData
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
from metaledger.schemas.ledger import GapAccepted, RecordSkipped, SourceProgressed
from metaledger.schemas.meta import Meta, Origin

from . import instance_samples

HYPERVISOR = "3b1f6c1e-8a55-4f3e-9d2e-0c6f5d3f7a10"
IMAGE = "f411e336-fdd2-4d9b-8fd6-78dfe6809d3b"
AT = datetime(2026, 11, 21, 13, 43, 32, 516137, tzinfo=UTC)
CHANGE = PropertyChange(
    mode=Mode.PURGE,
    set={"image_state": "available", "ramdisk_id": None},
    removed=("key1",),
    seen=("image_state", "key1"),
    exempt=("os_glance_importing_to_stores",),
    before={"image_state": "pending", "key1": "value1", "key2": "value2"},
    after={"image_state": "available", "ramdisk_id": None},
    altered=("image_state",),
)
DATA: tuple[EventData, ...] = (
    ImageRegistered(
        image_id=IMAGE,
        name="image12345",
        status="queued",
        owner="admin",
        min_disk=10,
        protected=False,
        tags=("a", "b"),
        properties={"image_type": "snapshot", "backup_type": None},
        attributes={"os_hidden": "true", "virtual_size": None},
    ),
    SnapshotUploaded(
        image_id=IMAGE, instance_uuid="60fc2546", size=1 << 40, status="active", change=CHANGE
    ),
    ImageDataUploaded(image_id=IMAGE, size=0, checksum="d41d8", status="active", change=CHANGE),
    ImageUpdated(image_id=IMAGE, attributes={"name": "new"}, tags=("a",), change=CHANGE),
    ImageDeleted(image_id=IMAGE, deleted_at=AT),
    SourceProgressed(
        oldest_unsent_at=AT, rows_waiting=3, rows_max=1_000_000, unrecorded_aggregates=0
    ),
    GapAccepted(gap_stream_id="glance", gap_epoch=1, from_seq=5, to_seq=6, reason="lost disk"),
    RecordSkipped(topic_id="t", log_partition=11, log_offset=1 << 40, reason="no such image"),
    HypervisorRegistered(
        hypervisor_id=HYPERVISOR,
        id_source=IdSource.FILE,
        host="compute-a",
        hypervisor_hostname="compute-a.example.org",
    ),
    HypervisorHostChanged(hypervisor_id=HYPERVISOR, from_host="compute-a", to_host="renamed"),
    HypervisorRemoved(hypervisor_id=HYPERVISOR),
    *instance_samples.DATA,
)


def event(data: EventData) -> Event:
    return Event(
        Meta(
            event_id="01932a5d-ac96-774b-bcce-b302099a8057",
            aggregate=data.aggregate or f"image:{IMAGE}",
            stream_id="glance",
            epoch=1,
            stream_seq=5,
            occurred_at=AT,
            service="glance",
            host="controller-1",
            origin=Origin.OBSERVED,
            request_id="req-1",
        ),
        data,
    )


EVENTS = tuple(event(data) for data in DATA)
UPDATED = event(DATA[3])

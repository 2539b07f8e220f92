"""One event of an instance of every type, by hand; `samples` has those of all aggregates."""

from datetime import UTC, datetime

from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskLayout,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
    DiskSource,
    SourceKind,
)
from metaledger.schemas.instance import (
    DestroyJudged,
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
    Verdict,
)

THIS = "5c0c7a31-2f4e-4f0a-8f0e-61c1a3f70b21"
STORED = {"image_hw_disk_bus": "virtio", "image_empty": "", "image_null": None, "owner": "u"}
LAYOUT = DiskLayout(
    version="1.0",
    backend="qcow2",
    format="qcow2",
    size_bytes=1 << 40,
    source=DiskSource(kind=SourceKind.IMAGE, image_id="image-1"),
    extra={"cluster_size": "65536"},
)
DATA = (
    InstanceBooted(instance_uuid=THIS, image_ref="image-1", system_metadata=STORED, host="c-1"),
    InstanceSystemMetadataSaved(instance_uuid=THIS, operation="resize", before=STORED, after={}),
    SnapshotTaken(
        instance_uuid=THIS,
        snapshot_image_id="image-2",
        purpose=SnapshotPurpose.SHELVE,
        properties={"image_type": "snapshot"},
    ),
    InstanceRebuilt(instance_uuid=THIS, image_ref="image-2", after=STORED, altered=("owner",)),
    InstanceRebuildRolledBack(instance_uuid=THIS, image_ref="image-1"),
    InstanceRescued(instance_uuid=THIS, rescue_image_ref="image-3", rescue_metadata=STORED),
    InstanceUnrescued(instance_uuid=THIS),
    InstanceRelocated(
        instance_uuid=THIS,
        cause=RelocationCause.EVACUATION,
        from_hypervisor_id="hv-1",
        to_hypervisor_id="hv-2",
    ),
    InstanceDeleted(
        instance_uuid=THIS, deleted_at=datetime(2026, 11, 21, 13, 43, 32, 516137, tzinfo=UTC)
    ),
    DestroyJudged(
        instance_uuid=THIS,
        hypervisor_id="hv-1",
        host="c-1",
        verdict=Verdict.UNKNOWN,
        reason="the read model is behind",
    ),
    DiskCreationStarted(instance_uuid=THIS, disk="disk", layout=LAYOUT),
    DiskCreated(instance_uuid=THIS, disk="disk"),
    DiskCreationFailed(instance_uuid=THIS, disk="disk.swap", error="no space left on device"),
    DiskLayoutBackfilled(instance_uuid=THIS, disk="disk.local", layout=LAYOUT),
    DiskLayoutChanged(instance_uuid=THIS, disk="disk", layout=LAYOUT, reason="resize"),
    DiskDeleted(instance_uuid=THIS, disk="disk.local"),
)

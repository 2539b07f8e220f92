"""What a virt driver tells of its disks, from its spool to who asks."""

from contextlib import suppress

from metaledger.producers.disks import Disks, NewDisk
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind
from metaledger.schemas.log.embedded import create_embedded_log

UUID = "f5000000-0000-4000-8000-000000000001"
LAYOUT = DiskLayout(
    version="1.0",
    backend="lvm",
    format="raw",
    size_bytes=1 << 30,
    source=DiskSource(kind=SourceKind.FUNCTION, function="mkswap"),
    extra={"volume_group": "nova"},
)


def test_disks_are_shown_as_their_driver_told_them(metaledger, home):
    settings = ProducerSettings(service="nova-compute", host="compute-a")
    spool = Spool(home / "spool.db", settings)
    disks = Disks(spool, settings.context)
    names = ("disk.eph0", "disk.swap")
    new = [NewDisk(instance_uuid=UUID, disk=name, layout=LAYOUT) for name in names]
    with suppress(OSError), disks.creating(*new) as creation:
        creation.made(new[0])
        raise OSError("no space left")
    log = create_embedded_log(home / "metaledger.db")
    Relay(spool.engine, log.writer(), spool.outbox, partitions=1, owner="relay").drain()
    log.close()
    assert metaledger("project").status == 0
    shown = metaledger("--json", "instance", "disks", UUID).document["disks"]
    assert [(one["disk"], one["state"], one["last_error"]) for one in shown] == [
        ("disk.eph0", "created", None),
        ("disk.swap", "failed", "OSError: no space left"),
    ]
    info = {"version": "1.0", "backend": "lvm", "format": "raw", "size": 1 << 30}
    assert shown[0]["driver_info"] == {"libvirt_disk_metadata": info}
    assert shown[0]["extra"] == {"volume_group": "nova"}
    assert "mkswap" in metaledger("instance", "disks", UUID).out

"""What nova-compute tells through its spool, from there to who asks."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from metaledger.producers.disks import Disks, NewDisk
from metaledger.producers.nova_compute.identity import Hypervisor, Identity
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind
from metaledger.schemas.hypervisor import IdSource
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
HERE = Hypervisor(hypervisor_id="hv-1", id_source=IdSource.FILE, host="compute-a")
SETTINGS = ProducerSettings(service="nova-compute", host="compute-a")


@pytest.fixture
def project(metaledger, home):
    """Takes what spools hold to the ledger, and projects it."""

    def run(*spools: Spool) -> None:
        log = create_embedded_log(home / "metaledger.db")
        for spool in spools:
            Relay(spool.engine, log.writer(), spool.outbox, partitions=1, owner="me").drain()
        log.close()
        assert metaledger("project").status == 0

    return run


def spool_of(folder: Path) -> Spool:
    return Spool(folder / "spool.db", SETTINGS)


def test_disks_are_shown_as_their_driver_told_them(metaledger, home, project):
    spool = spool_of(home)
    disks = Disks(spool, SETTINGS.context)
    names = ("disk.eph0", "disk.swap")
    new = [NewDisk(instance_uuid=UUID, disk=name, layout=LAYOUT) for name in names]
    with suppress(OSError), disks.creating(*new) as creation:
        creation.made(new[0])
        raise OSError("no space left")
    project(spool)
    shown = metaledger("--json", "instance", "disks", UUID).document["disks"]
    assert [(one["disk"], one["state"], one["last_error"]) for one in shown] == [
        ("disk.eph0", "created", None),
        ("disk.swap", "failed", "OSError: no space left"),
    ]
    info = {"version": "1.0", "backend": "lvm", "format": "raw", "size": 1 << 30}
    assert shown[0]["driver_info"] == {"libvirt_disk_metadata": info}
    assert shown[0]["extra"] == {"volume_group": "nova"}
    assert "mkswap" in metaledger("instance", "disks", UUID).out


def test_a_lost_id_makes_two_hypervisors_of_one_host(metaledger, home, project):
    spool = spool_of(home)
    for seen in (HERE, replace(HERE, hypervisor_id="hv-2")):
        Identity(spool, SETTINGS.context).seen([seen])
    project(spool)
    found = metaledger("--json", "anomalies", "--kind", "hypervisor_duplicate").document
    assert "hv-2" in str(found)


def test_a_copied_id_makes_two_hosts_of_one_hypervisor(metaledger, home, project):
    here, there = spool_of(home / "a"), spool_of(home / "b")
    Identity(here, SETTINGS.context).seen([HERE])
    Identity(there, SETTINGS.context).seen([replace(HERE, host="compute-b")])
    project(here, there)
    kinds = {one["kind"] for one in metaledger("--json", "anomalies").document}
    assert kinds == {"history_gap", "hypervisor_host_changed"}

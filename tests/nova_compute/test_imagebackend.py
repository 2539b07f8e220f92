"""Libvirt's image backends as Nova 34 ships them, with files that a real qemu-img makes."""

import signal
import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metaledger.producers.disks import Disks
from metaledger.producers.nova_compute import imagebackend
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind
from metaledger.schemas.errors import Unrecorded
from metaledger.schemas.log.embedded import create_embedded_log
from metaledger.services import cli

from .conftest import Host, create

UUID = "f5000000-0000-4000-8000-000000000001"
IMAGE = DiskSource(kind=SourceKind.IMAGE, image_id="a5000000-0000-4000-8000-000000000009")
MIB = 1024 * 1024
STARTED, CREATED, FAILED = "DiskCreationStarted", "DiskCreated", "DiskCreationFailed"
KINDS = pytest.mark.parametrize("kind", ["qcow2", "raw"])
FORMATS = {"qcow2": ("qcow2", "qcow2"), "raw": ("flat", "raw")}


def disk(host: Host, name: str = "disk") -> Path:
    return host.folder / "instances" / UUID / name


def layout(host: Host, kind: str, source: DiskSource = IMAGE) -> DiskLayout:
    backend, form = FORMATS[kind]
    return DiskLayout(
        version="1.0",
        backend=backend,
        format=form,
        size_bytes=20 * MIB,
        source=source,
        location=str(disk(host)),
    )


def info(file: Path) -> str:
    command = ["qemu-img", "info", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_model(host: Host) -> list[Mapping[str, Any]]:
    """The rows of `disks` after relay and projector."""
    ledger, model = host.folder / "ledger.db", host.folder / "read.db"
    urls = ["--ledger", f"sqlite:///{ledger}", "--read-model", f"sqlite:///{model}"]
    drain(host, ledger)
    assert cli.run([*urls, "project"]) == 0
    with sqlite3.connect(model) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM disks ORDER BY disk")]


def drain(host: Host, ledger: Path) -> None:
    spool = Spool(host.spool, ProducerSettings(service="relay", host="here"))
    log = create_embedded_log(ledger)
    try:
        Relay(spool.engine, log.writer(), spool.outbox, partitions=1, owner="test").drain()
    finally:
        log.close()


@KINDS
def test_the_intent_is_in_the_spool_before_the_file_exists(host: Host, kind: str) -> None:
    host.take("make", kind)
    assert (host.seen["events_before"], host.seen["there_before"]) == (1, False)
    assert host.told() == [(STARTED, "disk"), (CREATED, "disk")]
    started, created = host.events()
    assert started.data.layout == layout(host, kind)
    assert created.data.layout is None
    assert f"file format: {FORMATS[kind][1]}" in info(disk(host))
    assert started.meta.service == "nova-compute"


def test_the_hook_waits_for_nova_to_load_what_it_wraps(host: Host) -> None:
    host.take("make")
    assert host.seen["drivers"] == [["metaledger"], ["metaledger"]]
    assert not host.seen["loaded_early"]
    assert host.seen["unwrapped"] == []


@KINDS
@pytest.mark.parametrize("step", ["die", "die_after"])
def test_a_crash_leaves_an_intended_disk_and_the_next_touch_mends_it(
    host: Host, kind: str, step: str
) -> None:
    assert host.take(step, kind) == -signal.SIGKILL
    assert disk(host).exists() == (step == "die_after")
    assert host.told() == [(STARTED, "disk")]
    [row] = read_model(host)
    assert (row["state"], row["recorded_by"], row["backend"]) == (
        "intended",
        "intent",
        FORMATS[kind][0],
    )
    host.take("make", kind)
    [row] = read_model(host)
    assert row["state"] == "created"


def test_without_a_durable_intent_the_disk_never_comes_into_being(host: Host) -> None:
    host.spool.mkdir()
    host.take("make")
    assert "Unrecorded: not made, for its intent could not be recorded" in host.seen["raised"]
    assert "there_before" not in host.seen
    assert not disk(host).exists()


def test_an_error_is_recorded_without_its_secrets(host: Host) -> None:
    host.take("fail")
    assert "hidden" in host.seen["raised"]
    assert host.told() == [(STARTED, "disk"), (FAILED, "disk")]
    error = host.events()[1].data.error
    assert error == "OSError: no space left, for https://***@glance/v2?***"
    assert not disk(host).exists()


def test_what_nova_refuses_has_failed(host: Host) -> None:
    host.take("small")
    assert host.told() == [(STARTED, "disk"), (FAILED, "disk")]
    assert host.events()[1].data.error.startswith("FlavorDiskSmallerThanImage: ")


def test_a_disk_made_by_a_function_names_it(host: Host) -> None:
    host.take("swap")
    assert host.told() == [(STARTED, "disk.swap"), (CREATED, "disk.swap")]
    made = host.events()[0].data.layout
    assert made.source == DiskSource(kind=SourceKind.FUNCTION, function="make_swap")
    assert made.size_bytes == 4 * MIB


@pytest.mark.parametrize("is_always_raw", [True, False])
@pytest.mark.parametrize("nova_knows", [True, False])
def test_a_disk_that_was_made_without_the_hook_is_backfilled_once(
    host: Host, *, is_always_raw: bool, nova_knows: bool
) -> None:
    host.disks = False
    host.take("make", "raw")
    assert host.told() == []
    # A guest may write what looks like another format. Nova looks there if it has noted none.
    create(host.folder / "other", "qcow2")
    with disk(host).open("r+b") as content:
        content.write((host.folder / "other").read_bytes())
    noted = disk(host, "disk.info")
    if not nova_knows:
        noted.unlink()
    host.disks, host.raw = True, is_always_raw
    for _ in range(2):
        host.take("make", "raw")
        assert "raised" not in host.seen
        assert host.told() == [("DiskLayoutBackfilled", "disk")]
    assert ('"qcow2"' in noted.read_text()) == (not nova_knows)
    known = "raw" if is_always_raw or nova_knows else "unknown"
    assert host.events()[0].data.layout == replace(layout(host, "raw"), format=known)


def test_who_wants_no_disks_recorded_says_so(host: Host) -> None:
    host.disks = False
    host.spool.mkdir()
    host.take("make")
    assert "raised" not in host.seen
    assert disk(host).exists()


def test_a_disk_that_the_driver_makes_larger_has_changed(host: Host) -> None:
    host.take("make")
    host.take("grow")
    assert host.told()[2:] == [("DiskLayoutChanged", "disk")]
    assert host.events()[2].data.layout.size_bytes == 40 * MIB
    assert "virtual size: 40 MiB" in info(disk(host))


def test_a_disk_that_came_with_a_resize_is_told_as_it_is_now(host: Host) -> None:
    host.disks = False
    host.take("make")
    host.disks = None
    # As on a host to which another one has sent the disk.
    host.take("resize")
    assert "raised" not in host.seen
    assert host.seen["resize_is_noticed"]
    assert host.told() == [("DiskLayoutChanged", "disk")]
    assert host.events()[0].data.layout.size_bytes == 40 * MIB


def test_a_flat_disk_is_told_with_the_format_that_it_got(host: Host) -> None:
    create(host.folder / "template", "qcow2")
    host.raw = False
    host.take("make", "raw")
    started, created = host.events()
    assert (started.data.layout.format, created.data.layout.format) == ("raw", "qcow2")


def test_a_backend_that_is_called_without_the_cache_is_recorded(host: Host) -> None:
    host.take("direct")
    assert host.told() == [(STARTED, "disk"), (CREATED, "disk")]


def test_a_kernel_is_no_disk(host: Host) -> None:
    host.take("kernel", "raw")
    assert disk(host, "kernel").exists()
    assert host.told() == []


class Image:
    """Of a Nova whose images are not given by `Backend.by_name`."""

    made = 0

    def cache(self) -> None:
        self.made += 1


@pytest.mark.parametrize("is_recorded", [True, False])
def test_in_a_nova_that_does_not_fit_no_disk_is_made_unrecorded(
    tmp_path: Path, is_recorded: bool
) -> None:
    module = ModuleType("imagebackend_of_another_nova")
    module.Image = type("Copy", (Image,), {"cache": Image.cache})  # type: ignore[attr-defined]
    module.Backend = type("Backend", (), {})  # type: ignore[attr-defined]
    settings = ProducerSettings(service="nova-compute", host="here")
    disks = Disks(Spool(tmp_path / "spool.db", settings), settings.context)
    imagebackend.install(lambda: disks if is_recorded else None, module)
    image = module.Image()
    if is_recorded:
        with pytest.raises(Unrecorded, match="other than is assumed"):
            image.cache()
    else:
        image.cache()
    assert image.made == (not is_recorded)

"""Runs in the environment of a real Nova: makes disks with libvirt's image backends, as its driver
does, hooked by the notification driver that a real notifier loads.

    python make_disks.py FOLDER CASE

prints one JSON object of what was seen meanwhile.
"""

import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nova.conf
import nova.privsep
import oslo_messaging
from nova import config, rpc

FOLDER, CASE = Path(sys.argv[1]), sys.argv[2]
INSTANCE = SimpleNamespace(uuid="f5000000-0000-4000-8000-000000000001", ephemeral_key_uuid=None)
IMAGE_ID = "a5000000-0000-4000-8000-000000000009"
MIB = 1024 * 1024
SEEN: dict[str, object] = {}

config.parse_args(["nova-compute", "--config-file", str(FOLDER / "nova.conf")])
nova.privsep.sys_admin_pctxt.set_client_mode(False)
SEEN["drivers"] = rpc.NOTIFIER._driver_mgr.names()
SEEN["loaded_early"] = "nova.virt.libvirt.imagebackend" in sys.modules

from nova.virt.libvirt import imagebackend  # noqa: E402

CONF = nova.conf.CONF
assert oslo_messaging.__name__  # the notifier is a real one


def events() -> list[str]:
    with sqlite3.connect(FOLDER / "spool.db") as spool:
        return [bytes(row[0]).hex() for row in spool.execute("SELECT value FROM metaledger_outbox")]


def image(name: str, kind: str) -> imagebackend.Image:
    (FOLDER / "instances" / INSTANCE.uuid).mkdir(parents=True, exist_ok=True)
    return imagebackend.Backend(use_cow=True).by_name(INSTANCE, name, kind)


def fetch(disk: imagebackend.Image, then: str, target: str, **_kwargs: object) -> None:
    """Stands for the image service: brings what is to be the base of the disk."""
    if (FOLDER / "spool.db").exists():
        SEEN["events_before"] = len(events())
    SEEN["there_before"] = Path(disk.path).exists()
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "fail":
        raise OSError("no space left, for https://nova:secret@glance/v2?token=hidden")
    shutil.copy(FOLDER / "template", target)


def make_swap(target: str, swap_mb: int) -> None:
    command = ["qemu-img", "create", "-q", "-f", "raw", target, f"{swap_mb}M"]
    subprocess.run(command, check=True)


def cache_root(kind: str, then: str = "", name: str = "disk", size: int = 20 * MIB) -> None:
    disk = image(name, kind)
    disk.cache(
        fetch_func=functools.partial(fetch, disk, then),
        filename="base",
        size=size,
        image_id=IMAGE_ID,
        trusted_certs=None,
    )


def die(*_args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run() -> None:
    kind, _, step = CASE.partition("-")
    if step == "swap":
        swap = image("disk.swap", kind)
        swap.cache(fetch_func=make_swap, filename="swap_4", size=4 * MIB, swap_mb=4, safe=True)
    elif step == "kernel":
        cache_root(kind, name="kernel")
    elif step == "die_after":
        # The next thing that is done to a disk that was made smaller than its flavor asks for.
        imagebackend.disk.extend = die
        cache_root(kind)
    elif step == "grow":
        cache_root(kind, size=40 * MIB)
    elif step == "small":
        cache_root(kind, size=MIB)
    elif step == "direct":
        disk = image("disk", kind)
        base = str(FOLDER / "base")
        (FOLDER / "locks").mkdir(exist_ok=True)
        disk.create_image(functools.partial(fetch, disk, ""), base, 20 * MIB, image_id=IMAGE_ID)
    else:
        cache_root(kind, then=step)


try:
    run()
except Exception as error:  # noqa: BLE001 (what the driver gets to see)
    SEEN["raised"] = f"{type(error).__name__}: {error}"
SEEN["modules"] = sorted({name.split(".")[0] for name in sys.modules} & {"eventlet", "kafka"})
SEEN["unwrapped"] = [
    name
    for name in ("Flat", "Qcow2", "Lvm", "Rbd", "Ploop")
    if not hasattr(getattr(imagebackend, name).create_image, "__wrapped__")
]
print(json.dumps(SEEN))

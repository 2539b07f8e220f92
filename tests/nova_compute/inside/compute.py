"""Runs in the environment of a real Nova: a nova-compute as far as it is loaded, hooked by the
notification driver that its real notifiers load. To load it takes seconds, so it does so once.

    python compute.py CONFIGURATION

Each line of standard input is a request: a folder, what `nova.conf` would say, and a step to be
taken, in a child process of its own, which a step may kill. Each answer is a line: how the child
ended, and what it saw.
"""

import functools
import importlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nova.conf
import nova.privsep
from nova import config, context, rpc

from metaledger.producers.nova_compute import operations, settings

INSTANCE = SimpleNamespace(uuid="f5000000-0000-4000-8000-000000000001", ephemeral_key_uuid=None)
IMAGE_ID = "a5000000-0000-4000-8000-000000000009"
BACKENDS = ("Flat", "Qcow2", "Lvm", "Rbd", "Ploop")
MIB = 1024 * 1024
CONF = nova.conf.CONF
SEEN: dict[str, Any] = {}

config.parse_args(["nova-compute", "--config-file", sys.argv[1]], configure_db=False)
# What asks for root runs in this process, as this user.
nova.privsep.sys_admin_pctxt.set_client_mode(False)
SEEN["drivers"] = [rpc.NOTIFIER._driver_mgr.names(), rpc.LEGACY_NOTIFIER._driver_mgr.names()]
SEEN["loaded_early"] = "nova.virt.libvirt.imagebackend" in sys.modules

from nova.virt.libvirt import imagebackend  # noqa: E402

SEEN["unwrapped"] = [
    name
    for name in BACKENDS
    if not hasattr(getattr(imagebackend, name).create_image, "__wrapped__")
]


class Host:
    """One request's host."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.folder = Path(request["folder"])
        self.kind = request.get("kind", "qcow2")
        settings.load()
        for group, values in request["conf"].items():
            for name, value in values.items():
                CONF.set_override(name, value, group=None if group == "DEFAULT" else group)

    def image(self, name: str) -> imagebackend.Image:
        (self.folder / "instances" / INSTANCE.uuid).mkdir(parents=True, exist_ok=True)
        return imagebackend.Backend(use_cow=True).by_name(INSTANCE, name, self.kind)

    def fetch(self, disk: imagebackend.Image, then: str, target: str, **_kwargs: object) -> None:
        """Stands for the image service: brings what is to be the base of the disk."""
        if (self.folder / "spool.db").is_file():
            with sqlite3.connect(self.folder / "spool.db") as spool:
                rows = spool.execute("SELECT count(*) FROM metaledger_outbox").fetchone()
            SEEN["events_before"] = rows[0]
        SEEN["there_before"] = Path(disk.path).exists()
        if then == "die":
            die()
        if then == "fail":
            raise OSError("no space left, for https://nova:secret@glance/v2?token=hidden")
        shutil.copy(self.folder / "template", target)

    def root(self, then: str = "", name: str = "disk", size: int = 20 * MIB) -> None:
        disk = self.image(name)
        fetch = functools.partial(self.fetch, disk, then)
        disk.cache(
            fetch_func=fetch, filename="base", size=size, image_id=IMAGE_ID, trusted_certs=None
        )

    def make(self) -> None:
        self.root()

    def die(self) -> None:
        self.root(then="die")

    def die_after(self) -> None:
        # The next thing that is done to a disk that was made smaller than its flavor asks for.
        imagebackend.disk.extend = die
        self.root()

    def fail(self) -> None:
        self.root(then="fail")

    def small(self) -> None:
        self.root(size=MIB)

    def grow(self) -> None:
        self.root(size=40 * MIB)

    def resize(self) -> None:
        real = importlib.import_module(operations.MODULE).ComputeManager.finish_resize
        SEEN["resize_is_noticed"] = real.__code__.co_filename == operations.__file__
        host = self

        class ComputeManager:
            """What the real one is, without a database to write of its actions."""

            def finish_resize(self, instance: object) -> None:  # noqa: ARG002
                host.grow()

        operations.install(SimpleNamespace(ComputeManager=ComputeManager))
        ComputeManager().finish_resize(INSTANCE)

    def kernel(self) -> None:
        self.root(name="kernel")

    def swap(self) -> None:
        self.image("disk.swap").cache(
            fetch_func=make_swap, filename="swap_4", size=4 * MIB, swap_mb=4, safe=True
        )

    def direct(self) -> None:
        disk = self.image("disk")
        fetch = functools.partial(self.fetch, disk, "")
        disk.create_image(fetch, str(self.folder / "base"), 20 * MIB, image_id=IMAGE_ID)

    def start(self) -> None:
        """Looks for its nodes as Nova does at its start: by the file `compute_id`, which it makes
        where there is none. A list stands for Nova's database, which knows them all.
        """
        manager = importlib.import_module("nova.compute.manager")
        driver = importlib.import_module("nova.virt.driver").ComputeDriver(None)
        driver.get_available_nodes = lambda: [f"{CONF.host}.example.org"]
        known = [
            SimpleNamespace(
                uuid=uuid, hypervisor_hostname=name, hypervisor_type="QEMU", host=CONF.host
            )
            for uuid, name in driver.get_nodenames_by_uuid().items()
        ]
        manager.objects.ComputeNodeList = SimpleNamespace(get_all_by_uuids=lambda *_: known)
        found = manager.ComputeManager._get_nodes(
            SimpleNamespace(driver=driver, host=CONF.host), None
        )
        SEEN["nodes"] = sorted(found)

    def notify(self) -> None:
        for line in (self.folder / "recorded.jsonl").read_text().splitlines():
            message = json.loads(line)
            given = context.RequestContext.from_dict(message["context"])
            publisher, event_type = message["publisher_id"], message["event_type"]
            if event_type.startswith("compute."):
                notifier = rpc.get_notifier(*publisher.split(".", 1))
            else:
                notifier = rpc.get_versioned_notifier(publisher)
            notifier.info(given, event_type, message["payload"])

    def notify_as_compute(self) -> None:
        importlib.import_module("nova.compute.manager")
        self.notify()


def make_swap(target: str, swap_mb: int) -> None:
    command = ["qemu-img", "create", "-q", "-f", "raw", target, f"{swap_mb}M"]
    subprocess.run(command, check=True)


def die(*_args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def serve(request: dict[str, Any]) -> None:
    try:
        getattr(Host(request), request["step"])()
    except Exception as error:  # noqa: BLE001 (what Nova's driver gets to see)
        SEEN["raised"] = f"{type(error).__name__}: {error}"
    (Path(request["folder"]) / "seen.json").write_text(json.dumps(SEEN))


for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        serve(asked)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

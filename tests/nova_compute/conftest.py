"""Fixtures of the tests that run parts of a real Nova 34 with the hook of nova-compute."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.producers.tables import outbox
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event

from ..conftest import Servers
from ..glance.environment import Environment, install_product
from ..nova.environment import nova_environment

INSIDE = Path(__file__).parent / "inside"
TIMEOUT_S = 300

CONF = """\
[DEFAULT]
host = compute-a
transport_url = fake://

[oslo_messaging_notifications]
driver = metaledger

[notifications]
notification_format = both
"""


@dataclass(frozen=True, slots=True)
class Nova:
    """Nova's environment, this repository's wheel beside it, and a nova-compute that is loaded."""

    environment: Environment
    product: Path
    process: "subprocess.Popen[str]"

    def program(self, name: str, *arguments: str, **environment: str) -> Mapping[str, Any]:
        """Runs one of the programs of `inside`; what it says that it saw."""
        found = subprocess.run(
            [self.environment.tool("python"), str(INSIDE / name), *arguments],
            env=_environment(self.product) | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert found.returncode == 0, found.stderr[-4000:]
        seen: Mapping[str, Any] = json.loads(found.stdout.splitlines()[-1])
        return seen


@dataclass(slots=True)
class Host:
    """A compute host: its folder, and what its nova.conf says; None: nothing."""

    nova: Nova
    folder: Path
    name: str = "compute-a"
    disks: bool | None = None
    raw: bool = True
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spool(self) -> Path:
        return self.folder / "spool.db"

    def take(self, step: str, kind: str = "qcow2") -> int:
        """A process takes the step; how it ended. What it saw, if it lived, is in `seen`."""
        conf: dict[str, dict[str, object]] = {
            "DEFAULT": {
                "host": self.name,
                "state_path": str(self.folder),
                "instances_path": str(self.folder / "instances"),
                "force_raw_images": self.raw,
            },
            "oslo_concurrency": {"lock_path": str(self.folder / "locks")},
            "metaledger": {"spool": str(self.spool)},
        }
        if self.disks is not None:
            conf["metaledger"]["disks"] = self.disks
        request = {"folder": str(self.folder), "kind": kind, "step": step, "conf": conf}
        process = self.nova.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        ended = int(process.stdout.readline())
        if ended == 0:
            self.seen = json.loads((self.folder / "seen.json").read_text())
        return ended

    def events(self) -> Sequence[Event]:
        """What waits in the spool, in the order in which it was told."""
        if not self.spool.exists():
            return []
        codec, query = Codec(), select(outbox.c.value, outbox.c.sha256).order_by(outbox.c.id)
        settings = ProducerSettings(service="nova-compute", host="here")
        with Spool(self.spool, settings).engine.connect() as connection:
            rows = connection.execute(query).all()
        return [codec.decode(bytes(value), bytes(sha256)) for value, sha256 in rows]

    def told(self) -> list[tuple[str, str]]:
        """The types of the disks' events, and the disks' names."""
        return [(event.type, event.data.disk) for event in self.events()]


@pytest.fixture(scope="session")
def real_nova(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nova]:
    """Nova 34 in its cached environment, with a nova-compute that serves the session's tests."""
    environment = nova_environment()
    folder = tmp_path_factory.mktemp("nova")
    product = install_product(environment, folder / "product")
    conf = folder / "nova.conf"
    conf.write_text(CONF)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [environment.tool("python"), str(INSIDE / "compute.py"), str(conf)],
            env=_environment(product),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        yield Nova(environment, product, process)
        # It ends with its requests.
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def guarded_nova(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, Path]:
    """Nova's environment, and this product as an operator gets it."""
    environment = nova_environment()
    return environment, install_product(environment, tmp_path_factory.mktemp("product"))


@pytest.fixture
def host(real_nova: Nova, servers: Servers, tmp_path: Path) -> Host:
    """A host that records disks, with an image to make them from."""
    if shutil.which("qemu-img") is None:
        servers.lacking("qemu-img", "install qemu-utils")
    made = Host(real_nova, tmp_path)
    create(tmp_path / "template", "raw")
    return made


def create(file: Path, kind: str) -> None:
    """A real image of 10 MiB."""
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, file, "10M"], check=True)


def _environment(product: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(product)}

"""Fixtures of the tests that run parts of a real Nova 34 with the hook of nova-compute.

Each run is a process of its own in Nova's environment: its configuration, its modules and its hooks
are those of a process that starts.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from ..nova.environment import nova_environment as ensure_nova

INSIDE = Path(__file__).parent / "inside"
TIMEOUT_S = 120

CONF = """\
[DEFAULT]
host = compute-a
state_path = {folder}
instances_path = {folder}/instances
force_raw_images = {raw}
transport_url = fake://

[oslo_messaging_notifications]
driver = metaledger

[notifications]
notification_format = {format}

[oslo_concurrency]
lock_path = {folder}/locks

[metaledger]
spool = {folder}/spool.db
{metaledger}
"""


@dataclass(frozen=True, slots=True)
class NovaCompute:
    """What a nova-compute has of its own: a folder with configuration, instances and spool."""

    environment: Environment
    product: Path
    folder: Path

    @property
    def spool(self) -> Path:
        return self.folder / "spool.db"

    def configure(self, *, metaledger: str = "", form: str = "both", raw: bool = True) -> None:
        (self.folder / "nova.conf").write_text(
            CONF.format(folder=self.folder, raw=raw, format=form, metaledger=metaledger)
        )

    def start(
        self, program: str, *arguments: str, environment: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of the programs of `inside` to its end, however that comes."""
        return subprocess.run(
            [self.environment.tool("python"), str(INSIDE / program), str(self.folder), *arguments],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.product), **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def run(
        self, program: str, *arguments: str, environment: Mapping[str, str] = {}
    ) -> Mapping[str, Any]:
        """What the program says that it saw."""
        found = self.start(program, *arguments, environment=environment)
        assert found.returncode == 0, found.stderr[-4000:]
        seen: Mapping[str, Any] = json.loads(found.stdout.splitlines()[-1])
        return seen

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
def nova_environment() -> Environment:
    """The cached virtual environment with Nova 34."""
    return ensure_nova()


@pytest.fixture(scope="session")
def nova_product(nova_environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's wheel, installed where nova-compute can import it."""
    return install_product(nova_environment, tmp_path_factory.mktemp("product"))


@pytest.fixture
def compute(nova_environment: Environment, nova_product: Path, tmp_path: Path) -> NovaCompute:
    """A nova-compute that loads the driver, and records no disks yet."""
    made = NovaCompute(nova_environment, nova_product, tmp_path)
    made.configure()
    return made


@pytest.fixture
def qemu_img(servers: Servers) -> str:
    """QEMU's own tool for images."""
    found = shutil.which("qemu-img")
    if found is None:
        servers.lacking("qemu-img", "install qemu-utils")
    return found

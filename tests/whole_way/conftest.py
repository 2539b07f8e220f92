"""The whole way's parts: a real Glance, a broker, PostgreSQL, and the product's own daemons."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..glance.config import Extra
from ..glance.conftest import (  # noqa: F401 (fixtures)
    GATE,
    PLUGIN,
    NewGlance,
    empty_database,
    glance_environment,
    new_glance,
    product,
)
from ..glance.service import Glance
from ..servers.interface import Broker, Postgres
from ..servers.settings import Kind, from_environment
from .daemons import Container, Daemon, Process

CONFIGURATION = """\
ledger = "kafka://{bootstrap}/{topic}"
read_model = "{read_model}"

[topic]
partitions = 3
replication = 1

[relay]
outbox = "{outbox}"
"""


# Images may have locations on the web, also on this machine, which Glance refuses by itself.
WEB_STORE = "enabled_backends = store1:file, store2:file, web:http"
WEB_HOSTS = """\
[web]
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = []
"""


@dataclass(frozen=True)
class Installation:
    """A configured ledger: what an operator types, and the daemons that an operator starts."""

    folder: Path
    configuration: Path
    start: Callable[[str, Sequence[str]], Daemon]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command as a user types it."""
        command = [sys.executable, "-m", "metaledger.services", "--config", self.configuration]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, timeout=120
        )

    def answer(self, *arguments: str) -> Any:
        """The JSON document that a command answers; None where the answer is no."""
        done = self.run("--json", *arguments)
        assert done.returncode in {0, 1}, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Iterator[tuple[str, str]]:
    """Two empty PostgreSQL databases: Glance's own, with the outbox in it, and the read model's."""
    urls = postgres.create_database(), postgres.create_database()
    yield urls
    for url in urls:
        postgres.drop_database(url)


@pytest.fixture(scope="module")
def installation(
    broker: Broker,
    databases: tuple[str, str],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """A ledger in Kafka and a read model in PostgreSQL, both made; daemons end with it."""
    folder = tmp_path_factory.mktemp("whole-way")
    # Readable by the unprivileged user of a container.
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    configuration = folder / "metaledger.toml"
    glance_database, read_model = databases
    configuration.write_text(
        CONFIGURATION.format(
            bootstrap=broker.bootstrap,
            topic=read_model.rpartition("/")[2],
            read_model=read_model,
            outbox=glance_database,
        )
    )
    in_containers = from_environment().forced is Kind.CONTAINERS
    if in_containers:
        request.getfixturevalue("product_image")
    running: list[Daemon] = []

    def start(name: str, arguments: Sequence[str]) -> Daemon:
        command = ["--config", str(configuration), *arguments]
        daemon: Daemon
        if in_containers:
            daemon = Container(command, folder=folder)
        else:
            daemon = Process(command, log=folder / f"{name}.log")
        running.append(daemon)
        return daemon

    made = Installation(folder, configuration, start)
    for arguments in (("topic", "create"), ("migrate",)):
        done = made.run(*arguments)
        assert done.returncode == 0, done.stderr
    yield made
    for daemon in running:
        daemon.kill()


@pytest.fixture(scope="module")
def glance(
    installation: Installation,  # noqa: ARG001 (the daemons end before Glance's database)
    new_glance: NewGlance,  # noqa: F811
    databases: tuple[str, str],
) -> Iterator[Glance]:
    """A real Glance on PostgreSQL with the one line that loads the ledger."""
    extra = Extra(default_options=WEB_STORE, database_options=PLUGIN, text=WEB_HOSTS, filters=GATE)
    with new_glance(extra, databases[0]) as running:
        yield running

"""The same servers as containers, through testcontainers, where an engine has their images.

The images are ours alone (`docker/` builds them) and nothing is ever pulled, so testcontainers' own
reaper (Ryuk) is off; in its place the first container of a run removes those whose test process is
gone. Containers share the host's network and listen on loopback only: a broker is then known by one
address inside and outside.
"""

import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound
from docker.utils import kwargs_from_env
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from .broker import broker_answers, server_properties
from .interface import ServerFailed
from .postgres import Databases, Sync, server_settings
from .process import HOST, free_port, wait_until

BASE_IMAGE = "metaledger-test/base"
KAFKA_IMAGE = "metaledger-test/kafka"
POSTGRES_IMAGE = "metaledger-test/postgres"
PRODUCT_IMAGE = "metaledger-test/product"

_ENGINE = Path(__file__).with_name("docker") / "engine"
_OWNER_LABEL = "metaledger.test.pid"
# As the local ones: a broker took 22 s on two cores under a load of 12.
_START_TIMEOUT_S = 120

testcontainers_config.ryuk_disabled = True


@cache
def lacking(image: str) -> str | None:
    """Why this image can't be run here; None: it can."""
    if not _engine_listens():
        return "no Docker engine answers"
    client = docker.from_env(timeout=5)
    try:
        client.images.get(image)
    except ImageNotFound:
        return f"the Docker engine has no image {image}"
    except DockerException as error:
        return f"the Docker engine does not answer: {error}"
    finally:
        client.close()
    return None


def build_product() -> None:
    """The product's own image, from this checkout; quick where nothing changed."""
    done = subprocess.run(
        [_ENGINE, "product"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerFailed(f"the product's image:\n{done.stderr}")


def run(image: str, *command: str, entrypoint: str | None = None) -> str:
    """Runs a container to its end; returns its standard output. Raises docker's ContainerError."""
    client = docker.from_env()
    try:
        output: bytes = client.containers.run(
            image, list(command), entrypoint=entrypoint, remove=True, labels=_labels()
        )
    finally:
        client.close()
    return output.decode()


class ContainerServer:
    """A server in a container; what it wrote survives `stop` and `kill` in its layer.

    It also runs the product's own daemons: `answers` may be `lambda: True`. Each of `folders` is
    the host's and stands in the container at the same path.
    """

    def __init__(
        self,
        image: str,
        *,
        answers: Callable[[], bool],
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        folders: Sequence[Path] = (),
        user: str | None = None,
    ) -> None:
        _remove_orphans()
        self._answers = answers
        self._started_once = False
        self._container = DockerContainer(
            image, env=dict(environment or {}), network_mode="host", labels=_labels(), user=user
        ).with_command(list(command))
        for folder in folders:
            self._container.with_volume_mapping(folder, str(folder), "rw")
        for path, content in (files or {}).items():
            self._container.with_copy_into_container(content.encode(), path)

    def start(self) -> None:
        if not self._started_once:
            self._started_once = True
            self._container.start()
        else:
            self._container.get_wrapped_container().start()
        if not wait_until(self._answers, alive=self._alive, timeout_s=_START_TIMEOUT_S):
            raise ServerFailed(f"{self._container.image} did not start:\n{self.log()}")

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=30)

    def terminate(self, timeout_s: int) -> int:
        """SIGTERM, after the time SIGKILL; the exit status."""
        container = self._container.get_wrapped_container()
        container.stop(timeout=timeout_s)
        return int(container.wait()["StatusCode"])

    def kill(self, how: str = "SIGKILL") -> None:
        container = self._container.get_wrapped_container()
        container.kill(how)
        container.wait()

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.get_wrapped_container().unpause()

    def close(self) -> None:
        if self._started_once:
            self._container.stop()
            self._started_once = False

    def log(self) -> str:
        """What it wrote to its standard output and error."""
        return b"".join(self._container.get_logs()).decode(errors="replace")

    def _alive(self) -> bool:
        self._container.reload()
        return self._container.status in {"created", "running"}


class ContainerBroker(ContainerServer):
    """Kafka with the same properties as the local one."""

    def __init__(self) -> None:
        port = free_port()
        self._bootstrap = f"{HOST}:{port}"
        properties = server_properties(port, data=Path("/var/lib/kafka/data"))
        super().__init__(
            KAFKA_IMAGE,
            answers=lambda: broker_answers(port),
            files={"/etc/kafka/server.properties": properties},
        )

    @property
    def bootstrap(self) -> str:
        return self._bootstrap


class ContainerPostgres(ContainerServer):
    """PostgreSQL with the same settings as the local one."""

    def __init__(self, *, sync: Sync = Sync.OFF) -> None:
        port = free_port()
        self._databases = Databases(port)
        super().__init__(
            POSTGRES_IMAGE, answers=self._databases.answer, command=server_settings(port, sync)
        )

    def crash(self) -> None:
        self.kill("SIGQUIT")

    def create_database(self) -> str:
        return self._databases.create()

    def copy_database(self, url: str) -> str:
        return self._databases.create(like=url)

    def drop_database(self, url: str) -> None:
        self._databases.drop(url)


def _labels() -> dict[str, str]:
    return {_OWNER_LABEL: str(os.getpid())}


def _engine_listens() -> bool:
    # Asked first, since the client leaves its socket open where nothing listens.
    address = kwargs_from_env().get("base_url", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address.removeprefix("unix://")) == 0


@cache
def _remove_orphans() -> None:
    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": _OWNER_LABEL}):
        if not Path("/proc", container.labels[_OWNER_LABEL]).exists():
            container.remove(force=True, v=True)
    client.close()

"""Apicurio's schema registry as one local process, in memory, with the Confluent-compatible API."""

import urllib.error
import urllib.request
from pathlib import Path

from .broker import JAVA_OPTIONS
from .process import HOST, LocalServer, accepts_connections, free_port, new_folder

JAVA_LEAST = 21

_API = "/apis/ccompat/v7"


class LocalRegistry(LocalServer):
    """What it holds is gone when its process ends."""

    def __init__(self, *, java: Path, app: Path) -> None:
        port = free_port()
        self._url = f"http://{HOST}:{port}{_API}"
        properties = {
            "quarkus.http.host": HOST,
            "quarkus.http.port": str(port),
            "quarkus.management.host": HOST,
            "quarkus.management.port": str(free_port()),
        }
        options = [f"-D{name}={value}" for name, value in properties.items()]
        super().__init__(
            [str(java), *JAVA_OPTIONS, "-Xmx512m", *options, "-jar", str(app / "quarkus-run.jar")],
            folder=new_folder("registry"),
            answers=lambda: registry_answers(port),
        )

    @property
    def url(self) -> str:
        return self._url


def registry_answers(port: int) -> bool:
    if not accepts_connections(port):
        return False
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{_API}/subjects", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False

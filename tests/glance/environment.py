"""The virtual environment that a real service runs in, and this product installed beside it.

Rules: the environment is built once for each set of requirements, in a folder named by their hash,
under `${METALEDGER_TEST_CACHE:-$HOME/.cache/metaledger-tests}`; builders in other processes wait
for it behind a file lock, and a half-built one is never used (it gets its mark last). The product
is installed as an operator gets it, from its wheel, but into a folder of its own (`PYTHONPATH`), so
that test runs of different sources share one environment.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("schemas", "producers", "projector", "services")
BUILD_TIMEOUT_S = 1800  # Glance with uWSGI took 94 s on two cores with a near registry
REQUIREMENTS = (
    "glance==33.0.0",
    "uwsgi==2.0.31",
    "PyMySQL>=1.1",
    "psycopg2-binary>=2.9",
    "fastavro>=1.9",
    "structlog>=24",
    "setuptools>=77",  # builds the product's wheel without another download
    os.environ.get("METALEDGER_TEST_GLANCE_SQLALCHEMY", "sqlalchemy>=2.0"),
)


class BuildFailed(Exception):
    """A part of the service under test could not be built."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A ready virtual environment."""

    home: Path

    def tool(self, name: str) -> str:
        """The path of one of its commands."""
        return str(self.home / "bin" / name)


def cache_folder() -> Path:
    """Where what is slow to build is kept between test runs."""
    default = Path.home() / ".cache" / "metaledger-tests"
    return Path(os.environ.get("METALEDGER_TEST_CACHE", default))


def ensure_environment(
    requirements: tuple[str, ...] = REQUIREMENTS,
    *,
    name: str = "glance",
    finish: Callable[[Environment], None] = lambda _environment: None,
) -> Environment:
    """The environment with these requirements; built if it is not there, and then finished.

    Raises BuildFailed.
    """
    digest = hashlib.sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()[:16]
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / f"{name}-{digest}"
    ready = home / ".ready"
    with _only_one(cache / f"{name}-{digest}.lock"):
        if not ready.exists():
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True)
            run(str(home / "bin" / "pip"), "install", "--quiet", *requirements)
            finish(Environment(home))
            ready.touch()
    return Environment(home)


def install_product(environment: Environment, folder: Path) -> Path:
    """Installs this repository's wheel, light base only, under folder; returns what to import from.

    The sources are copied first: a build leaves files where it runs. Raises BuildFailed.
    """
    sources, target = folder / "sources", folder / "site"
    sources.mkdir(parents=True)
    for name in SOURCES:
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and (path.suffix in {".toml", ".md"} or path.name == "LICENSE"):
            shutil.copy(path, sources)
    run(
        *(environment.tool("pip"), "install", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--target", str(target), str(sources)),
    )
    return target


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str) -> None:
    """Runs it to its end. Raises BuildFailed with the end of what it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise BuildFailed(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")

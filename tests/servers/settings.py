"""What the environment says about the tests' servers; nothing else in `servers` reads it."""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Kind(Enum):
    """How a server is run."""

    LOCAL = "local"
    CONTAINERS = "containers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One record a test run.

    `forced` is None where the kind may be chosen by what the machine has. With `ci`, a server that
    cannot be had is a failure and not a skipped test.
    """

    cache: Path
    forced: Kind | None
    ci: bool
    java_home: Path | None


def from_environment() -> Settings:
    """Raises ValueError where METALEDGER_TEST_SERVERS is none of the kinds."""
    forced = os.environ.get("METALEDGER_TEST_SERVERS")
    java_home = os.environ.get("JAVA_HOME")
    cache = os.environ.get("METALEDGER_TEST_CACHE")
    return Settings(
        cache=Path(cache) if cache else Path.home() / ".cache" / "metaledger-tests",
        forced=Kind(forced) if forced else None,
        ci=os.environ.get("CI", "").lower() in {"1", "true"},
        java_home=Path(java_home) if java_home else None,
    )


def worker_number() -> int:
    """Which of pytest-xdist's workers this is; 0 where there are none."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

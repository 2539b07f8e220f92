"""Starts Nova's own functional tests with the hooks loaded, and opens what they leave.

    ran = run_functional(folder, environment, product, TESTS, configuration=PLUGIN)
    for database in ran.databases: ...

`configuration` is what an operator writes into nova.conf, as oslo.config takes it from the
environment; whoever adds a hook of another kind adds its lines.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.glance.environment import Environment

# [database] connection_parameters
PLUGIN = {"OS_DATABASE__CONNECTION_PARAMETERS": "plugin=metaledger"}
RUNNER = Path(__file__).with_name("functional.py")
TIMEOUT_S = 3600
TAIL_CHARS = 6000


class NovaFailed(Exception):
    """Nova's own tests did not pass; the message ends with what they printed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A cell's database as a test left it."""

    test: str
    cell: str
    path: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of Nova's tests left and printed."""

    databases: Sequence[Kept]
    output: str


def run_functional(
    folder: Path,
    environment: Environment,
    product: Path,
    tests: Sequence[str],
    *,
    configuration: Mapping[str, str],
) -> Ran:
    """Runs these tests, each named below `nova.tests.functional`. Raises NovaFailed."""
    return run_program(RUNNER, folder, environment, product, tests, configuration=configuration)


def run_program(
    program: Path,
    folder: Path,
    environment: Environment,
    product: Path,
    arguments: Sequence[str],
    *,
    configuration: Mapping[str, str],
) -> Ran:
    """Runs a program that keeps databases as `functional.py` does. Raises NovaFailed."""
    kept = folder / "databases"
    kept.mkdir(parents=True)
    done = subprocess.run(
        (environment.tool("python"), program, kept, *arguments),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(product),
            **configuration,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise NovaFailed(output[-TAIL_CHARS:])
    return Ran([_kept(path) for path in sorted(kept.glob("*.sqlite"))], output)


def _kept(path: Path) -> Kept:
    test, _, cell = path.stem.rpartition("@")
    return Kept(test, cell, path)

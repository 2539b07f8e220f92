"""The command line as a user has it: a folder of its own, nothing in the environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from metaledger.services import cli


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with no setting of the machine's."""
    for name in ("METALEDGER_LEDGER_URL", "METALEDGER_READ_MODEL_URL", "METALEDGER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    # A command line that ran in this process has set the logs up for its own standard error.
    structlog.reset_defaults()


@pytest.fixture
def metaledger(capfd: pytest.CaptureFixture[str]):
    """Runs a command line in this process, which has to stay as it is: see `start`."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)

    def run(*arguments: str | Path) -> Result:
        capfd.readouterr()
        status = cli.run([str(one) for one in arguments])
        out, err = capfd.readouterr()
        assert os.getpriority(os.PRIO_PROCESS, 0) == niceness, "all behind it would starve"
        return Result(status, out, err)

    return run


@pytest.fixture
def start():
    """Starts a command line as a process of its own; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str | Path, **options) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "metaledger.services", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()

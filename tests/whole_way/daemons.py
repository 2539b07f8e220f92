"""The product's daemons under test: a process beside the test, or a container of its own image.

Both run the same command line with the same configuration file; where servers run in containers,
so do the daemons, in the image that `deploy/Containerfile` builds.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..servers.containers import PRODUCT_IMAGE, ContainerServer

# The promise is 5 s; the rest is for a machine that has other things to do.
STOP_TIMEOUT_S = 20


class Daemon(Protocol):
    """A running `metaledger relay` or `metaledger project --follow`."""

    def kill(self) -> None:
        """SIGKILL; returns when it is gone. Nothing where it is gone already."""

    def stop(self) -> int:
        """SIGTERM; its exit status. Raises where it is not gone within STOP_TIMEOUT_S."""

    def log(self) -> str:
        """What it wrote."""


class Process:
    """A daemon as a local process."""

    def __init__(self, arguments: Sequence[str], *, log: Path) -> None:
        self._log = log
        with log.open("ab") as target:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "metaledger.services", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=target,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Container:
    """A daemon in a container of the product's image."""

    def __init__(self, arguments: Sequence[str], *, folder: Path) -> None:
        self._server = ContainerServer(
            PRODUCT_IMAGE, answers=lambda: True, command=arguments, folders=(folder,)
        )
        self._server.start()
        self._ended_log: str | None = None

    def kill(self) -> None:
        if self._ended_log is not None:
            return
        self._server.kill()
        self._end()

    def stop(self) -> int:
        status = self._server.terminate(timeout_s=STOP_TIMEOUT_S)
        self._end()
        return status

    def log(self) -> str:
        return self._server.log() if self._ended_log is None else self._ended_log

    def _end(self) -> None:
        self._ended_log = self._server.log()
        self._server.close()

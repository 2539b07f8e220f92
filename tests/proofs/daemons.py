"""The product's daemons and the shop as processes that a proof kills, freezes and starts again."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.servers.process import LocalServer, new_folder


class Daemon(LocalServer):
    """A Python module as a process; `start` starts it again where it has ended."""

    def __init__(self, name: str, module: str, arguments: Sequence[str]) -> None:
        self.name = name
        path = os.pathsep.join(sys.path)
        command = ["env", f"PYTHONPATH={path}", sys.executable, "-m", module, *arguments]
        super().__init__(command, folder=new_folder(name), answers=lambda: True)

    @classmethod
    def of_product(cls, name: str, configuration: Path, *arguments: str) -> Self:
        """As an operator starts it."""
        return cls(name, "metaledger.services", ["--config", str(configuration), *arguments])

    @property
    def status(self) -> int | None:
        """With which status it ended; None where it runs."""
        return self._running().poll()

    def told(self) -> str:
        """The last that it wrote."""
        return self._log_tail()

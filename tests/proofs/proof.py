"""What a proof is: a promise, checked on real parts at a size that the caller chooses.

A proof is too long for the suite. Its short size runs in CI, its long one by hand; both run the
same code. What it draws by chance it draws from `Run.random`, so the printed seed repeats it as far
as the operating system's scheduling lets it. It raises AssertionError where the promise is broken,
and says what it saw. It may use anything below `tests`; the product it starts as a user would.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

from tests.servers.interface import Server
from tests.servers.settings import Settings, from_environment

_S = TypeVar("_S", bound=Server)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a proof: how much, by which chance, where its files may stand."""

    size: int
    seed: int
    folder: Path
    say: Callable[[str], None]

    @property
    def random(self) -> Random:
        """Chance from the seed, the same with each call."""
        return Random(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A promise and how it is checked; `unit` says what a size counts. Below `least` it would show
    nothing.
    """

    name: str
    promise: str
    unit: str
    least: int
    short: int
    long: int
    check: Callable[[Run], None]


@contextmanager
def running(make: Callable[[Settings], _S]) -> Iterator[_S]:
    """A server of `tests.servers.choice`, started, and ended with its data behind it."""
    server = make(from_environment())
    try:
        server.start()
        yield server
    finally:
        server.close()

"""What a benchmark is: a ratio of two measurements of one run, and the bound that is promised.

Figures of one machine say little about another, and a machine may be busy: so each benchmark runs
the bare loop and ours in turn, round by round, and takes the median of the rounds' ratios. A
benchmark never fails a build; it says what it saw.
"""

import cProfile
import itertools
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Promise(Enum):
    """On which side of its bound a figure must lie."""

    AT_MOST = "at most"
    AT_LEAST = "at least"


class Size(Enum):
    """QUICK shows that a benchmark runs and where it stands; FULL is what the README reports."""

    QUICK = "quick"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured line of the table; `value` in the unit of the benchmark, `seen` in words."""

    value: float
    lowest: float
    highest: float
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a benchmark gets: its size, a folder of its own, the profiler if one was asked for."""

    size: Size
    folder: Path
    profile: cProfile.Profile | None
    say: Callable[[str], None]
    _ours_first: Iterator[bool] = field(
        default_factory=lambda: itertools.cycle((False, True)), init=False
    )

    def seconds(self, action: Callable[[], object]) -> float:
        """How long ours took, in seconds of the clock; profiled if asked."""
        started = time.perf_counter()
        if self.profile is None:
            action()
        else:
            self.profile.runcall(action)
        return time.perf_counter() - started

    def pairs(
        self, bare: Callable[[], object], ours: Callable[[], object], *, rounds: int
    ) -> Iterator[tuple[float, float]]:
        """Seconds of the bare loop and of ours, round by round; who goes first alternates,
        from one call to the next too.
        """
        for _ in range(rounds):
            if next(self._ours_first):
                ours_s, bare_s = self.seconds(ours), _seconds(bare)
            else:
                bare_s, ours_s = _seconds(bare), self.seconds(ours)
            yield bare_s, ours_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A figure that is promised; `measures` says what is divided by what."""

    name: str
    measures: str
    promise: Promise
    bound: float
    unit: str
    run: Callable[[Bench], Figure]

    def holds(self, figure: Figure) -> bool:
        if self.promise is Promise.AT_MOST:
            return figure.value <= self.bound
        return figure.value >= self.bound


def figure(ratios: list[float], seen: str) -> Figure:
    """The median of the rounds, with the lowest and the highest."""
    return Figure(
        value=statistics.median(ratios), lowest=min(ratios), highest=max(ratios), seen=seen
    )


def report(profile: cProfile.Profile, path: Path) -> None:
    """Writes a profile for `python -m pstats` and shows where its time went."""
    profile.dump_stats(path)
    pstats.Stats(profile).sort_stats("tottime").print_stats(40)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started

"""The projector's loop: from the log to the read model, until the end or until it is stopped.

It decides nothing about events and writes no SQL. What it promises: each record takes effect once,
whatever happens to this process, to the log or to the database. The only memory of how far it is
stands in the read model; what it keeps itself (`pipeline`) is a belief, which every transaction
checks first, and which it drops after an error. Several may run at once, with a group or without.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event as Flag

from structlog import get_logger

from metaledger.projector.intake import Rules
from metaledger.projector.pipeline import Pipeline, Settings
from metaledger.projector.stage import derive
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import Fenced, LogRefused, Unreachable
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.interpreter import switching_often
from metaledger.schemas.log import Log

__all__ = ["OnProgress", "Progress", "Settings", "bring_up_to_end", "follow"]

# A projector that has no rest derives all the same; a batch takes about as long.
_DERIVE_EVERY = timedelta(seconds=2)
# Some tenths of a second: meanwhile nobody polls the log, nor hears of a stop.
_DERIVE_TURNS_MAX = 2
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is: records that it projected, of how many that were there when it began."""

    done: int
    total: int
    per_second: float


OnProgress = Callable[[Progress], None]


def bring_up_to_end(
    log: Log,
    store: Store,
    codec: Codec,
    *,
    settings: Settings,
    on_progress: OnProgress | None = None,
    clock: Clock = system_clock,
) -> Progress:
    """Projects everything that is in the log now.

    Raises LogRefused, UnknownSchema, TooMuchPoison, Unreachable; what was projected stays.
    """
    with _projector(log, store, codec, settings=settings, clock=clock) as run:
        ends = {partition: end for partition, (_, end) in log.bounds().items()}
        total = run.behind(ends)
        report = _Report(total=total, clock=clock, on_progress=on_progress)
        left = total
        while left > 0:
            try:
                run.step()
            except Fenced as error:
                _log.info("projector.fenced", reason=str(error))
                run.restart()
            left = run.behind(ends)
            report.tell(total - left)
        derive(store, at_end=True)
        return report.latest


def follow(
    log: Log,
    store: Store,
    codec: Codec,
    *,
    settings: Settings,
    stop: Flag,
    on_progress: OnProgress | None = None,
    clock: Clock = system_clock,
) -> None:
    """Projects what is in the log and what comes, until `stop` is set.

    With `settings.group` the partitions are spread over the projectors of that group. What cannot
    be reached is tried again; LogRefused, UnknownSchema and TooMuchPoison end it.
    """
    with _projector(log, store, codec, settings=settings, clock=clock, group=settings.group) as run:
        report = _Report(total=0, clock=clock, on_progress=on_progress)
        failures = 0
        derived_at = clock()
        while not stop.is_set():
            try:
                idle = not run.step()
                if idle or clock() - derived_at >= _DERIVE_EVERY:
                    derive(store, at_end=idle, turns_max=_DERIVE_TURNS_MAX)
                    derived_at = clock()
            except (Fenced, Unreachable) as error:
                _log.warning("projector.retries", reason=str(error), failures=failures)
                run.restart()
                stop.wait(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                continue
            if run.has_landed:
                failures = 0
            report.tell(run.done)


@contextmanager
def _projector(
    log: Log,
    store: Store,
    codec: Codec,
    *,
    settings: Settings,
    clock: Clock,
    group: str | None = None,
) -> Iterator[Pipeline]:
    store.bind(log.topic_id, log.partitions)
    rules = Rules(
        topic_id=log.topic_id,
        deployment_id=settings.deployment_id,
        clock_skew_max=timedelta(seconds=settings.clock_skew_max_s),
    )
    run = Pipeline(store, codec, rules=rules, settings=settings, clock=clock)
    _refuse_other_history(run.positions(range(log.partitions)), log.bounds())
    run.reader = log.reader(run.positions, group=group)
    try:
        with switching_often():
            yield run
    finally:
        run.close()


def _refuse_other_history(
    positions: Mapping[int, int], bounds: Mapping[int, tuple[int, int]]
) -> None:
    for partition, next_offset in positions.items():
        first, end = bounds[partition]
        if first > next_offset:
            raise LogRefused(
                f"partition {partition} begins at {first}, and the read model needs {next_offset}: "
                "history was deleted"
            )
        if end < next_offset:
            raise LogRefused(
                f"partition {partition} ends at {end}, and the read model is at {next_offset}: the "
                "log was made anew or lost its end"
            )


class _Report:
    """Tells a run's progress, where there is some."""

    def __init__(self, *, total: int, clock: Clock, on_progress: OnProgress | None) -> None:
        self.latest = Progress(done=0, total=total, per_second=0.0)
        self._clock = clock
        self._began_at = clock()
        self._on_progress = on_progress

    def tell(self, done: int) -> None:
        if done == self.latest.done:
            return
        passed_s = (self._clock() - self._began_at).total_seconds()
        rate = done / passed_s if passed_s > 0 else 0.0
        self.latest = Progress(done=done, total=max(done, self.latest.total), per_second=rate)
        if self._on_progress is not None:
            self._on_progress(self.latest)

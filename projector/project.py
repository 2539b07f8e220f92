"""The projector's loop: from the log to the read model, until the end or until it is stopped.

It decides nothing about events and writes no SQL. What it promises: each record takes effect once,
whatever happens to this process, to the log or to the database. The only memory of how far it is
stands in the read model; what it keeps itself (`_expected`) is a belief, which every transaction
checks first, and which it drops after an error. Several may run at once, with a group or without.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event as Flag

from structlog import get_logger

from metaledger.projector.intake import Read, Reason, Rules, poisoned, read
from metaledger.projector.loading import load
from metaledger.projector.poison import PoisonLimit
from metaledger.projector.store import Move, Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import Fenced, LogRefused, UnknownSchema, Unreachable, Unstorable
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.log import Log, LogReader, LogRecord

# A poll's share of a batch: 500 records at the cap of 900,000 bytes are 450 MB, and 5,000 are not
# to be held at once.
_POLL_RECORDS_MAX = 500
# How long a loop may not hear of its stop.
_POLL_TIMEOUT_S = 0.5
# What has arrived since is worth a look, and a wait is not.
_MORE_TIMEOUT_S = 0.01
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the projector goes about it.

    A batch ends at the first of its bounds; `batch_time_max_s` is the time to gather it. `group`
    is for those that follow.
    """

    deployment_id: str = "default"
    group: str | None = None
    clock_skew_max_s: float = 60.0
    batch_records_max: int = 5_000
    batch_bytes_max: int = 32_000_000
    batch_time_max_s: float = 0.5
    poison_share_max: float = 0.5
    poison_records_min: int = 20


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
        done = failures = 0
        while not stop.is_set():
            try:
                records = run.step()
            except (Fenced, Unreachable) as error:
                _log.warning("projector.retries", reason=str(error), failures=failures)
                run.restart()
                stop.wait(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                continue
            failures = 0
            if records:
                done += records
                report.tell(done)


@contextmanager
def _projector(
    log: Log,
    store: Store,
    codec: Codec,
    *,
    settings: Settings,
    clock: Clock,
    group: str | None = None,
) -> Iterator["_Projector"]:
    store.bind(log.topic_id, log.partitions)
    positions = store.positions(range(log.partitions))
    _refuse_other_history(positions, log.bounds())
    rules = Rules(
        topic_id=log.topic_id,
        deployment_id=settings.deployment_id,
        clock_skew_max_s=settings.clock_skew_max_s,
    )
    run = _Projector(store, codec, rules=rules, settings=settings, clock=clock)
    run.expect(positions)
    run.reader = log.reader(run.positions, group=group)
    try:
        yield run
    finally:
        run.reader.close()


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


class _Projector:
    """One reader's way into the store."""

    reader: LogReader

    def __init__(
        self, store: Store, codec: Codec, *, rules: Rules, settings: Settings, clock: Clock
    ) -> None:
        self._store = store
        self._codec = codec
        self._rules = rules
        self._settings = settings
        self._clock = clock
        self._limit = PoisonLimit(
            share_max=settings.poison_share_max, records_min=settings.poison_records_min
        )
        self._expected: dict[int, int] = {}
        self._gathered: list[LogRecord] = []

    def expect(self, positions: Mapping[int, int]) -> None:
        """The checkpoints are believed to be there."""
        self._expected.update(positions)

    def positions(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Where a reader that comes to own the partitions has to begin: what was gathered of them
        before may have been projected by another since.
        """
        found = self._store.positions(partitions)
        self.expect(found)
        self._gathered = [
            record for record in self._gathered if record.position.partition not in found
        ]
        return found

    def behind(self, ends: Mapping[int, int]) -> int:
        """How many offsets there are to those ends."""
        return sum(max(0, end - self._expected[partition]) for partition, end in ends.items())

    def restart(self) -> None:
        """Drops every belief."""
        self._gathered = []
        self.reader.restart()

    def step(self) -> int:
        """Projects the next batch; gives its number of records, 0 where none came in time."""
        records = self._gather()
        self._gathered = []
        items: list[Read] = []
        unknown: UnknownSchema | None = None
        for record in records:
            try:
                items.append(read(self._codec, record))
            except UnknownSchema as error:
                unknown = error
                break
        if items:
            self._project(items)
        if unknown is not None:
            raise unknown
        return len(items)

    def _gather(self) -> list[LogRecord]:
        settings = self._settings
        deadline = self._clock() + timedelta(seconds=settings.batch_time_max_s)
        timeout_s = _POLL_TIMEOUT_S
        while True:
            room = settings.batch_records_max - len(self._gathered)
            polled = self.reader.poll(records_max=min(room, _POLL_RECORDS_MAX), timeout_s=timeout_s)
            self._gathered += polled
            timeout_s = _MORE_TIMEOUT_S
            if not polled or room <= len(polled) or self._clock() >= deadline:
                return self._gathered
            if sum(len(record.value) for record in self._gathered) >= settings.batch_bytes_max:
                return self._gathered

    def _project(self, items: Sequence[Read]) -> None:
        """Commits the batch; where the database refuses a value, all but the record that has it."""
        try:
            self._commit(items)
        except Unstorable:
            if len(items) > 1:
                middle = len(items) // 2
                self._project(items[:middle])
                self._project(items[middle:])
            else:
                self._put_aside(items[0])

    def _put_aside(self, item: Read) -> None:
        try:
            # An id that another projector admitted at the same moment looks the same, once.
            self._commit([item])
        except Unstorable as error:
            self._commit([poisoned(item, Reason.UNSTORABLE, str(error))])

    def _commit(self, items: Sequence[Read]) -> None:
        moves = self._moves(items)
        with self._store.transaction() as transaction:
            transaction.move(moves)
            batch = load(
                transaction,
                items,
                codec=self._codec,
                rules=self._rules,
                projections=self._store.projections,
            )
            for item in items:
                batch.take(item)
            self._limit.check(len(items), batch.poison)
            transaction.write(batch.rows.changes(), batch.memories.values())
        self._limit.note(len(items), batch.poison)
        self.expect({partition: move.new for partition, move in moves.items()})

    def _moves(self, items: Sequence[Read]) -> dict[int, Move]:
        last = {item.record.position.partition: item.record for item in items}
        return {
            partition: Move(
                self._expected[partition], record.position.offset + 1, record.recorded_at
            )
            for partition, record in last.items()
        }


class _Report:
    """Tells a run's progress."""

    def __init__(self, *, total: int, clock: Clock, on_progress: OnProgress | None) -> None:
        self.latest = Progress(done=0, total=total, per_second=0.0)
        self._clock = clock
        self._began_at = clock()
        self._on_progress = on_progress

    def tell(self, done: int) -> None:
        passed_s = (self._clock() - self._began_at).total_seconds()
        rate = done / passed_s if passed_s > 0 else 0.0
        self.latest = Progress(done=done, total=max(done, self.latest.total), per_second=rate)
        if self._on_progress is not None:
            self._on_progress(self.latest)

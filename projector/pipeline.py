"""One reader's way into the store: the next batch is read and folded while the last is written.

At most one batch is in flight. What is folded meanwhile is folded upon it (`recall`), and is handed
over when it has landed; if it lands otherwise than believed, all beliefs are dropped and what was
folded upon them is folded again. Whether a belief still holds is decided by the compare-and-set of
the transaction alone.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from metaledger.projector.intake import Known, Read, Reason, Rules, poisoned, read
from metaledger.projector.loading import load
from metaledger.projector.memory import Memory
from metaledger.projector.poison import PoisonLimit
from metaledger.projector.recall import Recall
from metaledger.projector.store import Checkpoint, Move, Prepared, Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import OperatorError, UnknownSchema, Unstorable
from metaledger.schemas.identity import Clock
from metaledger.schemas.interpreter import uncollected
from metaledger.schemas.log import LogReader, LogRecord

# A poll's share of a batch: 500 records at the cap of 900,000 bytes are 450 MB, and 2,000 are not
# to be held at once.
_POLL_RECORDS_MAX = 500
# How long a loop may not hear of its stop.
_POLL_TIMEOUT_S = 0.5
# What has arrived since is worth a look, and a wait is not.
_MORE_TIMEOUT_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the projector goes about it.

    A batch ends at the first of its bounds; `batch_time_max_s` is the time to gather it. `group`
    is for those that follow.
    """

    deployment_id: str = "default"
    group: str | None = None
    clock_skew_max_s: float = 60.0
    # A registration becomes 20 rows: with 5,000 records a batch, and another one in flight, a
    # projector took 385 MB.
    batch_records_max: int = 2_000
    batch_bytes_max: int = 32_000_000
    batch_time_max_s: float = 0.5
    poison_share_max: float = 0.5
    poison_records_min: int = 20


@dataclass(slots=True, kw_only=True)
class _Flight:
    """A batch that was folded; `outcome` is that of its commit, once it was handed over."""

    items: Sequence[Read]
    memories: Mapping[str, Memory]
    admitted: Mapping[str, Known]
    tried: int
    poison: int
    prepared: Prepared
    outcome: Future[None] = field(default_factory=Future)

    def troubles(self, names: Collection[str]) -> bool:
        """Whether one of those aggregates has records that wait, which are only being written."""
        return any(
            memory is not None and not memory.is_sound for memory in map(self.memories.get, names)
        )

    def checkpoints(self) -> Mapping[int, Checkpoint]:
        """The checkpoints that it moves, once they are moved."""
        return {
            partition: Checkpoint(move.new, move.releases)
            for partition, move in self.prepared.moves.items()
        }


class Pipeline:
    """See the module. `reader` is set before the first step.

    `done` counts the records that were committed.
    """

    reader: LogReader

    def __init__(
        self, store: Store, codec: Codec, *, rules: Rules, settings: Settings, clock: Clock
    ) -> None:
        self.done = 0
        self._store = store
        self._codec = codec
        self._rules = rules
        self._settings = settings
        self._clock = clock
        self._limit = PoisonLimit(
            share_max=settings.poison_share_max, records_min=settings.poison_records_min
        )
        self._writer = ThreadPoolExecutor(1, "projector-writer")
        # What is committed, and what will be when the flight has landed.
        self._committed: dict[int, Checkpoint] = {}
        self._expected: dict[int, Checkpoint] = {}
        self._recall = Recall()
        self._flight: _Flight | None = None
        self._gathered: list[LogRecord] = []

    @property
    def has_landed(self) -> bool:
        """Whether all that was handed over is committed."""
        return self._flight is None

    def positions(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Where a reader that comes to own the partitions has to begin: what was gathered of them
        before may have been projected by another since, and its aggregates are others.
        """
        self.land()
        found = self._store.checkpoints(partitions)
        self._committed.update(found)
        self._forget()
        self._gathered = [
            record for record in self._gathered if record.position.partition not in found
        ]
        return {partition: checkpoint.next_offset for partition, checkpoint in found.items()}

    def behind(self, ends: Mapping[int, int]) -> int:
        """How many offsets there are from what is committed to those ends."""
        return sum(
            max(0, end - self._committed[partition].next_offset) for partition, end in ends.items()
        )

    def restart(self) -> None:
        """Drops every belief, when what was handed over has come out somehow."""
        self._wait()
        self._forget()
        self._gathered = []
        self.reader.restart()

    def close(self) -> None:
        """Returns when nothing is in flight; how it landed, nobody asks any more."""
        self._wait()
        self._writer.shutdown()
        self.reader.close()

    def step(self) -> bool:
        """Hands over the next batch; False: none came in time, and the last one has landed."""
        handed_over, unknown = self._next()
        if unknown is not None or not handed_over:
            self.land()
        if unknown is not None:
            raise unknown
        return handed_over > 0

    @uncollected()
    def _next(self) -> tuple[int, UnknownSchema | None]:
        """How many records were handed over. None of them is held on return: the next search for
        garbage would go through all that they became, 3 % of the time.
        """
        records = self._gather()
        self._gathered = []
        items, unknown = self._read(records)
        if items:
            self._hand_over(items)
        return len(items), unknown

    def land(self) -> bool:
        """Waits for what is in flight. False: it did not come out as believed, and its records were
        projected after all, but beliefs are gone.
        """
        flight = self._flight
        if flight is None:
            return True
        if not flight.outcome.done():
            self._store.carry_over()
        self._flight = None
        try:
            flight.outcome.result()
        except Unstorable:
            self._forget()
            self._project(flight.items)
            return False
        self._landed(flight)
        return True

    def _gather(self) -> Sequence[LogRecord]:
        settings = self._settings
        deadline = self._clock() + timedelta(seconds=settings.batch_time_max_s)
        timeout_s = _POLL_TIMEOUT_S if self.has_landed else _MORE_TIMEOUT_S
        size = sum(len(record.value) for record in self._gathered)
        while True:
            room = settings.batch_records_max - len(self._gathered)
            polled = self.reader.poll(records_max=min(room, _POLL_RECORDS_MAX), timeout_s=timeout_s)
            self._gathered += polled
            size += sum(len(record.value) for record in polled)
            timeout_s = _MORE_TIMEOUT_S
            full = room <= len(polled) or size >= settings.batch_bytes_max
            if not polled or full or self._clock() >= deadline:
                return self._gathered

    def _read(self, records: Sequence[LogRecord]) -> tuple[list[Read], UnknownSchema | None]:
        """The records up to the first whose schema this build does not know."""
        items: list[Read] = []
        for record in records:
            try:
                items.append(read(self._codec, record))
            except UnknownSchema as error:
                return items, error
        return items, None

    def _hand_over(self, items: Sequence[Read]) -> None:
        try:
            flight = self._fold(items)
            if not self.land():
                flight = self._fold(items)
        except Unstorable:
            self.land()
            self._forget()
            self._project(items)
            return
        flight.outcome = self._writer.submit(self._store.commit, flight.prepared)
        self._flight = flight
        self._believe(flight)

    def _fold(self, items: Sequence[Read]) -> _Flight:
        """The batch as it will be written. Raises TooMuchPoison, Unstorable."""
        if self._flight is not None and self._flight.troubles({item.key or "" for item in items}):
            self.land()
        with self._store.reading() as transaction:
            batch = load(
                transaction,
                items,
                self._recall,
                codec=self._codec,
                rules=self._rules,
                projections=self._store.projections,
            )
        for item in items:
            batch.take(item)
        # What waits would hide a fold that fails on all that it is given.
        tried = len(items) - batch.waiting
        self._limit.check(tried, batch.poison)
        return _Flight(
            items=items,
            memories=batch.memories,
            admitted=batch.admitted,
            tried=tried,
            poison=batch.poison,
            prepared=self._store.prepare(
                self._moves(items), batch.rows.changes(), batch.memories.values()
            ),
        )

    def _project(self, items: Sequence[Read]) -> None:
        """Commits the batch; where the database refuses a value, all but the record that has it."""
        try:
            self._commit(items)
        except Unstorable:
            self._forget()
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
            self._forget()
            self._keep(poisoned(item, Reason.UNSTORABLE, str(error)))

    def _keep(self, poison: Read) -> None:
        try:
            self._commit([poison])
        except Unstorable as error:
            # Whoever sees Unstorable may go on behind what caused it.
            position = poison.record.position
            raise OperatorError(
                f"the record at {position.partition}/{position.offset} cannot even be put into "
                f"quarantine: {error}"
            ) from error

    def _commit(self, items: Sequence[Read]) -> None:
        flight = self._fold(items)
        self._store.commit(flight.prepared)
        self._believe(flight)
        self._landed(flight)

    def _believe(self, flight: _Flight) -> None:
        self._expected.update(flight.checkpoints())
        self._recall.keep(flight.memories, flight.admitted)
        # What comes again after an error is counted again: a share stays what it is.
        self._limit.note(flight.tried, flight.poison)

    def _landed(self, flight: _Flight) -> None:
        self._committed.update(flight.checkpoints())
        self.done += len(flight.items)

    def _forget(self) -> None:
        self._expected = dict(self._committed)
        self._recall = Recall()

    def _wait(self) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.outcome.exception()

    def _moves(self, items: Sequence[Read]) -> Mapping[int, Move]:
        last = {item.record.position.partition: item.record for item in items}
        return {
            partition: Move(
                old=self._expected[partition].next_offset,
                new=record.position.offset + 1,
                last_recorded_at=record.recorded_at,
                releases=self._expected[partition].releases,
            )
            for partition, record in last.items()
        }

"""Cold start: what a service's database holds becomes IMPORTED events, through its own outbox.

Rules (RELIABILITY.md, "Inside the service's transaction"):

- The service is live. A transaction of ours is short, of a bounded number of aggregates: it locks
  their counters, in sorted order, reads their rows and writes their events, as a hook does. It
  waits for nobody's lock, so it is never one of two that wait for each other. What is in flight is
  left aside, and tried again at the end.
- An aggregate whose counter is not new is known: this import, another one, or a hook that met it
  was there first, and its events tell all since. So an import needs no cursor: broken off at any
  point and begun again it goes on, and done twice it adds nothing.
- It fills half of the outbox and leaves the other half to the service, whose changes would go
  unrecorded in a full one. There it waits, as long as a relay makes room.
- In memory are a page of keys, a transaction's aggregates, and the names of what is in flight.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from metaledger.producers import administration, counters
from metaledger.producers.administration import OutboxStatus
from metaledger.producers.database import answering, reading
from metaledger.producers.guard import described, is_lock_timeout
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.source import Kind, count_all, pages
from metaledger.schemas.errors import ContractError, MetaledgerError, OutboxFull, UsageError
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.meta import Context, Origin

_log = structlog.get_logger("metaledger.producers")

_KEYS_MAX = 1_000
# Some 600 events. Whoever wants one of these aggregates waits for all of them: 100 ms on a laptop.
_AGGREGATES_MAX = 200
# Beyond that many they are counted, and left to the next run.
_ASIDE_MAX = 10_000
_TRIES_MAX = 5
_PAUSE_S = 0.5
_STALLED = timedelta(seconds=60)
# No kind of aggregates takes more events than that to tell.
_EVENTS_EACH_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the import of one kind is, of so many aggregates as there were when it began.

    `known`: the ledger was told of them before. `in_flight`: others hold them, and `untold`: no
    event can tell them; both lack in the ledger.
    """

    kind: str
    total: int
    imported: int = 0
    events: int = 0
    known: int = 0
    in_flight: int = 0
    untold: int = 0

    @property
    def done(self) -> int:
        """How many it has come to."""
        return self.imported + self.known + self.in_flight + self.untold


OnProgress = Callable[[Progress], None]
OnWait = Callable[[OutboxStatus], None]


class InFlight(MetaledgerError):
    """Another transaction holds an aggregate."""

    retriable = True


class Importer:
    """Imports from one database, whose outbox is installed; used by one thread.

    `settings` are those of who imports, with the outbox's limit that the service has. `on_wait` is
    told again and again while the outbox is full; `pause` is how long nothing is done then.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ProducerSettings,
        *,
        context: Context,
        on_progress: OnProgress = lambda _progress: None,
        on_wait: OnWait = lambda _status: None,
        pause: Callable[[], None] = lambda: time.sleep(_PAUSE_S),
        clock: Clock = system_clock,
    ) -> None:
        """Raises UsageError where the outbox's limit is too small."""
        self._rows_max = settings.outbox_rows_max // 2
        if self._rows_max < _EVENTS_EACH_MAX:
            raise UsageError(
                f"the outbox's limit, relay.outbox_rows_max = {settings.outbox_rows_max}, leaves "
                f"an import no room: it needs {2 * _EVENTS_EACH_MAX}"
            )
        ours = replace(settings, strict=True, outbox_rows_max=self._rows_max)
        self._engine = engine
        self._outbox = Outbox(ours, ours.codec(), clock=clock)
        self._context = context
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._pause = pause
        self._clock = clock
        self._at_once = min(_AGGREGATES_MAX, self._rows_max // _EVENTS_EACH_MAX)

    def run(self, kind: Kind[Any]) -> Progress:
        """Imports all of a kind that the ledger was not told of; returns what became of them.

        Raises OutboxFull where no relay makes room, Unreachable, UsageError.
        """
        work = _Work(kind, Progress(kind=kind.name, total=count_all(self._engine, kind)))
        for keys in pages(self._engine, kind, keys_max=_KEYS_MAX):
            self._bring_new(work, keys)
        for _ in range(_TRIES_MAX):
            if not work.aside:
                break
            self._pause()
            again, work.aside = work.aside, []
            work.add(in_flight=-len(again))
            self._bring_new(work, again)
        return work.progress

    def _bring_new(self, work: "_Work", keys: Sequence[str]) -> None:
        new = self._unknown(work.kind, keys)
        work.add(known=len(keys) - len(new))
        for start in range(0, len(new), self._at_once):
            self._bring(work, new[start : start + self._at_once])
            self._on_progress(work.progress)

    def _unknown(self, kind: Kind[Any], keys: Sequence[str]) -> list[str]:
        names = {kind.aggregate(key): key for key in keys}
        with answering(self._engine), reading(self._engine) as connection:
            found = counters.read(connection, names)
        return [key for name, key in names.items() if name not in found or found[name].is_new]

    def _bring(self, work: "_Work", keys: Sequence[str]) -> None:
        """Imports them; what stands in the way is found by halves, and left out."""
        try:
            self._write(work, keys)
        except (InFlight, ContractError) as error:
            half = len(keys) // 2
            if half:
                self._bring(work, keys[:half])
                self._bring(work, keys[half:])
            elif isinstance(error, InFlight):
                work.put_aside(keys[0])
            else:
                _log.error("not imported", aggregate=work.kind.aggregate(keys[0]), error=str(error))
                work.add(untold=1)

    def _write(self, work: "_Work", keys: Sequence[str]) -> None:
        while True:
            try:
                with answering(self._engine), self._engine.begin() as connection:
                    imported, events = self._import_in(connection, work.kind, keys)
            except OutboxFull:
                self._wait_for_room()
                continue
            # An image that is gone since its key was read counts as known: nothing of it lacks.
            work.add(imported=imported, events=events, known=len(keys) - imported)
            return

    def _import_in(
        self, connection: Connection, kind: Kind[Any], keys: Sequence[str]
    ) -> tuple[int, int]:
        with waiting_for_nobody(connection):
            locked = self._outbox.lock(connection, [kind.aggregate(key) for key in keys])
            new = [key for key in keys if locked[kind.aggregate(key)].is_new]
            states = kind.read(connection, new)
            drafts = self._drafts(kind, states, self._clock())
            self._outbox.record(connection, drafts)
        return len(states), len(drafts)

    def _drafts(self, kind: Kind[Any], states: Mapping[str, Any], now: datetime) -> list[Draft]:
        return [
            Draft(
                data=data,
                aggregate=kind.aggregate(key),
                context=self._context,
                origin=Origin.IMPORTED,
            )
            for key, state in states.items()
            for data in kind.imported(state, now)
        ]

    def _wait_for_room(self) -> None:
        """Until a relay has sent half of what we may fill."""
        least, since = self._rows_max + 1, self._clock()
        while True:
            found = administration.status(self._engine, rows_max=2 * self._rows_max)
            now = self._clock()
            if found.rows_waiting < least:
                least, since = found.rows_waiting, now
            if found.lease_expires_at is None or found.lease_expires_at <= now:
                raise OutboxFull(_NO_ROOM.format(found.rows_waiting, "no relay drains it"))
            if now - since > _STALLED:
                why = f"its relay sends nothing: {found.last_error or 'it says no reason'}"
                raise OutboxFull(_NO_ROOM.format(found.rows_waiting, why))
            self._on_wait(found)
            self._pause()
            if found.rows_waiting <= self._rows_max // 2:
                return


_NO_ROOM = (
    "{:,} events wait in the outbox, and {}. Start `metaledger relay`, and run this again: it goes "
    "on where it stopped"
)


class _Work:
    """One kind's import under way: what became of it so far, and what is to be tried again."""

    def __init__(self, kind: Kind[Any], progress: Progress) -> None:
        self.kind = kind
        self.progress = progress
        self.aside: list[str] = []

    def add(self, **counts: int) -> None:
        so_far = {name: getattr(self.progress, name) + count for name, count in counts.items()}
        self.progress = replace(self.progress, **so_far)

    def put_aside(self, key: str) -> None:
        self.add(in_flight=1)
        if len(self.aside) < _ASIDE_MAX:
            self.aside.append(key)


@contextmanager
def waiting_for_nobody(connection: Connection) -> Iterator[None]:
    """What the body asks for and another transaction holds is InFlight, at once.

    On SQLite there is one writer, whom everybody waits for, and seconds at most.
    """
    if (statement := _NO_WAITING.get(connection.dialect.name)) is not None:
        connection.exec_driver_sql(statement)
    try:
        yield
    except DBAPIError as error:
        if is_lock_timeout(connection, error):
            raise InFlight(described(error)) from error
        raise


_NO_WAITING = {
    # Below `deadlock_timeout`: nobody ever looks for a deadlock that we are part of.
    "postgresql": "SET LOCAL lock_timeout = '50ms'",
    **dict.fromkeys(("mysql", "mariadb"), "SET SESSION innodb_lock_wait_timeout = 0"),
}

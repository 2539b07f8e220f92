"""Writes events through the outbox of a service that runs, beside its own transactions.

Rules (RELIABILITY.md, "Inside the service's transaction"):

- A transaction of ours is short, of a bounded number of aggregates: it locks their counters, in
  sorted order, reads their rows and writes their events, as a hook does. It waits for nobody's
  lock, so it is never one of two that wait for each other. What is in flight is left out.
- What stands in the way of a transaction (somebody's lock, an aggregate that no event can tell) is
  found by halves, and keeps out itself alone.
- Half of the outbox is left to the service, whose changes would go unrecorded in a full one. At the
  other half this waits, as long as a relay makes room.
- Several transactions at once keep the database busy while Python is. They are of different
  aggregates, and none sees what the others are about to write: room is kept for that.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from metaledger.producers import administration
from metaledger.producers.administration import OutboxStatus
from metaledger.producers.copying import copies
from metaledger.producers.counters import Counter
from metaledger.producers.database import answering
from metaledger.producers.guard import described, is_lock_timeout
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.errors import ContractError, MetaledgerError, OutboxFull, UsageError
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.interpreter import switching_often, uncollected

_log = structlog.get_logger("metaledger.producers")

# Some 200 events. Whoever wants one of these aggregates waits for all of them, about 100 ms.
_AGGREGATES_MAX = 200
# No aggregate takes more events than that to tell.
_EVENTS_EACH_MAX = 10
# How many transactions an import has under way at once, unless somebody says otherwise: each waits
# for the database half of its time.
JOBS = 4
_PAUSE_S = 0.5
_STALLED = timedelta(seconds=60)

# From a connection and the counters that it holds, by aggregate, to what is to be told of them.
Telling = Callable[[Connection, Mapping[str, Counter]], Sequence[Draft]]
OnWait = Callable[[OutboxStatus], None]


class InFlight(MetaledgerError):
    """Another transaction holds an aggregate."""

    retriable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """So many aggregates were told, by so many events. `in_flight`: others hold them; `untold`: no
    event can tell them; `no_room`: the outbox is full.
    """

    told: int = 0
    events: int = 0
    in_flight: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    no_room: tuple[str, ...] = ()

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            told=self.told + other.told,
            events=self.events + other.events,
            in_flight=self.in_flight + other.in_flight,
            untold=self.untold + other.untold,
            no_room=self.no_room + other.no_room,
        )


class LiveWriter:
    """Writes into one database's outbox, which is installed; used by one thread.

    The engine is its own: on MariaDB connections that waited for nobody never do again.
    `settings` are those of who writes, with the outbox's limit that the service has. `jobs` is how
    many transactions are under way at once, on threads of their own; on SQLite it is one. `on_wait`
    is told again and again while the outbox is full; `pause` is how long nothing is done then.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ProducerSettings,
        *,
        jobs: int = 1,
        on_wait: OnWait = lambda _status: None,
        pause: Callable[[], None] = lambda: time.sleep(_PAUSE_S),
        clock: Clock = system_clock,
    ) -> None:
        """Raises UsageError where the outbox's limit is too small."""
        half = settings.outbox_rows_max // 2
        if half < _EVENTS_EACH_MAX:
            raise UsageError(
                f"the outbox's limit, relay.outbox_rows_max = {settings.outbox_rows_max}, leaves "
                f"no room beside the service: it needs {2 * _EVENTS_EACH_MAX}"
            )
        room_for = half // _EVENTS_EACH_MAX
        self._jobs = 1 if engine.dialect.name == "sqlite" else max(1, min(jobs, room_for // 2))
        # Of several, what is kept for the others is at most half of the room.
        shares = 1 if self._jobs == 1 else 2 * self._jobs
        self._at_once = min(_AGGREGATES_MAX, room_for // shares)
        self._rows_max = half - (self._jobs - 1) * self._at_once * _EVENTS_EACH_MAX
        ours = replace(settings, strict=True, outbox_rows_max=self._rows_max)
        self._engine = copies(engine)
        self._limit = settings.outbox_rows_max
        self._outbox = Outbox(ours, ours.codec(), clock=clock)
        self._on_wait = on_wait
        self._clock = clock
        self.pause = pause

    def tell(self, aggregates: Sequence[str], telling: Telling) -> Outcome:
        """Has `telling` say what is to be told of the aggregates, and writes it.

        Raises OutboxFull where no relay makes room, Unreachable, UsageError.
        """
        outcome, left = Outcome(), tuple(aggregates)
        while left:
            found = self._tell_all(left, telling)
            outcome, left = outcome + replace(found, no_room=()), found.no_room
            if left:
                self._wait_for_room()
        return outcome

    @uncollected()
    @switching_often()
    def _tell_all(self, aggregates: Sequence[str], telling: Telling) -> Outcome:
        full = Event()

        def tell(part: Sequence[str]) -> Outcome:
            if full.is_set():
                return Outcome(no_room=tuple(part))
            outcome = self._tell(part, telling)
            if outcome.no_room:
                full.set()
            return outcome

        size = self._at_once
        parts = [aggregates[at : at + size] for at in range(0, len(aggregates), size)]
        if self._jobs == 1:
            return sum(map(tell, parts), Outcome())
        # What has not begun when one of them fails, or on Ctrl-C, never does.
        with ThreadPoolExecutor(self._jobs, "metaledger-live") as pool:
            return sum(pool.map(tell, parts), Outcome())

    def _tell(self, aggregates: Sequence[str], telling: Telling) -> Outcome:
        try:
            drafts = self._write(aggregates, telling)
        except (InFlight, ContractError) as error:
            if half := len(aggregates) // 2:
                return self._tell(aggregates[:half], telling) + self._tell(
                    aggregates[half:], telling
                )
            if isinstance(error, InFlight):
                return Outcome(in_flight=tuple(aggregates))
            _log.error("not told", aggregate=aggregates[0], error=str(error))
            return Outcome(untold=tuple(aggregates))
        except OutboxFull:
            return Outcome(no_room=tuple(aggregates))
        return Outcome(told=len({draft.aggregate for draft in drafts}), events=len(drafts))

    def _write(self, aggregates: Sequence[str], telling: Telling) -> Sequence[Draft]:
        with (
            answering(self._engine),
            self._engine.begin() as connection,
            _waiting_for_nobody(connection),
        ):
            locked, claimed = self._outbox.claim(connection, aggregates)
            drafts = telling(connection, locked)
            self._outbox.record(connection, drafts, claimed=claimed)
        return drafts

    def _wait_for_room(self) -> None:
        """Until a relay has sent half of what we may fill."""
        least, since = self._rows_max + 1, self._clock()
        while True:
            found = administration.status(self._engine, rows_max=self._limit)
            now = self._clock()
            if found.rows_waiting < least:
                least, since = found.rows_waiting, now
            if found.lease_expires_at is None or found.lease_expires_at <= now:
                raise OutboxFull(_NO_ROOM.format(found.rows_waiting, "no relay drains it"))
            if now - since > _STALLED:
                why = f"its relay sends nothing: {found.last_error or 'it says no reason'}"
                raise OutboxFull(_NO_ROOM.format(found.rows_waiting, why))
            self._on_wait(found)
            self.pause()
            if found.rows_waiting <= self._rows_max // 2:
                return


@contextmanager
def _waiting_for_nobody(connection: Connection) -> Iterator[None]:
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


_NO_ROOM = (
    "{:,} events wait in the outbox, and {}. Start `metaledger relay`, and run this again: it goes "
    "on where it stopped"
)
_NO_WAITING = {
    # Below `deadlock_timeout`: nobody ever looks for a deadlock that we are part of.
    "postgresql": "SET LOCAL lock_timeout = '50ms'",
    **dict.fromkeys(("mysql", "mariadb"), "SET SESSION innodb_lock_wait_timeout = 0"),
}

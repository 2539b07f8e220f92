"""The writers of the race: a program of its own, as one process of the service would be.

Each aggregate has a version in a table of the service's own, which every change raises by one. So
the truth is the service's: what was committed of an aggregate is 1, 2, 3 … up to its version, in
this order, and its row's lock, not ours, made the order. Each event tells the version that it made.

A transaction changes one aggregate or more, waits where it may hurt (before the event is written,
and behind it, before the commit), and is rolled back one time in ten. What the database ends
(deadlock, busy) runs again, as a service's does. Half of them are watched by the hook; of the
others events go through the emitter or straight into the outbox, so that rows of the outbox stand
uncommitted for as long as the longest transaction. What a lock told the hook it may have to learn
again: there are events of its own transaction that it does not know of, and savepoints that are
rolled back.

    python -m tests.proofs.race_writers PLAN      with the plan as JSON; prints how often it retried
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from random import Random

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from metaledger.producers.emitter import Emitter
from metaledger.producers.outbox import Outbox

from .race_service import AGGREGATES, SETTINGS, draft, hooked, new_engine, raised

ROLLED_BACK = 0.1
SEVERAL = 0.2
EMITTED = 0.5
WATCHED = 0.5
TOLD_BESIDE, UNDONE = 0.2, 0.1
SHORT, SHORT_S = 0.1, 0.02
# Sixteen writers soon stand behind a long one; on SQLite all of them at once.
LONG, LONG_S = 0.001, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a process of writers does: `commits` of each of them, and nothing but by the seed."""

    url: str
    seed: str
    writers: int
    commits: int

    def as_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One transaction, drawn before it is tried: a retry does the same again.

    `is_told_beside`: the hook's transaction has events that the hook does not know of. `is_undone`:
    each aggregate is changed behind a savepoint first, and that is rolled back.
    """

    aggregates: tuple[str, ...]
    is_watched: bool
    is_emitted: bool
    is_told_beside: bool
    is_undone: bool
    is_committed: bool
    delays_s: tuple[float, float]


def draw(random: Random) -> Change:
    """The next change."""
    several = random.random() < SEVERAL
    chosen = random.sample(AGGREGATES, random.randint(2, 3) if several else 1)
    return Change(
        aggregates=tuple(sorted(chosen)),
        is_watched=random.random() < WATCHED,
        is_emitted=random.random() < EMITTED,
        is_told_beside=random.random() < TOLD_BESIDE,
        is_undone=random.random() < UNDONE,
        is_committed=random.random() >= ROLLED_BACK,
        delays_s=(_delay_s(random), _delay_s(random)),
    )


class Writer:
    """One writer, with a connection of its own for either kind of transaction."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._outbox = Outbox(SETTINGS, SETTINGS.codec())
        self._emitter = Emitter(self._outbox)
        self._engine, self._watched = new_engine(plan.url), new_engine(plan.url)
        self._outbox.listen(self._engine)
        self._note = hooked(self._watched, self._outbox)
        self._random = Random(f"{plan.seed}/{number}")
        self._commits = plan.commits

    def run(self) -> int:
        """Commits as often as planned; returns how many transactions had to run again."""
        retries, left = 0, self._commits
        while left:
            change = draw(self._random)
            while not self._done(change):
                retries += 1
            left -= change.is_committed
        assert self._outbox.failures == 0, "an error was swallowed"
        self._engine.dispose()
        self._watched.dispose()
        return retries

    def _done(self, change: Change) -> bool:
        engine = self._watched if change.is_watched else self._engine
        try:
            with engine.connect() as connection:
                self._apply(connection, change)
                if change.is_committed:
                    connection.commit()
        except OperationalError:
            return False
        return True

    def _apply(self, connection: Connection, change: Change) -> None:
        early, late = change.delays_s
        for aggregate in change.aggregates:
            if change.is_undone:
                with connection.begin_nested() as savepoint:
                    raised(connection, aggregate)
                    savepoint.rollback()
            if change.is_watched:
                self._change_watched(connection, aggregate, change)
            else:
                self._change(connection, aggregate, change)
            time.sleep(early / len(change.aggregates))
        time.sleep(late)

    def _change_watched(self, connection: Connection, aggregate: str, change: Change) -> None:
        version = raised(connection, aggregate)
        if change.is_told_beside:
            self._outbox.record(connection, [draft(aggregate, version)])
            raised(connection, aggregate)
        self._note(connection, aggregate, 1 + change.is_told_beside)

    def _change(self, connection: Connection, aggregate: str, change: Change) -> None:
        drafts = [draft(aggregate, raised(connection, aggregate))]
        if change.is_emitted:
            self._emitter.emit(connection, drafts)
        else:
            self._outbox.record(connection, drafts)


def _delay_s(random: Random) -> float:
    drawn = random.random()
    if drawn < LONG:
        return random.uniform(LONG_S / 4, LONG_S)
    return random.uniform(0, SHORT_S) if drawn < SHORT else 0


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    with ThreadPoolExecutor(plan.writers) as pool:
        print(sum(pool.map(lambda number: Writer(plan, number).run(), range(plan.writers))))


if __name__ == "__main__":
    main()

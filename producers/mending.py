"""Mends what differs: RECONCILED events that tell what a service's database holds.

Who found the difference says by which number the ledger knew each aggregate then. One that got a
number since is in flight: what was seen of it is no longer so, and its own event tells why. Else
nothing that is recorded has changed it, and nothing does while its counter is held. What lacks a
change by then is told whole: a mark gives no number, and what mends takes it.

What is marked and does not differ lacks nothing any more, and no event could tell anything of it:
its mark goes without one (`settle`). A change that goes unrecorded gives no number either, and an
older mark stands for it too, so the rows have to be those that were compared as well.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection

from metaledger.producers import counters
from metaledger.producers.counters import Counter
from metaledger.producers.live import LiveWriter, Outcome
from metaledger.producers.source import WHOLE, Kind, What
from metaledger.schemas.events import Draft, EventData
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.meta import Context, Origin

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """An aggregate to be mended. `epoch`, `seq`: the last number that was given of it when it was
    compared. `values` are those that differ. `unknown`: the ledger knows nothing at all of it.
    """

    epoch: int
    seq: int
    values: Collection[What]
    unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreeing:
    """A marked aggregate that lacks nothing. `counter` and `state` are as they were compared, when
    nothing of it was in flight; None: the database had no row of it.
    """

    counter: Counter
    state: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Mender:
    """Mends through one database's outbox."""

    writer: LiveWriter
    context: Context
    clock: Clock = system_clock

    def mend(self, kind: Kind[Any], differing: Mapping[str, Differing]) -> Outcome:
        """Mends these aggregates, or leaves them in flight. Raises as LiveWriter does."""

        def telling(connection: Connection, locked: Mapping[str, Counter]) -> list[Draft]:
            as_seen = {}
            for name, counter in locked.items():
                found = differing[name]
                if (counter.epoch, counter.seq) == (found.epoch, found.seq):
                    whole = replace(found, values={*found.values, WHOLE})
                    as_seen[name] = whole if counter.unrecorded else found
            return self._drafts(connection, kind, as_seen)

        return self.writer.tell(list(differing), telling)

    def settle(self, kind: Kind[Any], agreeing: Mapping[str, Agreeing]) -> int:
        """Takes the marks of those that are still as they were compared; returns how many.

        Raises as LiveWriter does.
        """
        settled: list[str] = []

        def telling(connection: Connection, locked: Mapping[str, Counter]) -> list[Draft]:
            states = kind.read(connection, [kind.key_of(name) for name in locked])
            same = [
                name
                for name, counter in locked.items()
                if (counter, states.get(name)) == (agreeing[name].counter, agreeing[name].state)
            ]
            counters.unmark(connection, same)
            settled.extend(same)
            return []

        self.writer.tell(list(agreeing), telling)
        return len(settled)

    def _drafts(
        self, connection: Connection, kind: Kind[Any], differing: Mapping[str, Differing]
    ) -> list[Draft]:
        states = kind.read(connection, [kind.key_of(name) for name in differing])
        now = self.clock()
        return [
            Draft(data=data, aggregate=name, context=self.context, origin=Origin.RECONCILED)
            for name, found in differing.items()
            for data in _mended(kind, name, states.get(name), found, now)
        ]


def _mended(
    kind: Kind[S], name: str, state: S | None, found: Differing, now: datetime
) -> Sequence[EventData]:
    if state is None:
        return kind.purged(kind.key_of(name), now)
    if found.unknown:
        return kind.imported(state, now)
    return kind.reconciled(state, found.values, now)

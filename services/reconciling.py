"""Compares a service's live database with the read model, page by page.

Each page is read in this order: the read model with the numbers that it has seen, the service's
rows, and then the counters. Whoever changes an aggregate gives it a number in the same transaction:
so where the counter says no number that the read model has not seen, its rows are those that the
ledger was told of last, and a difference is one. All else is in flight, and left out. A row that is
not there is an end only where this database told of the aggregate last: an instance that went to
another cell leaves none either.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine

from metaledger.producers import counters
from metaledger.producers.administration import bound_log
from metaledger.producers.counters import Counter, read_stream
from metaledger.producers.database import answering, reading
from metaledger.producers.mending import Differing
from metaledger.producers.source import Kind, pages, those_there
from metaledger.schemas.errors import UsageError
from metaledger.services import queries
from metaledger.services.comparison import Difference, differences

# Twice in a statement: below 999 parameters, which is all that an old SQLite takes.
_KEYS_MAX = 400

IN_FLIGHT = "in flight: not all that was recorded of it is in the read model"
PARKED = "parked: see metaledger quarantine list"
ELSEWHERE = "told by another source than this database"


@dataclass(frozen=True, slots=True)
class Page:
    """What a page's comparison found: so many were compared or left out, and what differs."""

    compared: int = 0
    left_out: Tally[str] = field(default_factory=Tally)
    found: Sequence[Difference] = ()
    differing: Mapping[str, Differing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """A service's database beside a read model's connection, which sees one state a transaction."""

    engine: Engine
    read_model: Connection

    def require_same_log(self) -> None:
        """Raises UsageError where the read model is of another log than the outbox feeds."""
        outbox_log = bound_log(self.engine)
        projected, _ = queries.ledger.projected_log(self.read_model)
        if None not in {outbox_log, projected} and outbox_log != projected:
            raise UsageError(
                f"the read model was built from log {projected}, and this database's events go to "
                f"log {outbox_log}: name the right read model"
            )

    def pages(self, kind: Kind[Any]) -> Iterator[Page]:
        """All that the database holds, and then what the ledger alone has."""
        for keys in pages(self.engine, kind, keys_max=_KEYS_MAX):
            yield self._compared(kind, keys)
        after = ""
        while keys := self._live(kind, after):
            after = keys[-1]
            there = those_there(self.engine, kind, keys)
            if purged := [key for key in keys if key not in there]:
                yield self._compared(kind, purged)

    def _live(self, kind: Kind[Any], after: str) -> list[str]:
        self.read_model.rollback()
        return queries.standing.live(self.read_model, kind.name, after=after, keys_max=_KEYS_MAX)

    def _compared(self, kind: Kind[Any], keys: Sequence[str]) -> Page:
        names = {kind.aggregate(key): key for key in keys}
        with answering(self.engine), reading(self.engine) as connection:
            stream_id = read_stream(connection).stream_id
        self.read_model.rollback()
        told = queries.standing.STANDINGS[kind.name](self.read_model, keys)
        seen = queries.standing.seen(self.read_model, kind.name, keys, stream_id=stream_id)
        streams = queries.standing.last_streams(self.read_model, kind.name, keys)
        parked = queries.standing.parked(self.read_model, list(names))
        with answering(self.engine), reading(self.engine) as connection:
            states = kind.read(connection, keys)
            given = counters.read(connection, names)
        left_out, found, differing = Tally[str](), list[Difference](), dict[str, Differing]()
        for name, key in names.items():
            number = given.get(name, _NONE)
            ours = name in states or streams.get(key) == stream_id
            held = kind.standing(states[name]) if name in states else None
            if not ours or (name in states and held is None):
                left_out[ELSEWHERE] += 1
            elif (why := _not_yet(name, number, seen.get(key, {}), parked)) is not None:
                left_out[why] += 1
            elif differs := list(differences(name, ledger=told.get(key), database=held)):
                found += differs
                differing[name] = Differing(
                    epoch=number.epoch,
                    seq=number.seq,
                    values=[(one.what, one.key) for one in differs],
                    unknown=key not in told,
                )
        return Page(len(names) - left_out.total(), left_out, found, differing)


def _not_yet(name: str, number: Counter, seen: Mapping[int, int], parked: set[str]) -> str | None:
    if name in parked:
        return PARKED
    return IN_FLIGHT if number.seq > seen.get(number.epoch, 0) else None


_NONE = Counter(seq=0, epoch=0, unrecorded_since=None)

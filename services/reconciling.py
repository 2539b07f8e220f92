"""Compares a service's live database with the read model, page by page.

Each page is read in this order: the read model with the numbers that it has seen, the service's
rows, and then the counters. Whoever changes an aggregate gives it a number in the same transaction:
so where the counter says no number that the read model has not seen, its rows are those that the
ledger was told of last, and a difference is one. All else is in flight, and left out. A row that is
not there is an end only where this database told of the aggregate last: an instance that went to
another cell leaves none either.

What is marked as lacking a change (after `outbox reseed` that is everything) may have numbers that
say nothing: a restored database gives numbers again, and another log has none of them. So nothing
of it is in flight only where no event of it waits, the read model has reached the end that the log
had after that, and its counter is the same behind its rows as before all. Then it differs, and is
mended; or it agrees, or is gone from both, and lacks nothing. What is another source's to tell is
not compared: it lacks nothing here where it is the reseed alone that marked it.
"""

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine

from metaledger.producers import counters
from metaledger.producers.administration import bound_log, waiting
from metaledger.producers.counters import Counter, Stream, read_stream
from metaledger.producers.database import answering, reading
from metaledger.producers.mending import Agreeing, Differing
from metaledger.producers.source import Kind, pages, those_there
from metaledger.schemas.errors import UsageError
from metaledger.schemas.log import Log
from metaledger.services import queries
from metaledger.services.comparison import Difference, differences

# Twice in a statement: below 999 parameters, which is all that an old SQLite takes.
_KEYS_MAX = 400

IN_FLIGHT = "in flight: not all that was recorded of it is in the read model"
PARKED = "parked: see metaledger quarantine list"
ELSEWHERE = "told by another source than this database"


@dataclass(frozen=True, slots=True)
class Page:
    """What a page's comparison found: so many were compared or left out, and what differs.

    `agreeing` are marked as lacking a change, and lack none.
    """

    compared: int = 0
    left_out: Tally[str] = field(default_factory=Tally)
    found: Sequence[Difference] = ()
    differing: Mapping[str, Differing] = field(default_factory=dict)
    agreeing: Mapping[str, Agreeing] = field(default_factory=dict)


class Patience:
    """How long a read model that is behind is waited for: so many pauses, anew after each time that
    it came. What did not come is not waited for again.
    """

    def __init__(self, pauses_max: int, pause: Callable[[], None]) -> None:
        self._pauses_max = self._left = pauses_max
        self._pause = pause

    def again(self) -> bool:
        """Pauses, and says whether to look again."""
        if self._left == 0:
            return False
        self._left -= 1
        self._pause()
        return True

    def came(self) -> None:
        """It was worth the while."""
        self._left = self._pauses_max


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """A service's database beside a read model's connection, which sees one state a transaction.

    `log` is the ledger; without it whatever is marked is in flight. `patience` is for a projector
    that is just behind its end, as it nearly always is where much happens.
    """

    engine: Engine
    read_model: Connection
    log: Log | None = None
    patience: Patience = field(default_factory=lambda: Patience(0, lambda: None))

    def require_same_log(self) -> None:
        """Raises UsageError where the read model is of another log than the outbox feeds."""
        outbox_log = bound_log(self.engine)
        if outbox_log is None and self.log is not None:
            # After `outbox reseed`, until a relay has begun.
            outbox_log = self.log.topic_id
        projected, _ = queries.ledger.projected_log(self.read_model)
        if None not in {outbox_log, projected} and outbox_log != projected:
            raise UsageError(
                f"the read model was built from log {projected}, and this database's events go to "
                f"log {outbox_log}: name the right read model"
            )

    def pages(self, kind: Kind[Any]) -> Iterator[Page]:
        """All that the database holds, then what the ledger alone has, and what is gone from both
        and is still marked.
        """
        for keys in pages(self.engine, kind, keys_max=_KEYS_MAX):
            yield self._compared(kind, keys)
        after = ""
        while keys := self._live(kind, after):
            after = keys[-1]
            there = those_there(self.engine, kind, keys)
            if purged := [key for key in keys if key not in there]:
                yield self._compared(kind, purged)
        after = ""
        while names := self._marked(kind, after):
            after = names[-1]
            if gone := self._gone(kind, [kind.key_of(name) for name in names]):
                yield self._compared(kind, gone)

    def _live(self, kind: Kind[Any], after: str) -> list[str]:
        self.read_model.rollback()
        return queries.standing.live(self.read_model, kind.name, after=after, keys_max=_KEYS_MAX)

    def _marked(self, kind: Kind[Any], after: str) -> list[str]:
        with answering(self.engine), reading(self.engine) as connection:
            return counters.marked(connection, kind.aggregate(""), after=after, names_max=_KEYS_MAX)

    def _gone(self, kind: Kind[Any], keys: Sequence[str]) -> list[str]:
        """Those that neither the database nor the read model has alive."""
        there = those_there(self.engine, kind, keys)
        self.read_model.rollback()
        told = queries.standing.STANDINGS[kind.name](self.read_model, keys)
        return [key for key in keys if key not in there and (key not in told or told[key].deleted)]

    def _begin(self, names: Collection[str]) -> tuple[Stream, Mapping[str, Counter]]:
        """Begins to look at these: the stream, and the counters of those that are marked and of
        which all that was recorded is in the read model's transaction, which begins here.
        """
        with answering(self.engine), reading(self.engine) as connection:
            stream = read_stream(connection)
            found = counters.read(connection, names)
            marked = {name: counter for name, counter in found.items() if counter.unrecorded}
            unsent = waiting(connection, marked) if marked else set()
        self.read_model.rollback()
        if self.log is None or not marked or not self._reaches_the_end_of(self.log):
            return stream, {}
        return stream, {name: it for name, it in marked.items() if name not in unsent}

    def _reaches_the_end_of(self, log: Log) -> bool:
        """Whether the read model's transaction, which begins here, has all that the log has now."""
        bounds = log.bounds()
        while True:
            rows = queries.ledger.checkpoints(self.read_model)
            reached = {row["log_partition"]: row["next_offset"] for row in rows}
            if all(reached.get(partition, 0) >= end for partition, (_, end) in bounds.items()):
                self.patience.came()
                return True
            self.read_model.rollback()
            if not self.patience.again():
                return False

    def _compared(self, kind: Kind[Any], keys: Sequence[str]) -> Page:
        names = {kind.aggregate(key): key for key in keys}
        stream, marked = self._begin(names)
        told = queries.standing.STANDINGS[kind.name](self.read_model, keys)
        seen = queries.standing.seen(self.read_model, kind.name, keys, stream_id=stream.stream_id)
        streams = queries.standing.last_streams(self.read_model, kind.name, keys)
        parked = queries.standing.parked(self.read_model, list(names))
        with answering(self.engine), reading(self.engine) as connection:
            states = kind.read(connection, keys)
            given = counters.read(connection, names)
        left_out, found, differing = Tally[str](), list[Difference](), dict[str, Differing]()
        agreeing: dict[str, Agreeing] = {}
        for name, key in names.items():
            number = given.get(name, counters.NEW)
            # What neither has is nobody else's.
            ours = name in states or key not in told or streams.get(key) == stream.stream_id
            held = kind.standing(states[name]) if name in states else None
            why = _not_yet(name, number, seen.get(key, {}), parked, marked)
            differs: list[Difference] = []
            is_elsewhere = not ours or (name in states and held is None)
            if is_elsewhere:
                left_out[ELSEWHERE] += 1
            elif why is not None:
                left_out[why] += 1
            else:
                differs += differences(name, ledger=told.get(key), database=held)
            if differs:
                found += differs
                differing[name] = Differing(
                    epoch=number.epoch,
                    seq=number.seq,
                    values=[(one.what, one.key) for one in differs],
                    unknown=key not in told,
                )
            elif (
                why is None
                and number.unrecorded
                and (not is_elsewhere or number.unrecorded_since == stream.epoch_began_at)
            ):
                agreeing[name] = Agreeing(counter=number, state=states.get(name))
        return Page(len(names) - left_out.total(), left_out, found, differing, agreeing)


def _not_yet(
    name: str,
    number: Counter,
    seen: Mapping[int, int],
    parked: set[str],
    marked: Mapping[str, Counter],
) -> str | None:
    if name in parked:
        return PARKED
    if number.unrecorded:
        return None if marked.get(name) == number else IN_FLIGHT
    return IN_FLIGHT if number.seq > seen.get(number.epoch, 0) else None

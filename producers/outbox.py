"""The outbox: events written in the service's own transaction, numbered, until a relay sends them.

The rules (RELIABILITY.md, "Outbox"):

- An event exists if and only if the change that it tells of was committed: everything here runs on
  the connection that it is given, in its transaction, and commits nothing.
- Numbers are 1, 2, 3 … for each aggregate, without gaps, given out under the lock of its counter.
  There is no high-water mark, and no order but that of the numbers.
- Write once, just before the commit: `record` with everything that the transaction did. Who reads
  before-images calls `lock` first.
- What cannot be recorded marks its aggregate unrecorded, and is counted into `missed` of this
  process's next event. `shield` and `shield_commit` decide which errors the service gets to see.
- No connection is kept, so an Outbox may be made before a fork; one a database.

    outbox = Outbox(settings, settings.codec())
    outbox.listen(engine)                                      # where the engine is made
    with outbox.shield_commit(connection, ["image:42"]):      # in the engine's `commit` event
        outbox.record(connection, drafts)

`administration` installs and reseeds the tables and reads their status; `relay` drains them.
"""

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine, insert, select

from metaledger.producers import along, at_once, claiming, counters
from metaledger.producers.copying import can_copy, copy
from metaledger.producers.counters import NEW, Counter, Stream
from metaledger.producers.gathering import is_autocommit
from metaledger.producers.guard import Attempt, Guard, attempt, is_lock_timeout
from metaledger.producers.memory import Memory
from metaledger.producers.numbering import (
    MENDING,
    Numbered,
    Numbering,
    is_storable,
    require_storable,
)
from metaledger.producers.room import Room
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.tables import outbox as table
from metaledger.producers.unnested import arrays, unnested
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import OutboxFull
from metaledger.schemas.events import Draft, StreamNumber
from metaledger.schemas.identity import Clock, NewId, system_clock, uuid7
from metaledger.schemas.log import NewRecord

_log = structlog.get_logger("metaledger.producers")


class Outbox:
    """Records events on connections that others own. Thread-safe, fork-safe, without a socket."""

    def __init__(
        self,
        settings: ProducerSettings,
        codec: Codec,
        *,
        clock: Clock = system_clock,
        new_id: NewId = uuid7,
    ) -> None:
        self.settings: Final = settings
        self._clock = clock
        self._numbering = Numbering(codec=codec, clock=clock, new_id=new_id)
        self._memory = Memory()
        self._room = Room(settings.outbox_rows_max, clock)
        self._guard = Guard(strict=settings.strict, make_up=self._make_up)
        # As the last number said; whoever writes by it has the database compare.
        self._stream: Stream | None = None

    @property
    def failures(self) -> int:
        """How many errors were undone in this process so far, swallowed or not."""
        return self._guard.count

    def listen(self, engine: Engine) -> None:
        """To be called where an engine is made whose connections this will be given: nothing can be
        added to its listeners later. Without it savepoints are round trips of their own, and what a
        failing commit undoes of `missed` is not told again.
        """
        self._memory.listen(engine)
        along.listen(engine)

    def missed(self, changes: int) -> None:
        """Has the next event say that so many changes went unrecorded."""
        self._memory.missed(changes)

    def shield(
        self, connection: Connection, aggregates: Sequence[str]
    ) -> AbstractContextManager[Attempt]:
        """Runs the body in a savepoint, in the middle of the service's transaction.

        What goes wrong in it is undone and swallowed (then the aggregates are marked unrecorded),
        or raised: unchanged where it ended the transaction, as Unrecorded where `strict` is set,
        and then the transaction's commit is refused too. Not to be nested. A body that reads what
        was locked does it by `Attempt.run`.
        """
        return self._guard.shield(connection, aggregates)

    @contextmanager
    def shield_commit(self, connection: Connection, aggregates: Sequence[str]) -> Iterator[Attempt]:
        """As `shield`, for the event just before the commit: there, and only there, what is raised
        rolls the DBAPI connection back first, or the pool would hand out an open transaction.
        """
        try:
            with self._guard.shield_commit(connection, aggregates) as body:
                yield body
        except BaseException:
            # To SQLAlchemy this is no rollback.
            self._memory.give_back(connection)
            raise

    def tolerate(
        self, connection: Connection, aggregates: Sequence[str] = ()
    ) -> AbstractContextManager[None]:
        """As `shield`, for a body that runs no SQL."""
        return self._guard.tolerate(connection, aggregates)

    def lock(self, connection: Connection, aggregates: Collection[str]) -> Mapping[str, Counter]:
        """Takes the aggregates' counters, in sorted order, until the transaction ends.

        Before-images are read after this, on MariaDB by locking reads; nobody else adds an event of
        these aggregates meanwhile. A counter that was not there begins with `seq` 0 (`is_new`).
        """
        require_storable(aggregates)
        locked = counters.lock(connection, aggregates)
        return {name: self._remembered(name, counter) for name, counter in locked.items()}

    def locking(
        self, connection: Connection, aggregate: str
    ) -> Callable[[], Mapping[str, Counter]]:
        """As `lock`, of one, before the statement that reads it; after that, what is returned is to
        be called, and says what `lock` says. Where it can be, a round trip is spared by it.
        """
        require_storable([aggregate])
        answer = counters.locking(connection, aggregate)
        return lambda: {it: self._remembered(it, counter) for it, counter in answer().items()}

    def claim(
        self, connection: Connection, aggregates: Collection[str]
    ) -> tuple[Mapping[str, Counter], Mapping[str, StreamNumber]]:
        """As `lock`, for aggregates most of which are new: those have their first number already,
        where the database can, and `record` has to be given these numbers.
        """
        require_storable(aggregates)
        claimed = claiming.claim(connection, aggregates)
        rest = [name for name in aggregates if name not in claimed]
        locked = {**dict.fromkeys(claimed, NEW), **counters.lock(connection, rest)}
        found = {name: self._remembered(name, counter) for name, counter in locked.items()}
        return found, claimed

    def number(self, connection: Connection, drafts: Sequence[Draft]) -> list[NewRecord]:
        """The drafts as records, numbered in the given order within each aggregate.

        The caller puts them all into a log, in the same transaction. A draft with a number of its
        own keeps it. Raises ContractError (an event that is too large however made), UsageError.
        """
        return [numbered.record for numbered in self._numbering.number(connection, drafts)]

    def written(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts with their data written, so that recording them later has less to do and
        cannot fail for what they tell. Opens nothing. Raises ContractError, UsageError.
        """
        return self._numbering.written(drafts)

    def record(
        self,
        connection: Connection,
        drafts: Sequence[Draft],
        *,
        held: Mapping[str, Counter] = MappingProxyType({}),
        claimed: Mapping[str, StreamNumber] = MappingProxyType({}),
    ) -> None:
        """Writes the events into the outbox, in the connection's transaction.

        An aggregate whose events do not all fit below `outbox_rows_max` is marked unrecorded, and
        none of them is written; with `strict` OutboxFull is raised instead. `held` are counters as
        `lock` gave them in this transaction: what they say may spare a round trip. `claimed` are
        numbers as `claim` gave them.
        """
        fitting, unrecorded = self._fit(connection, drafts)
        if not fitting:
            self._numbering.number(connection, (), unrecorded=unrecorded, claimed=claimed)
            return
        mended = {draft.aggregate for draft in fitting if draft.origin in MENDING}
        lent = self._memory.lend(connection, first=mended)
        unrecorded = {*unrecorded, *lent.unmarked}
        if lent.missed:
            first = fitting[0]
            fitting = [replace(first, missed=first.missed + lent.missed), *fitting[1:]]
        # What was lent is told once, and not by what may have to be done once more.
        is_usual = not (unrecorded or claimed or lent.missed)
        if is_usual and self._recorded_at_once(connection, fitting, held):
            return
        numbered = self._numbering.number(
            connection, fitting, unrecorded=unrecorded, claimed=claimed
        )
        _insert(connection, numbered)
        if fitting[-1].number is None:
            last = numbered[-1].record.number
            self._stream = Stream(stream_id=last.stream_id, epoch=last.epoch)

    def _recorded_at_once(
        self, connection: Connection, drafts: Sequence[Draft], held: Mapping[str, Counter]
    ) -> bool:
        """Whether it was one event whose number is known, and that was written with it."""
        draft, stream = drafts[0], self._stream
        counter = held.get(draft.aggregate)
        if len(drafts) > 1 or draft.number is not None or stream is None:
            return False
        if counter is None or counter.unrecorded or counter.epoch > stream.epoch:
            return False
        numbered = self._numbering.numbered(draft, at_once.next_number(counter, stream))
        return at_once.write(connection, counter, _row(numbered))

    def record_beyond_limit(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """As `record`, without the limit: for the few events that tell how a source is."""
        _insert(connection, self._numbering.number(connection, drafts))

    def mark_unrecorded(self, connection: Connection, aggregates: Collection[str]) -> None:
        """Notes in their counters that these aggregates lack a change from now on."""
        self._numbering.number(connection, (), unrecorded=aggregates)

    def _fit(
        self, connection: Connection, drafts: Sequence[Draft]
    ) -> tuple[Sequence[Draft], Collection[str]]:
        """The drafts for which there is room, and the aggregates of the others."""
        room = self._room.take(connection, len(drafts))
        if room == len(drafts):
            return drafts, ()
        if self.settings.strict:
            raise OutboxFull(
                f"the outbox holds outbox_rows_max = {self.settings.outbox_rows_max} events: see "
                "why no relay drains it"
            )
        excess: set[str] = set()
        for aggregate, count in sorted(Tally(draft.aggregate for draft in drafts).items()):
            if count <= room:
                room -= count
            else:
                excess.add(aggregate)
        fitting = [draft for draft in drafts if draft.aggregate not in excess]
        missed = len(drafts) - len(fitting)
        self._memory.missed(missed)
        _log.error("outbox full", changes=missed, rows_max=self.settings.outbox_rows_max)
        return fitting, excess

    def _remembered(self, name: str, counter: Counter) -> Counter:
        if counter.unrecorded or (since := self._memory.since(name)) is None:
            return counter
        return replace(counter, unrecorded_since=since)

    def _make_up(self, connection: Connection, aggregates: Sequence[str], error: Exception) -> None:
        """After an error was undone: marks the aggregates in the database, else in memory."""
        self._memory.give_back(connection)
        self._memory.missed(max(1, len(aggregates)))
        # What cannot be marked now never can: remembered, it would fail every event after it.
        aggregates = [name for name in aggregates if is_storable(name)]
        # A mark would wait for the same lock, as long again (50 s is MariaDB's default).
        if is_autocommit(connection) or is_lock_timeout(connection, error):
            self._memory.remember(aggregates, self._clock())
            return
        if not aggregates:
            return
        with attempt(connection) as marking:
            self.mark_unrecorded(connection, aggregates)
            marking.release()
        if marking.error is not None:
            self._memory.remember(aggregates, self._clock())


def _insert(connection: Connection, numbered: Sequence[Numbered]) -> None:
    if len(numbered) > 1 and can_copy(connection):
        copy(connection, numbered)
        return
    rows = [_row(it) for it in numbered]
    if len(rows) > 1 and connection.dialect.name == "postgresql":
        connection.execute(_INSERT_UNNESTED, arrays(rows))
    elif rows:
        # A list takes SQLAlchemy longer, even of one.
        connection.execute(_INSERT, rows[0] if len(rows) == 1 else rows)


def _row(numbered: Numbered) -> dict[str, Any]:
    record = numbered.record
    return {
        "aggregate": record.key,
        "stream_id": record.number.stream_id,
        "epoch": record.number.epoch,
        "stream_seq": record.number.stream_seq,
        "event_id": record.event_id,
        "occurred_at": numbered.occurred_at,
        "sha256": record.sha256,
        "value": record.value,
    }


_WRITTEN = [column for column in table.c if column is not table.c.id]
_INSERT = insert(table).inline()
_INSERT_UNNESTED = insert(table).inline().from_select(_WRITTEN, select(unnested(*_WRITTEN)))

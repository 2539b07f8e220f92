"""The read model's store: the one place where SQL writes it (but for what is `derived`).

A batch is loaded (`memories`, `waiting`, `known`: a statement each), folded elsewhere, brought into
the form that the database takes (`prepare`) and committed in one transaction: `move` takes the
checkpoints by compare-and-set, and so fences whoever else wrote to the partition since they were
read; `put` writes the rows, a table at a time. All or nothing is committed. After an error of the
commit itself the outcome is unknown: nothing here remembers anything, so the caller reads the
checkpoint again.

It knows no aggregate and decides nothing about events. A database is added by its `Bulk`, and by
passing `tests/store`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    delete,
    insert,
    or_,
    select,
    update,
)

from metaledger.projector.bulk import Bulk, Form
from metaledger.projector.bulk_postgres import PostgresBulk
from metaledger.projector.bulk_sqlite import SqliteBulk
from metaledger.projector.database import translated, writing
from metaledger.projector.derived import Derivation
from metaledger.projector.folds import Projection
from metaledger.projector.intake import Known
from metaledger.projector.memory import Memory
from metaledger.projector.projections import PROJECTIONS
from metaledger.projector.readmodel import check
from metaledger.projector.rows import Change, Key, Values
from metaledger.projector.stored import States, state_values, stored_record
from metaledger.schemas.errors import Fenced, LogRefused, UsageError
from metaledger.schemas.ledger import record_aggregate
from metaledger.schemas.log import LogRecord, Position
from metaledger.schemas.tables import SHARED_TABLES, TABLES
from metaledger.schemas.tables.ledger import (
    aggregate_states,
    checkpoints,
    ledger_events,
    marks,
    parked_events,
    quarantine,
    quarantined_bytes,
    quarantined_records,
    read_model,
)

_TABLES = {table.name: table for table in (*SHARED_TABLES, *TABLES)}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a partition's projection is, and how often a release wrote to its aggregates."""

    next_offset: int
    releases: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A checkpoint's way: from where the projector believes it is, to behind the batch. `releases`
    are those that it knows of.
    """

    old: int
    new: int
    last_recorded_at: datetime
    releases: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a batch changes: nothing is left to be done but to send it."""

    moves: Mapping[int, Move]
    removed: Mapping[str, Sequence[Key]]
    copied: Mapping[str, Form]
    merged: Mapping[str, Form]


class Store:
    """The read model of one database. Raises VersionMismatch when it is opened."""

    def __init__(
        self, engine: Engine, projections: Sequence[Projection[Any]] = PROJECTIONS
    ) -> None:
        found = check(engine)
        self._engine = writing(engine, found.generation)
        self._bulk: Bulk = SqliteBulk() if engine.dialect.name == "sqlite" else PostgresBulk()
        self._states = States(projections)
        self.projections = {projection.aggregate_kind: projection for projection in projections}

    @contextmanager
    def transaction(self) -> Iterator["Transaction"]:
        """Everything in it is committed at its end, or nothing is.

        Raises Unreachable, and Unstorable where the database refuses a value.
        """
        with translated(self._engine), self._engine.begin() as connection:
            yield Transaction(connection, self._bulk, self._states)

    def bind(self, topic_id: str, partitions: int) -> None:
        """This read model is built from that log and no other. Raises LogRefused."""
        with self.transaction() as transaction:
            transaction.bind(topic_id, partitions)

    @contextmanager
    def reading(self) -> Iterator["Transaction"]:
        """What is read in it may be overtaken: `move` finds out."""
        reading = self._engine.execution_options(metaledger_writes=False)
        with translated(self._engine), reading.connect() as connection:
            yield Transaction(connection, self._bulk, self._states)

    @contextmanager
    def deriving(self) -> Iterator[Derivation]:
        """What is derived behind the folds, as `transaction`."""
        with translated(self._engine), self._engine.begin() as connection:
            yield Derivation(connection, self._bulk)

    def carry_over(self) -> None:
        """What SQLite owes its file, the pages of its journal, done beside a transaction that
        writes; for who waits for that. Without it a commit does it now and then, and takes longer.
        """
        if self._engine.dialect.name != "sqlite":
            return
        with translated(self._engine), closing(self._engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def checkpoints(self, partitions: Collection[int]) -> Mapping[int, Checkpoint]:
        """The checkpoints of those partitions, as they are now."""
        with self.reading() as transaction:
            found = transaction.checkpoints()
        return {partition: found[partition] for partition in partitions}

    def positions(self, partitions: Collection[int]) -> Mapping[int, int]:
        """The next offset of each partition, as it is now."""
        found = self.checkpoints(partitions)
        return {partition: checkpoint.next_offset for partition, checkpoint in found.items()}

    def prepare(
        self,
        moves: Mapping[int, Move],
        changes: Mapping[str, Change],
        memories: Collection[Memory],
    ) -> Prepared:
        """A batch's rows, and what is remembered of the aggregates that changed.

        Raises Unstorable.
        """
        changed = [memory for memory in memories if memory.is_changed]
        own = Change(
            copied=[state_values(memory) for memory in changed if not memory.is_stored],
            merged=[state_values(memory) for memory in changed if memory.is_stored],
        )
        every = {**changes, aggregate_states.name: own}
        with translated(self._engine):
            return Prepared(
                moves=moves,
                removed={name: change.removed for name, change in every.items() if change.removed},
                copied=self._forms({name: change.copied for name, change in every.items()}),
                merged=self._forms({name: change.merged for name, change in every.items()}),
            )

    def _forms(self, rows: Mapping[str, Sequence[Values]]) -> Mapping[str, Form]:
        return {
            name: self._bulk.form(_TABLES[name], those) for name, those in rows.items() if those
        }

    def commit(self, prepared: Prepared) -> None:
        """One transaction; raises Fenced, and what `transaction` raises."""
        with self.transaction() as transaction:
            transaction.move(prepared.moves)
            transaction.put(prepared)


class Transaction:
    """The statements of a transaction; see `Store.transaction`."""

    def __init__(self, connection: Connection, bulk: Bulk, states: States) -> None:
        self._connection = connection
        self._bulk = bulk
        self._states = states

    def bind(self, topic_id: str, partitions: int) -> None:
        """See `Store.bind`; the first log that comes is the one."""
        row = self._connection.execute(select(read_model).with_for_update()).one()
        if row.topic_id is None:
            values = {"topic_id": topic_id, "partitions": partitions}
            self._connection.execute(update(read_model).values(values))
            starts = [{"log_partition": n, "next_offset": 0} for n in range(partitions)]
            self._connection.execute(insert(checkpoints), starts)
            return
        if row.topic_id != topic_id:
            raise LogRefused(
                f"the read model was built from log {row.topic_id}, and this is {topic_id}: the "
                "topic was made anew, or it is another one"
            )
        if row.partitions != partitions:
            raise LogRefused(
                f"the log has {partitions} partitions, and had {row.partitions} when the read "
                "model was built: order within an aggregate is lost"
            )

    def move(self, moves: Mapping[int, Move]) -> None:
        """Moves the checkpoints; in the order of the partitions, so that two never wait for each
        other. Raises Fenced where one is not where it was believed to be.
        """
        for partition, move in sorted(moves.items()):
            moved = self._connection.execute(
                update(checkpoints)
                .where(
                    checkpoints.c.log_partition == partition,
                    checkpoints.c.next_offset == move.old,
                    checkpoints.c.releases == move.releases,
                )
                .values(next_offset=move.new, last_recorded_at=move.last_recorded_at)
            )
            if moved.rowcount != 1:
                raise Fenced(
                    f"the checkpoint of partition {partition} is no longer {move.old}: another "
                    "projector has moved it, or a release from quarantine has written behind it"
                )

    def checkpoints(self) -> Mapping[int, Checkpoint]:
        """All of them, by partition."""
        rows = self._connection.execute(select(checkpoints)).all()
        return {row.log_partition: Checkpoint(row.next_offset, row.releases) for row in rows}

    def hold(self, partition: int) -> None:
        """No projector commits to the partition before this transaction has ended, nor after it
        what it folded upon what was there before.
        """
        self._connection.execute(
            update(checkpoints)
            .where(checkpoints.c.log_partition == partition)
            .values(releases=checkpoints.c.releases + 1)
        )

    def memories(self, names: Collection[str]) -> dict[str, Memory]:
        """What is remembered of those aggregates, with their rows in quarantine."""
        if not names:
            return {}
        those = self._bulk.among(aggregate_states.c.aggregate, list(names))
        rows = self._connection.execute(select(aggregate_states).where(those)).mappings()
        memories = {row["aggregate"]: self._states.memory(row) for row in rows}
        troubled = [memory.name for memory in memories.values() if memory.quarantined]
        if troubled:
            statement = select(quarantine).where(self._of(quarantine, troubled))
            for row in self._connection.execute(statement).mappings():
                memory = memories[f"{row['aggregate_kind']}:{row['aggregate_id']}"]
                memory.quarantine[row["log_offset"]] = dict(row)
        return memories

    def waiting(self, names: Sequence[str]) -> list[LogRecord]:
        """The records that wait for those aggregates, in the log's order; poison is not there."""
        statement = (
            select(parked_events)
            .where(self._of(parked_events, names))
            .order_by(parked_events.c.log_partition, parked_events.c.log_offset)
        )
        return [stored_record(row) for row in self._connection.execute(statement).mappings()]

    def quarantined(self, name: str) -> list[LogRecord]:
        """The records of an aggregate that stand in quarantine, in the log's order."""
        same = and_(
            quarantine.c.log_partition == quarantined_bytes.c.log_partition,
            quarantine.c.log_offset == quarantined_bytes.c.log_offset,
        )
        statement = (
            select(quarantine, quarantined_bytes.c.value, quarantined_bytes.c.sha256)
            .join(quarantined_bytes, same)
            .where(self._of(quarantine, [name]))
            .order_by(quarantine.c.log_offset)
        )
        return [stored_record(row) for row in self._connection.execute(statement).mappings()]

    def quarantined_at(self, position: Position) -> str:
        """The aggregate on which a decision about an open record in quarantine stands. Raises
        UsageError where there is no such record.
        """
        records = quarantined_records.select.subquery()
        row = self._connection.execute(
            select(records).where(
                records.c.log_partition == position.partition,
                records.c.log_offset == position.offset,
            )
        ).one_or_none()
        place = f"{position.partition}:{position.offset}"
        if row is None:
            raise UsageError(f"no record at {place} stands in quarantine")
        if row.skipped_by_event is not None:
            raise UsageError(f"the record at {place} was skipped by event {row.skipped_by_event}")
        if row.aggregate_kind is None:
            return record_aggregate(self.topic_id(), position.partition, position.offset)
        return f"{row.aggregate_kind}:{row.aggregate_id}"

    def is_marked(self) -> bool:
        """Whether anything is to be derived or judged, now or later."""
        return self._connection.execute(select(marks).limit(1)).first() is not None

    def topic_id(self) -> str:
        """The identity of the log that this read model is built from; empty: none yet."""
        return self._connection.execute(select(read_model.c.topic_id)).scalar_one() or ""

    def known(self, event_ids: Collection[str]) -> dict[str, Known]:
        """The events that were admitted under those ids."""
        columns = ledger_events.c
        statement = select(
            columns.event_id, columns.event_type, columns.occurred_at, columns.data
        ).where(self._bulk.among(columns.event_id, list(event_ids)))
        return {
            row.event_id: Known(
                event_type=row.event_type,
                occurred_at=row.occurred_at,
                data=msgspec.json.encode(row.data),
            )
            for row in self._connection.execute(statement)
        }

    def put(self, prepared: Prepared) -> None:
        """Puts down a batch's rows."""
        for name, keys in prepared.removed.items():
            self._remove(name, keys)
        for name, form in prepared.copied.items():
            self._bulk.copy(self._connection, _TABLES[name], form)
        for name, form in prepared.merged.items():
            self._bulk.merge(self._connection, _TABLES[name], form)

    def _remove(self, name: str, keys: Sequence[Key]) -> None:
        """Of tables that are keyed by log coordinates."""
        columns = _TABLES[name].c
        offsets: dict[int, list[int]] = {}
        for partition, offset in keys:
            offsets.setdefault(partition, []).append(offset)
        for partition, those in offsets.items():
            self._connection.execute(
                delete(_TABLES[name]).where(
                    columns.log_partition == partition,
                    self._bulk.among(columns.log_offset, those),
                )
            )

    def _of(self, table: Table, names: Collection[str]) -> ColumnElement[bool]:
        """The rows of those aggregates, found by the table's index."""
        ids: dict[str, list[str]] = {}
        for name in names:
            kind, _, aggregate_id = name.partition(":")
            ids.setdefault(kind, []).append(aggregate_id)
        columns = table.c
        return or_(
            *(
                and_(columns.aggregate_kind == kind, self._bulk.among(columns.aggregate_id, those))
                for kind, those in ids.items()
            )
        )

"""What a batch needs of the store before it can be folded, in few statements.

Most batches take two: the memories of their aggregates, as far as they are not remembered, and
which of their event ids are known. What waits is loaded only for an aggregate that a record of the
batch may free.
"""

from collections.abc import Mapping, Sequence

from metaledger.projector.batch import Batch
from metaledger.projector.intake import (
    Known,
    Problem,
    Read,
    Reason,
    Rules,
    is_decision,
    read,
)
from metaledger.projector.memory import Memory, Projections, Row
from metaledger.projector.recall import Recall
from metaledger.projector.store import Transaction
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import LogRecord, Position


def load(
    transaction: Transaction,
    items: Sequence[Read],
    recall: Recall,
    *,
    codec: Codec,
    rules: Rules,
    projections: Projections,
) -> Batch:
    """A batch that is ready to take those records."""
    names = {item.key for item in items if item.key is not None}
    memories = recall.of(names)
    memories |= transaction.memories(names - memories.keys())
    freed = _may_be_freed(memories, items)
    if freed:
        waiting = [read(codec, record) for record in transaction.waiting(list(freed))]
        for name, memory in freed.items():
            poison = [_unread(row) for row in memory.quarantine.values() if row["parks"]]
            memory.waiting = _by_offset([item for item in waiting if item.key == name] + poison)
    known = _known(transaction, [*items, *_all_waiting(freed)])
    return Batch(rules, projections, memories, {**recall.admitted, **known})


def load_for_release(
    transaction: Transaction,
    name: str,
    *,
    codec: Codec,
    rules: Rules,
    projections: Projections,
) -> Batch:
    """A batch of one aggregate with all that waits, in which poison was read once more."""
    memories = transaction.memories([name])
    memory = memories[name]
    waiting = [read(codec, record) for record in transaction.waiting([name])]
    poison = [
        read(codec, record)
        for record in transaction.quarantined(name)
        if _is_to_be_read(memory.quarantine[record.position.offset])
    ]
    skipped = [
        _unread(row)
        for row in memory.quarantine.values()
        if row["parks"] and row["skipped_by_event"] is not None
    ]
    memory.waiting = _by_offset(waiting + poison + skipped)
    known = _known(transaction, list(memory.waiting.values()))
    return Batch(rules, projections, memories, known)


def _is_to_be_read(row: Row) -> bool:
    return bool(row["parks"]) and row["skipped_by_event"] is None


def _known(transaction: Transaction, items: Sequence[Read]) -> Mapping[str, Known]:
    ids = {item.event.meta.event_id for item in items if item.event is not None}
    return transaction.known(ids) if ids else {}


def _may_be_freed(memories: dict[str, Memory], items: Sequence[Read]) -> dict[str, Memory]:
    """The parked aggregates for which an operator decided, or the missing number came."""
    if not any(memory.parked for memory in memories.values()):
        return {}
    freed = {}
    for item in items:
        memory = memories.get(item.key or "")
        if memory is None or memory.parked is None:
            continue
        awaited = memory.parked.awaited
        if is_decision(item.event) or (awaited is not None and item.number == awaited):
            freed[memory.name] = memory
    return freed


def _all_waiting(memories: dict[str, Memory]) -> list[Read]:
    return [item for memory in memories.values() for item in (memory.waiting or {}).values()]


def _by_offset(items: Sequence[Read]) -> dict[int, Read]:
    ordered = sorted(items, key=lambda item: item.record.position)
    return {item.record.position.offset: item for item in ordered}


def _unread(row: Row) -> Read:
    """A quarantined record by its row alone: it is not going to be read."""
    number = None
    if row["stream_seq"] is not None:
        number = StreamNumber(
            stream_id=row["stream_id"], epoch=row["epoch"], stream_seq=row["stream_seq"]
        )
    key = f"{row['aggregate_kind']}:{row['aggregate_id']}"
    record = LogRecord(
        position=Position(row["log_partition"], row["log_offset"]),
        recorded_at=row["recorded_at"],
        key=key,
        value=b"",
        sha256=b"",
        event_id=row["event_id"],
        number=number,
    )
    problem = Problem(reason=Reason(row["reason"]), error=row["error"])
    return Read(record=record, key=key, event_id=row["event_id"], number=number, problem=problem)

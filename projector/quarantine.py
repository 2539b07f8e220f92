"""What an operator does about records that wait.

`release` is the projector's own work, done again: what this build can read now has its turn, in the
log's order. Skipping a record and accepting a gap are decisions: they are given as drafts of
events, for the caller to write into the log, and act when the projector meets them there. A replay
then comes to the same end.
"""

from dataclasses import dataclass

from metaledger.projector.intake import Rules
from metaledger.projector.loading import load_for_release
from metaledger.projector.memory import Cause, Memory
from metaledger.projector.store import Store, Transaction
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import UsageError
from metaledger.schemas.events import Draft, StreamNumber
from metaledger.schemas.ledger import GapAccepted, RecordSkipped
from metaledger.schemas.log import Position
from metaledger.schemas.meta import Context

# The locks of a transaction hold up the projector of the partition: 1,000 records take well below
# a second.
RELEASE_RECORDS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Released:
    """How many records had their turn, and whether nothing of the aggregate waits any more."""

    turns: int
    is_free: bool


def release(
    store: Store,
    codec: Codec,
    rules: Rules,
    aggregate: str,
    *,
    records_max: int = RELEASE_RECORDS_MAX,
) -> Released:
    """Lets what waits for an aggregate have its turn, in transactions of so many records.

    Broken off, it goes on where it was when it is called again. Raises UsageError where the
    aggregate is not parked, and what the projector raises.
    """
    turns = 0
    while True:
        with store.transaction() as transaction:
            partition = _parked(transaction, aggregate).partition
            transaction.hold(partition)
            batch = load_for_release(
                transaction,
                aggregate,
                codec=codec,
                rules=rules,
                projections=store.projections,
            )
            memory = batch.memories[aggregate]
            turns += batch.release(memory, records_max=records_max)
            transaction.put(store.prepare({}, batch.rows.changes(), batch.memories.values()))
        if memory.parked is None or memory.parked.cause is not Cause.RELEASE:
            return Released(turns, memory.parked is None)


def skip(store: Store, position: Position, *, reason: str, context: Context) -> Draft:
    """The decision that a quarantined record is never to be folded. Raises UsageError."""
    with store.transaction() as transaction:
        aggregate = transaction.quarantined_at(position)
        topic_id = transaction.topic_id()
    data = RecordSkipped(
        topic_id=topic_id,
        log_partition=position.partition,
        log_offset=position.offset,
        reason=reason,
    )
    return Draft(data=data, aggregate=aggregate, context=context)


def accept_gap(store: Store, aggregate: str, *, reason: str, context: Context) -> Draft:
    """The decision that the numbers an aggregate waits for will never come. Raises UsageError."""
    with store.transaction() as transaction:
        memory = _parked(transaction, aggregate)
        awaited = memory.parked.awaited if memory.parked else None
        if awaited is None:
            raise UsageError(f"{aggregate} waits for no number, but behind a quarantined record")
        waiting = [record.number for record in transaction.waiting([aggregate])]
        poison = [record.number for record in transaction.quarantined(aggregate)]
    if awaited in poison:
        raise UsageError(
            f"number {awaited.stream_seq} of {aggregate} stands in quarantine: release or skip it"
        )
    data = GapAccepted(
        gap_stream_id=awaited.stream_id,
        gap_epoch=awaited.epoch,
        from_seq=awaited.stream_seq,
        to_seq=_last_missing(awaited, [*waiting, *poison]),
        reason=reason,
    )
    return Draft(data=data, aggregate=aggregate, context=context)


def _parked(transaction: Transaction, aggregate: str) -> Memory:
    memory = transaction.memories([aggregate]).get(aggregate)
    if memory is None or memory.parked is None:
        raise UsageError(f"{aggregate} is not parked")
    return memory


def _last_missing(awaited: StreamNumber, there: list[StreamNumber | None]) -> int:
    later = [
        number.stream_seq
        for number in there
        if number is not None
        and (number.stream_id, number.epoch) == (awaited.stream_id, awaited.epoch)
        and number.stream_seq > awaited.stream_seq
    ]
    return min(later, default=awaited.stream_seq + 1) - 1

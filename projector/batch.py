"""A batch of records, folded in memory: what each does to its aggregate. Pure.

Records are taken one by one in the log's order, so that where a batch begins and ends changes
nothing. Per aggregate (RELIABILITY.md, "Projector"):

- A record that cannot be decoded or folded, or that comes before its turn, parks the aggregate;
  what comes later waits behind it in the log's order.
- The number that is missing frees what waits behind the gap. Poison waits for an operator.
- A conflict or another deployment's event goes to quarantine alone, and parks nothing.
- An operator's decision acts when it arrives, although the aggregate is parked; its event waits for
  its turn like all others.
- The same bytes as those of a quarantined record are a repeat of it.
- A record without a key goes to quarantine alone, and what is decided about it is admitted and does
  nothing here: it stands in another partition (`quarantined_records` finds it).
"""

from collections.abc import Mapping

from metaledger.projector.folds import Fact, Put
from metaledger.projector.folds.step import anomaly
from metaledger.projector.intake import (
    Known,
    Read,
    Reason,
    Rules,
    Verdict,
    is_decision,
    is_foreign,
    is_skewed,
    judge,
    poisoned,
    valid_time,
)
from metaledger.projector.memory import Cause, Memory, Parked, Projections
from metaledger.projector.rows import Rows, quarantine_row
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.events import Event, StreamNumber
from metaledger.schemas.ledger import GapAccepted, RecordSkipped
from metaledger.schemas.log import Position
from metaledger.schemas.times import time_text


class Batch:
    """Takes a batch's records. `poison` counts those that had to be put aside, `waiting` those that
    wait behind others at its end, of which nobody knows yet what they are.

    `memories` has every aggregate that is stored; others are new. `known` has the events that the
    batch's ids, and those of the records that wait, were admitted for before. `admitted` has those
    that the batch admits.
    """

    def __init__(
        self,
        rules: Rules,
        projections: Projections,
        memories: dict[str, Memory],
        known: Mapping[str, Known],
    ) -> None:
        self.memories = memories
        self.rows = Rows()
        self.poison = 0
        self.admitted: dict[str, Known] = {}
        self._rules = rules
        self._projections = projections
        self._known = known
        self._waiting = set[Position]()

    @property
    def waiting(self) -> int:
        """See the class."""
        return len(self._waiting)

    def take(self, item: Read) -> None:
        """A record arrives."""
        if item.key is None:
            self._quarantine(None, item, parks=False)
            return
        memory = self.memories.get(item.key)
        if memory is None:
            memory = Memory(name=item.key, partition=item.record.position.partition)
            self.memories[item.key] = memory
        if memory.quarantine and _is_quarantined(memory, item):
            return
        event = item.event
        if event is not None and is_foreign(event, self._rules):
            error = f"the event is of deployment {event.meta.deployment_id}"
            self._quarantine(memory, poisoned(item, Reason.FOREIGN_DEPLOYMENT, error), parks=False)
            return
        self._arrive(memory, item)

    def release(self, memory: Memory, *, records_max: int) -> int:
        """Lets what waits have its turn, at most so many records; gives how many had it.

        `memory.waiting` has the records that stood in quarantine, read again.
        """
        for offset, item in list((memory.waiting or {}).items()):
            if item.problem is None and offset in memory.quarantine:
                self._leave_quarantine(memory, offset)
                self.rows.park(item)
        return self._drain(memory, records_max=records_max)

    def _arrive(self, memory: Memory, item: Read) -> None:
        decides = item.event is not None and is_decision(item.event)
        if decides:
            self._decide(memory, item)
        if memory.parked is None:
            blocked = self._settle(memory, item)
            if blocked is not None:
                self._park(memory, item, blocked)
        else:
            self._wait(memory, item)
        parked = memory.parked
        if parked is not None and (decides or (parked.awaited and item.number == parked.awaited)):
            self._drain(memory)

    def _decide(self, memory: Memory, item: Read) -> None:
        """What an operator decided takes effect; a second time it changes nothing."""
        if item.event is None:
            return
        match item.event.data:
            case GapAccepted() as gap:
                stream = (gap.gap_stream_id, gap.gap_epoch)
                if gap.from_seq <= memory.numbers.get(stream, 1) <= gap.to_seq:
                    memory.numbers[stream] = gap.to_seq + 1
                    memory.is_changed = True
            case RecordSkipped() as skip if skip.topic_id == self._rules.topic_id:
                row = memory.quarantine.get(skip.log_offset)
                if skip.log_partition != memory.partition or row is None:
                    return
                if row["skipped_by_event"] is None:
                    row = {**row, "skipped_by_event": item.event_id}
                    self._keep_row(memory, skip.log_offset, row, is_new=False)
            case _:
                pass

    def _park(self, memory: Memory, item: Read, parked: Parked) -> None:
        """The record is the first that waits."""
        memory.parked = parked
        memory.is_changed = True
        memory.waiting = {item.record.position.offset: item}
        offset = item.record.position.offset
        if offset not in memory.quarantine:
            self.rows.park(item)
        else:
            memory.waiting[offset] = _poison_of(memory, item)

    def _wait(self, memory: Memory, item: Read) -> None:
        """The record waits behind others."""
        if item.problem is None:
            self._waiting.add(item.record.position)
            self.rows.park(item)
        else:
            self._quarantine(memory, item, parks=True)
        if memory.waiting is not None:
            memory.waiting[item.record.position.offset] = item

    def _drain(self, memory: Memory, *, records_max: int | None = None) -> int:
        """Gives what waits its turn, until something has to go on waiting."""
        if memory.waiting is None:
            raise RuntimeError(f"what waits of {memory.name} was not loaded")
        memory.is_changed = True
        turns = 0
        while memory.waiting:
            head = next(iter(memory.waiting.values()))
            position = head.record.position
            if turns == records_max:
                memory.parked = Parked(
                    cause=Cause.RELEASE, since=head.record.recorded_at, offset=position.offset
                )
                return turns
            turns += 1
            blocked = self._turn(memory, head)
            if blocked is None:
                continue
            memory.parked = blocked
            filler = _filler(memory, blocked)
            if filler is None or self._turn(memory, filler) is not None:
                return turns
        memory.parked = None
        return turns

    def _turn(self, memory: Memory, item: Read) -> Parked | None:
        blocked = self._settle(memory, item)
        if blocked is None or blocked.cause is Cause.POISON:
            self._waiting.discard(item.record.position)
        if blocked is None and memory.waiting is not None:
            del memory.waiting[item.record.position.offset]
            if item.problem is None:
                self.rows.unpark(item.record.position)
        return blocked

    def _settle(self, memory: Memory, item: Read) -> Parked | None:
        """The record's turn: nothing is left to do for it, or the aggregate waits at it."""
        event, number = item.event, item.number
        if event is None or number is None:
            return self._settle_poison(memory, item)
        next_seq = memory.next_seq(number)
        event_id = event.meta.event_id
        known = self.admitted.get(event_id) or self._known.get(event_id)
        verdict = judge(event, item.data, next_seq=next_seq, known=known)
        match verdict:
            case Verdict.WAIT:
                return self._gap(memory, item, event, next_seq)
            case Verdict.APPLY:
                try:
                    self._apply(memory, item, event)
                except Unfoldable as error:
                    return self._found_poison(memory, poisoned(item, Reason.UNFOLDABLE, str(error)))
            case Verdict.EVENT_ID_CONFLICT | Verdict.SEQUENCE_CONFLICT:
                self._conflict(memory, item, event, verdict)
            case Verdict.REPEAT:
                pass
        if number.stream_seq == next_seq:
            memory.count(number)
        return None

    def _found_poison(self, memory: Memory, item: Read) -> Parked | None:
        """A record that looked well until it was to be folded."""
        offset = item.record.position.offset
        if memory.waiting is not None and offset in memory.waiting:
            memory.waiting[offset] = item
            self.rows.unpark(item.record.position)
        return self._settle_poison(memory, item)

    def _settle_poison(self, memory: Memory, item: Read) -> Parked | None:
        """Poison waits for its operator; once skipped, it counts as an event that tells nothing."""
        position = item.record.position
        if position.offset not in memory.quarantine:
            self._quarantine(memory, item, parks=True)
        row = memory.quarantine[position.offset]
        since = item.record.recorded_at
        if row["skipped_by_event"] is None:
            return Parked(cause=Cause.POISON, since=since, offset=position.offset)
        number = item.number
        if number is not None and not _has_twin(memory, item):
            next_seq = memory.next_seq(number)
            if number.stream_seq > next_seq:
                awaited = _with_seq(number, next_seq)
                return Parked(cause=Cause.GAP, since=since, offset=position.offset, awaited=awaited)
            if number.stream_seq == next_seq:
                memory.count(number)
        self._keep_row(memory, position.offset, {**row, "parks": False}, is_new=False)
        return None

    def _gap(self, memory: Memory, item: Read, event: Event, next_seq: int) -> Parked:
        """The aggregate waits for the number that is due; told once for each record."""
        position = item.record.position
        meta = event.meta
        parked = Parked(
            cause=Cause.GAP,
            since=item.record.recorded_at,
            offset=position.offset,
            awaited=StreamNumber(stream_id=meta.stream_id, epoch=meta.epoch, stream_seq=next_seq),
        )
        told = memory.parked
        if told is None or told.cause is not Cause.GAP or told.offset != position.offset:
            details = {
                "stream_id": meta.stream_id,
                "epoch": meta.epoch,
                "expected_seq": next_seq,
                "got_seq": meta.stream_seq,
            }
            self._raise(anomaly(self._fact(memory, item, event), "aggregate_gap", "error", details))
        return parked

    def _conflict(self, memory: Memory, item: Read, event: Event, verdict: Verdict) -> None:
        """An incident of identity: the record is kept in quarantine, and stops nothing."""
        position = item.record.position
        meta = event.meta
        details = {
            "stream_id": meta.stream_id,
            "epoch": meta.epoch,
            "stream_seq": meta.stream_seq,
            "log_partition": position.partition,
            "log_offset": position.offset,
        }
        subject = f"{position.partition}:{position.offset}"
        fact = self._fact(memory, item, event)
        self._raise(anomaly(fact, verdict.value, "error", details, subject=subject))
        if verdict is Verdict.EVENT_ID_CONFLICT:
            error = f"event {meta.event_id} is known with another content"
        else:
            error = f"number {meta.stream_seq} of its stream was another event's"
        self._quarantine(memory, poisoned(item, Reason(verdict.value), error), parks=False)

    def _apply(self, memory: Memory, item: Read, event: Event) -> None:
        """Folds the event; raises Unfoldable before anything has changed."""
        fact = self._fact(memory, item, event)
        if not is_decision(event):
            self._fold(memory, fact)
        self.rows.event(item, fact)
        meta = event.meta
        self.admitted[meta.event_id] = Known(
            event_type=event.type, occurred_at=meta.occurred_at, data=item.data
        )
        memory.last_valid_at = fact.at
        if is_skewed(event, fact.recorded_at, self._rules):
            details = {
                "occurred_at": time_text(meta.occurred_at),
                "recorded_at": time_text(fact.recorded_at),
            }
            self._raise(anomaly(fact, "clock_skew", "warning", details))
        if meta.missed > 0:
            self._raise(anomaly(fact, "changes_missed", "error", {"missed": meta.missed}))

    def _fold(self, memory: Memory, fact: Fact) -> None:
        kind = memory.name.partition(":")[0]
        projection = self._projections.get(kind)
        if projection is None:
            raise Unfoldable(f"no projection of this build is about {kind}")
        if fact.event.data.aggregate is None and kind != "stream":
            raise Unfoldable(f"{fact.event.type} is no event of {kind}")
        try:
            step = projection.fold(memory.state, fact)
        except Unfoldable:
            raise
        # A fold that fails on one event must not stop all others; the limit on poison stops a fold
        # that fails on many.
        except Exception as error:
            name = type(error).__name__
            raise Unfoldable(f"the fold of {fact.event.type} failed: {name}: {error}") from error
        memory.state = step.state
        for put in step.changes:
            self.rows.put(put.table, put.row, is_new=put.is_new)

    def _fact(self, memory: Memory, item: Read, event: Event) -> Fact:
        record = item.record
        at = valid_time(event, record.recorded_at, memory.last_valid_at, self._rules)
        return Fact(event, record.position, record.recorded_at, at)

    def _raise(self, put: Put) -> None:
        self.rows.put(put.table, put.row, is_new=put.is_new)

    def _quarantine(self, memory: Memory | None, item: Read, *, parks: bool) -> None:
        position = item.record.position
        row = quarantine_row(item, parks=parks)
        self.rows.keep_bytes(item.record)
        if memory is None:
            self.rows.put("quarantine", row, is_new=True)
        else:
            memory.quarantined += 1
            self._keep_row(memory, position.offset, row, is_new=True)
        if row["reason"] not in _CONFLICTS:
            self.poison += 1

    def _keep_row(
        self, memory: Memory, offset: int, row: Mapping[str, object], *, is_new: bool
    ) -> None:
        memory.quarantine[offset] = dict(row)
        memory.is_changed = True
        self.rows.put("quarantine", memory.quarantine[offset], is_new=is_new)

    def _leave_quarantine(self, memory: Memory, offset: int) -> None:
        key = (memory.partition, offset)
        del memory.quarantine[offset]
        memory.quarantined -= 1
        memory.is_changed = True
        self.rows.remove("quarantine", key)
        self.rows.remove("quarantined_bytes", key)


# What a service did wrong; all other reasons may as well be a wrong deployment of the ledger.
_CONFLICTS = (Reason.EVENT_ID_CONFLICT, Reason.SEQUENCE_CONFLICT)


def _is_quarantined(memory: Memory, item: Read) -> bool:
    digest = item.digest
    return any(row["digest"] == digest for row in memory.quarantine.values())


def _poison_of(memory: Memory, item: Read) -> Read:
    row = memory.quarantine[item.record.position.offset]
    return poisoned(item, Reason(row["reason"]), row["error"])


def _filler(memory: Memory, parked: Parked) -> Read | None:
    """The record that waits and has the number that is missing; a sound one before poison."""
    if parked.awaited is None or memory.waiting is None:
        return None
    found = [item for item in memory.waiting.values() if item.number == parked.awaited]
    return min(found, key=lambda item: item.problem is not None, default=None)


def _has_twin(memory: Memory, poison: Read) -> bool:
    """Whether a sound record with the poison's number waits, which is to count in its place."""
    return any(
        item.problem is None and item.number == poison.number
        for item in (memory.waiting or {}).values()
    )


def _with_seq(number: StreamNumber, stream_seq: int) -> StreamNumber:
    return StreamNumber(stream_id=number.stream_id, epoch=number.epoch, stream_seq=stream_seq)

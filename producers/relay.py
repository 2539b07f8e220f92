"""The relay: from the outbox into the log, in order, nothing lost, repeats possible.

One round, and what a crash behind each step leaves:

1. Read rows that are committed and wait (`drain`), and decide which may go (`sending`).
2. Append them and wait for the log's answers. Behind this, the next relay sends them again: a
   repeat, known by its `event_id`. Where more waits, the next round's rows are read meanwhile, as
   if these were sent; unless all of them were, that is forgotten.
3. In one transaction: renew the lease, delete exactly what was acknowledged, note how far each
   aggregate is sent. A relay that lost its lease meanwhile changes nothing here, and stops. Where
   the next rows have been read already, this is done while they are sent.

What was Unsent stays and is sent again. What is Refused holds its aggregate, is noted, and is
offered again now and then; the others go on. There is no cursor: RELIABILITY.md tells what one
loses. Now and then a SourceProgressed goes the same way as any event, one a partition.

No broker's library is imported: the log comes as a LogWriter, made in this process (not before a
fork).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from threading import Event as Flag
from types import MappingProxyType

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from metaledger.producers import drain, sending
from metaledger.producers.counters import PROGRESS_PREFIX, Stream, read_stream
from metaledger.producers.database import reading
from metaledger.producers.guard import described
from metaledger.producers.lease import Lease, LeaseLost
from metaledger.producers.outbox import Outbox
from metaledger.producers.sending import Plan, Sent, Settled, Waiting, sendable, settle
from metaledger.producers.settings import RelaySettings
from metaledger.schemas.errors import MetaledgerError
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.interpreter import switching_often, uncollected
from metaledger.schemas.ledger import SourceProgressed
from metaledger.schemas.log import LogWriter, NewRecord, Outcome, Position

_log = structlog.get_logger("metaledger.relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round did. `standby`: another relay has the lease, and nothing was done.

    `unsent` says why the log did not take what it was given, None where it did. `idle`: there was
    nothing to send.
    """

    sent: int = 0
    refused: int = 0
    unsent: str | None = None
    idle: bool = True
    standby: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the outbox is, and what the relay did since its last report; told with each of them."""

    sent: int
    retries: int
    rows_waiting: int
    rows_max: int
    oldest_row_age_s: float
    unrecorded_aggregates: int


OnReport = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class _Planned:
    """What a round is going to send, and where the aggregates stand. `more`: there is more."""

    plan: Plan
    records: Sequence[NewRecord]
    sent: dict[str, Sent]
    source: Stream
    more: bool


@dataclass(frozen=True, slots=True)
class _Answered:
    """What the log answered to a plan, and the database does not have yet."""

    settled: Settled
    plan: Plan


class Relay:
    """Drains one outbox into one log; used by one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        writer: LogWriter,
        outbox: Outbox,
        *,
        partitions: int,
        owner: str,
        settings: RelaySettings | None = None,
        clock: Clock = system_clock,
    ) -> None:
        """`engine` is of `database.open_database` or a spool's; `partitions` are the log's;
        `owner` names this relay and no other (host, process, something fresh).
        """
        self._engine = engine
        self._writer = writer
        self._outbox = outbox
        self._partitions = partitions
        self._settings = settings or RelaySettings()
        self._clock = clock
        # Who wants the numbers of each report beside the log sets this.
        self.on_report: OnReport = lambda _report: None
        self._lease = Lease(owner, lease_s=self._settings.lease_s, clock=clock)
        self._renew_at: datetime | None = None
        self._progress_at: datetime | None = None
        # What the row says is not known yet; the first round writes it.
        self._error: str | None = ""
        # What the last round read beside its sending, and never without it what it has not settled.
        self._ahead: _Planned | None = None
        self._answered: _Answered | None = None
        # Since the last report.
        self._sent = 0
        self._retries = 0

    @uncollected()
    def round(self) -> Round:
        """One round. Raises DBAPIError, LeaseLost (do the next round), and what the log raises."""
        if not self._has_lease():
            return Round(standby=True)
        ahead, self._ahead = self._ahead, None
        planned = ahead or self._read()
        rows = planned.plan.rows
        settled, ahead = self._append(planned)
        self._answered = _Answered(settled, planned.plan)
        self._sent += len(settled.acknowledged)
        if len(settled.acknowledged) == len(rows):
            self._ahead = ahead
        if self._ahead is None:
            self._settle()
        unsent = next(iter(settled.unsent), None)
        if unsent is None:
            self._note(None)
        reported = unsent is None and self._report(planned.source)
        return Round(
            sent=len(settled.acknowledged),
            refused=len(settled.refused),
            unsent=unsent,
            idle=not rows and not planned.plan.gaps and not reported,
        )

    @switching_often()
    def drain(self) -> Round:
        """Rounds until nothing waits, or the log does not take what is left; the sum of them.

        Gives up the lease, so that the next one does not have to wait for it.
        """
        sent, refused = 0, 0
        while True:
            done = self.round()
            sent, refused = sent + done.sent, refused + done.refused
            if done.idle or done.unsent is not None:
                break
        if not done.standby:
            self._give_up()
        return replace(done, sent=sent, refused=refused)

    @switching_often()
    def run(self, stop: Flag) -> None:
        """Rounds until `stop` is set, whatever is away meanwhile; then gives up the lease.

        Ends within a round, which the log's send timeout bounds. Raises MetaledgerError where only
        a person can decide how to go on.
        """
        failures = 0
        while not stop.is_set():
            try:
                done = self.round()
            except LeaseLost as lost:
                _log.warning("lease lost", reason=str(lost))
                self._renew_at, done = None, Round(standby=True)
            except (DBAPIError, PoolTimeout) as error:
                done = Round(unsent=described(error))
            except MetaledgerError as error:
                self._note(described(error))
                if not error.retriable:
                    raise
                done = Round(unsent=described(error))
            failures = 0 if done.unsent is None else failures + 1
            if done.unsent is not None:
                self._retries += 1
                _log.warning("not sent", reason=done.unsent, retries=failures)
                self._note(done.unsent)
            stop.wait(self._pause_s(done, failures))
        self._give_up()

    def _pause_s(self, done: Round, failures: int) -> float:
        interval_s = self._settings.poll_interval_s
        if failures:
            return min(interval_s * (1 << min(failures, 10)), self._settings.backoff_max_s)
        if done.standby:
            return self._settings.lease_s / 10
        return interval_s if done.idle else 0

    def _has_lease(self) -> bool:
        now = self._clock()
        if self._renew_at is not None and now < self._renew_at:
            return True
        with suppress(LeaseLost):
            # That renews it, unless another has had it since.
            self._settle()
        if self._renew_at is not None and now < self._renew_at:
            return True
        # Another may have sent what was read: to note that once more would set aggregates back.
        self._ahead = None
        with self._engine.begin() as connection:
            taken = self._lease.take(connection)
        if taken and self._renew_at is None:
            _log.info("lease taken", owner=self._lease.owner)
        self._renew_at = self._next_renewal(now) if taken else None
        return taken

    def _next_renewal(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._settings.lease_s / 3)

    def _append(self, planned: _Planned) -> tuple[Settled, _Planned | None]:
        """What the log's answers mean, and what was read beside it if there is more."""
        rows, ahead = planned.plan.rows, None
        taken = _settled(planned, [_TAKEN] * len(rows))
        if not rows:
            self._settle()
            return taken, None
        # Left when the log has answered, whatever is met beside it.
        with ThreadPoolExecutor(max_workers=1) as sender:
            answers = sender.submit(self._writer.append, planned.records)
            self._settle()
            if planned.more:
                ahead = self._read_ahead(rows, taken)
            outcomes = answers.result()
        if len(outcomes) == len(rows) and all(isinstance(it, Position) for it in outcomes):
            return taken, ahead
        return _settled(planned, outcomes), ahead

    def _read_ahead(self, under_way: Sequence[Waiting], taken: Settled) -> _Planned | None:
        try:
            read = self._read(under_way, taken.sent)
        except (DBAPIError, PoolTimeout, MetaledgerError) as error:
            # The next round reads for itself, and meets it if it is still there.
            _log.warning("not read ahead", reason=described(error))
            return None
        # Where nothing was there yet, the next round looks again before it says so.
        return read if read.plan.rows else None

    def _read(
        self, under_way: Sequence[Waiting] = (), expected: Mapping[str, Sent] = MappingProxyType({})
    ) -> _Planned:
        """What can be sent next, beside what is under way and as if that was taken."""
        with reading(self._engine) as connection:
            source = read_stream(connection)
            plan, sent, more = self._plan(connection, source.stream_id, under_way, expected)
            records = drain.read_records(connection, plan.rows)
        return _Planned(plan, records, sent, source, more)

    def _plan(
        self,
        connection: Connection,
        stream_id: str,
        taken: Sequence[Waiting],
        expected: Mapping[str, Sent],
    ) -> tuple[Plan, dict[str, Sent], bool]:
        rows_max, bytes_max = self._settings.batch_rows_max, self._settings.batch_bytes_max
        ids = {row.id for row in taken}
        seen = drain.read_waiting(connection, self._clock(), rows_max=rows_max, beside=list(ids))
        rows = seen.rows
        sent = {**seen.sent, **expected}
        plan = sendable(rows, sent, stream_id=stream_id, bytes_max=bytes_max)
        if plan.gaps:
            found = drain.read_whole(connection, plan.gaps, rows_max=rows_max + len(ids))
            rows = [row for row in rows if row.aggregate not in plan.gaps]
            rows += [row for row in found.rows if row.id not in ids]
            sent = {**sent, **found.sent, **expected}
            plan = sendable(
                rows,
                sent,
                stream_id=stream_id,
                whole=frozenset(plan.gaps),
                bytes_max=bytes_max,
            )
        return plan, sent, len(seen.rows) >= rows_max or len(plan.rows) < len(rows)

    def _settle(self) -> None:
        """Has the database know what was answered. What fails here is sent again."""
        answered, self._answered = self._answered, None
        if answered is None:
            return
        settled, plan = answered.settled, answered.plan
        held = {**plan.gaps, **settled.refused}
        if not settled.acknowledged and not held:
            return
        now = self._clock()
        with self._engine.begin() as connection:
            self._lease.renew(connection)
            drain.delete_rows(connection, settled.acknowledged)
            drain.note_sent(connection, settled.sent)
            until = now + timedelta(seconds=self._settings.held_retry_s)
            drain.note_held(connection, held, until)
        self._renew_at = self._next_renewal(now)
        for aggregate, reason in held.items():
            _log.error("aggregate held", aggregate=aggregate, reason=reason)

    def _report(self, source: Stream) -> bool:
        """Writes a SourceProgressed for each partition when it is time; they are sent next."""
        if self._settings.progress_interval_s is None:
            return False
        # Before the reading: what was committed until now is seen by it.
        now = self._clock()
        interval = timedelta(seconds=self._settings.progress_interval_s)
        if not sending.is_report_due(source, self._progress_at, now, interval=interval):
            return False
        self._settle()
        with self._engine.begin() as connection:
            self._lease.renew(connection, {"progress_at": now})
            totals = drain.read_totals(connection)
            data = SourceProgressed(
                oldest_unsent_at=totals.oldest_at,
                rows_waiting=totals.rows_waiting,
                rows_max=self._outbox.settings.outbox_rows_max,
                unrecorded_aggregates=totals.unrecorded_aggregates,
                last_error=totals.held_reason,
            )
            drafts = [
                Draft(
                    data=data,
                    aggregate=f"{PROGRESS_PREFIX}{source.stream_id}/{partition}",
                    context=self._outbox.settings.context(),
                    occurred_at=now,
                )
                for partition in range(self._partitions)
            ]
            self._outbox.record_beyond_limit(connection, drafts)
        self._progress_at = now
        age_s = 0.0 if totals.oldest_at is None else (now - totals.oldest_at).total_seconds()
        report = Report(
            sent=self._sent,
            retries=self._retries,
            rows_waiting=totals.rows_waiting,
            rows_max=self._outbox.settings.outbox_rows_max,
            oldest_row_age_s=age_s,
            unrecorded_aggregates=totals.unrecorded_aggregates,
        )
        _log.info("progress", **asdict(report))
        self.on_report(report)
        self._sent, self._retries = 0, 0
        return True

    def _note(self, error: str | None) -> None:
        """Notes what went wrong last, for `status`; where the database is away, the log has it."""
        if error == self._error:
            return
        values = {"last_error": error, "last_error_at": error and self._clock()}
        try:
            with self._engine.begin() as connection:
                self._lease.renew(connection, values)
        except (DBAPIError, PoolTimeout, LeaseLost) as reason:
            _log.warning("not noted", error=error, reason=described(reason))
            return
        self._error = error

    def _give_up(self) -> None:
        try:
            self._settle()
            with self._engine.begin() as connection:
                self._lease.give_up(connection)
        except (DBAPIError, PoolTimeout, LeaseLost) as error:
            _log.warning("lease not given up", reason=described(error))
        self._renew_at = None


def _settled(planned: _Planned, outcomes: Sequence[Outcome]) -> Settled:
    return settle(planned.plan.rows, outcomes, planned.sent, stream_id=planned.source.stream_id)


# Whatever the log will say of a record that it takes.
_TAKEN = Position(0, 0)

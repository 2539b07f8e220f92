"""What is red, and the command that helps: the judgement behind `status`. Pure.

Rows come as `queries` gives them, times are aware, and `now` is an argument. A problem is one line
for a person who was woken up: what, since when, and what to type.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from metaledger.producers.administration import OutboxStatus
from metaledger.services.terminal import age

Row = Mapping[str, Any]

# A relay reports every 20 s; three reports that did not come are no accident.
SILENT_S = 60.0
# What was committed or appended is through within a second when all is well.
LATE_S = 60.0
# Above this share of its limit an outbox is about to leave changes unrecorded.
FULL_SHARE = 0.8
# More of one kind are a number, not lines.
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """A red line, and the command that helps."""

    what: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """How far the projection of a partition is.

    `end` is None where the log cannot be reached, `next_offset` where the read model cannot.
    """

    partition: int
    next_offset: int | None
    end: int | None
    last_recorded_at: datetime | None

    @property
    def lag(self) -> int | None:
        """How many records are not projected yet."""
        if self.end is None or self.next_offset is None:
            return None
        return self.end - self.next_offset


def of_streams(streams: Sequence[Row], now: datetime) -> Iterator[Problem]:
    """What the sources' own reports tell."""
    for row in streams:
        # Its id alone tells nobody where to start a relay.
        name = f"stream {row['stream_id']}, of a relay on {row['relay_host']}"
        silent_s = _seconds(row["reported_at"], now)
        if silent_s > SILENT_S:
            yield Problem(f"{name}: not reported for {age(silent_s)}", _RELAY)
        if _seconds(row["oldest_unsent_at"], now) > LATE_S:
            late = age(_seconds(row["oldest_unsent_at"], now))
            yield Problem(f"{name}: its oldest unsent event is {late} old", _RELAY)
        yield from _of_outbox(
            name, row["rows_waiting"], row["rows_max"], row["unrecorded_aggregates"], _RELAY
        )
        if row["last_error"]:
            yield Problem(f"{name}: {row['last_error']}", _OUTBOX)


def of_log(
    log: tuple[str, int] | None, projected: tuple[str | None, int | None]
) -> Iterator[Problem]:
    """Where the log (its identity and partitions) is not the one that was projected."""
    if log is not None and projected[0] is not None and log != projected:
        yield Problem(
            f"the read model was built from log {projected[0]} with {projected[1]} partitions, and "
            f"this is log {log[0]} with {log[1]}: nothing is projected",
            "metaledger doctor",
        )


def of_partitions(partitions: Sequence[Partition], now: datetime) -> Iterator[Problem]:
    """Where the projection does not come on."""
    late = [
        one
        for one in partitions
        if one.lag
        and (one.last_recorded_at is None or _seconds(one.last_recorded_at, now) > LATE_S)
    ]
    if late:
        records = sum(one.lag or 0 for one in late)
        yield Problem(
            f"{records:,} records of {len(late)} partitions are not projected",
            "metaledger project --follow",
        )


def of_parked(parked: Sequence[Row], quarantine: Sequence[Row], now: datetime) -> Iterator[Problem]:
    """What waits for an operator."""
    open_records = [row for row in quarantine if row["skipped_by_event"] is None]
    for row in open_records[:NAMED_MAX]:
        since = age(_seconds(row["recorded_at"], now))
        place = f"{row['log_partition']}:{row['log_offset']}"
        yield Problem(
            f"the record at {place} is in quarantine for {since}: {row['reason']}",
            f"metaledger quarantine show {place}",
        )
    yield from _rest(open_records, "records are in quarantine")
    for row in parked[:NAMED_MAX]:
        aggregate = f"{row['aggregate_kind']}:{row['aggregate_id']}"
        since = age(_seconds(row["since"], now))
        yield Problem(
            f"{aggregate} is parked for {since}, and {row['events']:,} events wait",
            "metaledger quarantine list",
        )
    yield from _rest(parked, "aggregates are parked")


def of_unjudged(unjudged: Row, now: datetime) -> Iterator[Problem]:
    """Where lineages and anomalies are not derived behind the projection."""
    late_s = _seconds(unjudged["due_since"], now)
    if late_s > LATE_S:
        yield Problem(
            f"lineages and anomalies that wait to be derived: {unjudged['due']:,}, of events up to "
            f"{age(late_s)} old",
            "metaledger project --follow",
        )
    if unjudged["put_aside"]:
        yield Problem(
            f"marks that the database refused to have derived: {unjudged['put_aside']:,}; the "
            "projector's log names them",
            "metaledger sql \"SELECT * FROM unjudged_aggregates WHERE settles_at >= '9999-01-01'\"",
        )


def of_outbox(outbox: OutboxStatus, now: datetime) -> Iterator[Problem]:
    """What the outbox itself tells, whether its relay works or not."""
    name = "the outbox"
    expires_at = outbox.lease_expires_at
    alone = outbox.lease_owner is None or (expires_at is not None and expires_at < now)
    if alone:
        yield Problem(f"{name}: no relay holds its lease", _RELAY)
    # A relay that is there and does not come on is not helped by a second one.
    helps = _RELAY if alone else _DOCTOR
    if _seconds(outbox.oldest_row_at, now) > LATE_S:
        late = age(_seconds(outbox.oldest_row_at, now))
        yield Problem(f"{name}: its oldest unsent event is {late} old", helps)
    if outbox.last_error:
        yield Problem(f"{name}: its relay says: {outbox.last_error}", _DOCTOR)
    for one in outbox.held[:NAMED_MAX]:
        yield Problem(f"{name}: {one.aggregate} is held: {one.reason}", _OUTBOX)
    if outbox.held_aggregates > NAMED_MAX:
        more = outbox.held_aggregates - NAMED_MAX
        yield Problem(f"{name}: {more:,} more aggregates are held", _OUTBOX)
    yield from _of_outbox(
        name, outbox.rows_waiting, outbox.rows_max, outbox.unrecorded_aggregates, helps
    )


def _of_outbox(
    name: str, waiting: int, rows_max: int, unrecorded: int, helps: str
) -> Iterator[Problem]:
    if rows_max and waiting >= FULL_SHARE * rows_max:
        yield Problem(f"{name}: {waiting:,} of at most {rows_max:,} events wait", helps)
    if unrecorded:
        yield Problem(
            f"{name}: aggregates that lack a change until their next one mends it: {unrecorded:,}",
            RECONCILE,
        )


def _rest(rows: Sequence[Row], what: str) -> Iterator[Problem]:
    if len(rows) > NAMED_MAX:
        yield Problem(f"{len(rows) - NAMED_MAX:,} more {what}", "metaledger quarantine list")


def _seconds(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else (now - since).total_seconds()


_RELAY = "metaledger relay"
_OUTBOX = "metaledger outbox status"
# For what counts as unrecorded.
RECONCILE = "metaledger reconcile glance|nova URL --mend"
_DOCTOR = "metaledger doctor"

"""`status`: one screen for 3 a.m.: how far everything is, what is red, and what helps.

What cannot be reached is a red line as well, and the rest is shown all the same. Exits 0 where
nothing is red, 1 where something is, 3 where a part cannot be reached.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TypeVar

import typer
from rich.text import Text
from sqlalchemy import Connection

from metaledger.producers import administration
from metaledger.producers.administration import OutboxStatus
from metaledger.schemas.errors import MetaledgerError, NewerVersion, UsageError
from metaledger.schemas.identity import system_clock
from metaledger.services import health, parts, queries
from metaledger.services.health import Partition, Problem
from metaledger.services.output import Document, Views
from metaledger.services.queries import Row
from metaledger.services.reading import reading
from metaledger.services.settings import Settings, redacted
from metaledger.services.shell import DONE, NO, UNREACHABLE, Shell, add_command
from metaledger.services.terminal import age, harmless, table

T = TypeVar("T")
_SCREEN_ROWS_MAX = 12
_LEDGERS = "metaledger status --ledger sqlite:///FILE|kafka://…"
_MODELS = "metaledger status --read-model sqlite:///FILE|postgresql://…"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "status", status)


def status(shell: Shell) -> int:
    """How far everything is; for each red line, the command that helps."""
    now = system_clock()
    seen = _Seen(shell.settings)
    problems = [*seen.failures, *_problems(seen, now)]
    document = {
        "ledger": redacted(shell.settings.ledger),
        "read_model": redacted(shell.settings.read_model),
        "streams": seen.streams,
        "partitions": [{**asdict(one), "lag": one.lag} for one in seen.partitions],
        "parked": seen.parked,
        "quarantine": [row for row in seen.quarantine if row["skipped_by_event"] is None],
        "unjudged": seen.unjudged,
        "outbox": None if seen.outbox is None else asdict(seen.outbox),
        "problems": [asdict(one) for one in problems],
    }
    shell.output.answer(document, lambda: _told(document, seen, problems, now))
    if seen.unreachable:
        return UNREACHABLE
    return NO if problems else DONE


class _Seen:
    """What could be found out, and what could not."""

    def __init__(self, settings: Settings) -> None:
        self.failures: list[Problem] = []
        self.unreachable = False
        has_outbox = settings.relay.outbox or settings.relay.spool
        # At once: each may take its time to say that nobody answers.
        with ThreadPoolExecutor() as looking:
            ledger = looking.submit(_ledger, settings)
            read_model = looking.submit(_model, settings)
            outbox = looking.submit(_outbox, settings) if has_outbox else None
        log = self._found("the ledger", "metaledger doctor", ledger, wrong=_LEDGERS)
        found = self._found("the read model", "metaledger migrate", read_model, wrong=_MODELS)
        model = found or _Model()
        self.streams, self.parked, self.quarantine = model.streams, model.parked, model.quarantine
        self.unjudged = model.unjudged
        self.partitions = _partitions(
            None if found is None else found.checkpoints, log.ends if log else {}
        )
        self.of_log = list(health.of_log(log.identity if log else None, model.projected_log))
        self.outbox: OutboxStatus | None = None
        if outbox is not None:
            self.outbox = self._found("the outbox", "metaledger outbox install", outbox)

    def _found(
        self, name: str, command: str, looked: Future[T], *, wrong: str | None = None
    ) -> T | None:
        """`wrong` helps where the URL, or what stands there, could never be it."""
        try:
            return looked.result()
        except MetaledgerError as error:
            self.unreachable = self.unreachable or error.retriable
            # What only does not answer is not to be made anew, nor what this build cannot read; the
            # doctor says which build this is.
            if error.retriable or isinstance(error, NewerVersion):
                command = "metaledger doctor"
            elif wrong and isinstance(error, UsageError):
                command = wrong
            self.failures.append(Problem(f"{name}: {error}", command))
            return None


@dataclass(frozen=True, slots=True)
class _Ledger:
    identity: tuple[str, int]
    ends: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Model:
    projected_log: tuple[str | None, int | None] = (None, None)
    streams: list[Row] = field(default_factory=list)
    checkpoints: list[Row] = field(default_factory=list)
    parked: list[Row] = field(default_factory=list)
    quarantine: list[Row] = field(default_factory=list)
    unjudged: Row | None = None


def _ledger(settings: Settings) -> _Ledger:
    with parts.open_log(settings) as log:
        ends = {partition: end for partition, (_, end) in log.bounds().items()}
        return _Ledger((log.topic_id, log.partitions), ends)


def _model(settings: Settings) -> _Model:
    with reading(settings.read_model) as connection:
        return _read(connection)


def _read(connection: Connection) -> _Model:
    return _Model(
        queries.ledger.projected_log(connection),
        queries.ledger.streams(connection),
        queries.ledger.checkpoints(connection),
        queries.ledger.parked(connection),
        queries.ledger.quarantine(connection),
        queries.ledger.unjudged(connection),
    )


def _outbox(settings: Settings) -> OutboxStatus:
    with parts.relay_source(settings) as (engine, _):
        return administration.status(engine, rows_max=settings.relay.outbox_rows_max)


def _partitions(checkpoints: list[Row] | None, ends: Mapping[int, int]) -> list[Partition]:
    known = {row["log_partition"]: row for row in checkpoints or ()}
    unknown = None if checkpoints is None else 0
    return [
        Partition(
            partition=number,
            next_offset=known[number]["next_offset"] if number in known else unknown,
            end=ends.get(number),
            last_recorded_at=known[number]["last_recorded_at"] if number in known else None,
        )
        for number in sorted({*known, *ends})
    ]


def _problems(seen: _Seen, now: datetime) -> list[Problem]:
    # What the outbox tells itself is newer than what its relay has reported of it.
    reported = [row for row in seen.streams if not _is_of(row, seen.outbox)]
    found = [
        *health.of_streams(reported, now),
        *(seen.of_log or health.of_partitions(seen.partitions, now)),
        *health.of_parked(seen.parked, seen.quarantine, now),
    ]
    if seen.unjudged is not None:
        found += health.of_unjudged(seen.unjudged, now)
    if seen.outbox is not None:
        found += health.of_outbox(seen.outbox, now)
    return found


def _is_of(stream: Row, outbox: OutboxStatus | None) -> bool:
    return outbox is not None and stream["stream_id"] == outbox.stream_id


def _told(document: Document, seen: _Seen, problems: list[Problem], now: datetime) -> Views:
    yield harmless(f"ledger {document['ledger']}, read model {document['read_model']}")
    if seen.partitions:
        yield ""
        yield _lag(seen.partitions, now)
    if seen.streams:
        yield ""
        yield _streams(seen.streams, now)
    yield ""
    if not problems:
        yield Text("All is well.", style="green")
    for problem in problems:
        yield Text(f"! {harmless(problem.what)}", style="red")
        yield Text(f"    {harmless(problem.help)}")


def _lag(partitions: list[Partition], now: datetime) -> Document:
    worst = sorted(partitions, key=lambda one: one.lag or 0, reverse=True)[:_SCREEN_ROWS_MAX]
    rows = [
        (
            one.partition,
            "?" if one.next_offset is None else one.next_offset,
            "?" if one.lag is None else one.lag,
            "-"
            if one.last_recorded_at is None
            else age((now - one.last_recorded_at).total_seconds()),
        )
        for one in sorted(worst, key=lambda one: one.partition)
    ]
    return table(("partition", "projected to", "lag", "last record"), rows)


def _streams(streams: list[Row], now: datetime) -> Document:
    rows = [
        (
            row["stream_id"],
            row["relay_host"],
            age((now - row["reported_at"]).total_seconds()),
            "-"
            if row["oldest_unsent_at"] is None
            else age((now - row["oldest_unsent_at"]).total_seconds()),
            f"{row['rows_waiting']:,} of {row['rows_max']:,}",
            row["unrecorded_aggregates"],
        )
        for row in streams[:_SCREEN_ROWS_MAX]
    ]
    return table(("stream", "relay on", "reported", "oldest unsent", "waiting", "unrecorded"), rows)

"""`import glance|nova URL`: cold start from a service's own database."""

import time
from dataclasses import asdict
from typing import Annotated

import structlog
import typer

from metaledger.producers.administration import OutboxStatus
from metaledger.producers.importing import Importer, Progress
from metaledger.producers.live import JOBS, LiveWriter
from metaledger.producers.source import find_undated
from metaledger.services import parts
from metaledger.services.output import Advance, Views, progress
from metaledger.services.shell import DONE, NO, Shell, add_command
from metaledger.services.terminal import harmless, table

# How often it says how far it is, where there is no terminal, and that it waits.
_REPORT_S = 10.0

_log = structlog.get_logger()

Service = Annotated[str, typer.Argument(metavar="SERVICE", help="glance or nova")]
Url = Annotated[
    str | None,
    typer.Argument(metavar="URL", help="the service's database (SQLAlchemy) \\[relay.outbox]"),
]
Jobs = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, max=8, help="transactions under way at once; on SQLite it is one"
    ),
]
_COUNTS = ("total", "imported", "events", "known", "in_flight", "untold")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "import", import_service)


def import_service(shell: Shell, service: Service, url: Url = None, *, jobs: Jobs = JOBS) -> int:
    """Tell the ledger what a service's database holds from before; run again, it goes on."""
    settings = shell.settings
    with parts.service_database(settings, service, url) as (engine, kinds):
        teller = Teller()
        producer = parts.producer_settings(settings)
        importer = Importer(
            engine,
            LiveWriter(engine, producer, jobs=jobs, on_wait=teller.waiting),
            context=parts.context_of(settings),
            on_progress=teller.progress,
        )
        undated = [find_undated(engine, kind) for kind in kinds]
        imported = []
        for kind in kinds:
            with progress(f"import {kind.name}") as teller.advance:
                imported.append(importer.run(kind))
    found = [one for one in undated if one.count]

    def view() -> Views:
        yield table(("", *_COUNTS), ([one.kind, *_counts(one)] for one in imported))
        for defect in found:
            yield ""
            named = ", ".join(harmless(key) for key in defect.named)
            yield (
                f"{defect.count:,} rows of {defect.kind} are deleted and do not say when, which is "
                f"a defect of the database; the first: {named}"
            )
        if any(one.in_flight for one in imported):
            yield ""
            yield "The service holds what is in flight: run this again when it is over."
        if any(one.untold for one in imported):
            yield ""
            yield "What is untold no event can tell; the log says why, each by its name."

    shell.output.answer(
        {
            "service": service,
            "imported": [asdict(one) for one in imported],
            "deleted_without_time": [asdict(one) for one in found],
        },
        view,
    )
    return NO if any(one.lacking for one in imported) else DONE


def _counts(told: Progress) -> list[int]:
    return [getattr(told, name) for name in _COUNTS]


class Teller:
    """Says how far an import is: on a terminal in its bar, else in the log now and then."""

    def __init__(self) -> None:
        self.advance: Advance = lambda _done, _total: None
        self._last = time.monotonic()

    def progress(self, so_far: Progress) -> None:
        """So far it is."""
        self.advance(so_far.done, so_far.total)
        if self._is_due():
            _log.info("import.progress", **asdict(so_far))

    def waiting(self, outbox: OutboxStatus) -> None:
        """It waits for a relay to make room."""
        if self._is_due():
            _log.info(
                "import.waiting",
                reason="the outbox is half full, and the rest is the service's",
                rows_waiting=outbox.rows_waiting,
                relay=outbox.lease_owner,
                relay_error=outbox.last_error,
            )

    def _is_due(self) -> bool:
        is_due = time.monotonic() - self._last >= _REPORT_S
        if is_due:
            self._last = time.monotonic()
        return is_due

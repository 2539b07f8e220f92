"""`project`: brings the read model up to the end of the log, and stops there or goes on."""

import os
import time
from dataclasses import replace
from typing import Annotated

import structlog
import typer

from metaledger.projector import project as projector
from metaledger.schemas.errors import UsageError
from metaledger.services import parts
from metaledger.services.daemon import stop_on_signal
from metaledger.services.output import Views, progress
from metaledger.services.settings import Settings
from metaledger.services.shell import DONE, Shell, add_command

# How often a projector that follows says how far it is.
_REPORT_S = 10.0
# Requests of services on the same machine go before a projector that works off a backlog: of an
# embedded ledger, an append that found both processors taken waited for a slice of its time.
_NICENESS = 10

_log = structlog.get_logger()


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "project", project)


def project(
    shell: Shell,
    follow: Annotated[bool, typer.Option("--follow", help="go on as events come")] = False,
    group: Annotated[
        str | None, typer.Option(help="share the partitions with the followers of this group")
    ] = None,
) -> int:
    """Bring the read model up to the end of the log; with --follow, and keep it there."""
    settings = shell.settings
    if follow:
        return _follow(shell, group)
    if group is not None:
        raise UsageError("--group is for --follow: a single run projects all partitions")
    with progress("project") as advance:
        result = project_to_end(settings, lambda so_far: advance(so_far.done, so_far.total))

    def view() -> Views:
        yield f"{result.done:,} records projected; the read model is at the end of the log."

    shell.output.answer({"projected": result.done, "per_second": round(result.per_second, 1)}, view)
    return DONE


def project_to_end(
    settings: Settings, on_progress: projector.OnProgress | None = None
) -> projector.Progress:
    """Projects what is in the log now, into a read model that is made where there is none."""
    # The log first: a ledger that is not there leaves no empty read model behind.
    with parts.open_log(settings) as log:
        parts.create_read_model(settings)
        with parts.open_store(settings) as store:
            return projector.bring_up_to_end(
                log,
                store,
                parts.codec_of(settings),
                settings=parts.projector_settings(settings),
                on_progress=on_progress,
            )


def _follow(shell: Shell, group: str | None) -> int:
    given = parts.projector_settings(shell.settings)
    settings = replace(given, group=group or given.group)
    report = _json_lines(shell) if shell.output.as_json else _logged()
    # Whichever of the daemons starts first makes an embedded ledger.
    with stop_on_signal() as stop, parts.open_or_create_log(shell.settings) as log:
        parts.create_read_model(shell.settings)
        with parts.open_store(shell.settings) as store:
            codec = parts.codec_of(shell.settings)
            os.nice(_NICENESS)
            _log.info("projector.started", log_partitions=log.partitions, group=settings.group)
            projector.follow(log, store, codec, settings=settings, stop=stop, on_progress=report)
            _log.info("projector.stopped")
    return DONE


def _json_lines(shell: Shell) -> projector.OnProgress:
    """A line a batch."""

    def report(so_far: projector.Progress) -> None:
        shell.output.stream([{"projected": so_far.done}], str, lines=True)

    return report


def _logged() -> projector.OnProgress:
    """A line of the log now and then."""
    last = time.monotonic() - _REPORT_S

    def report(so_far: projector.Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_S:
            last = time.monotonic()
            _log.info("projector.progress", projected=so_far.done)

    return report

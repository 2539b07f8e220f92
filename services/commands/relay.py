"""`relay`: the daemon between an outbox (or a spool) and the log."""

from pathlib import Path
from typing import Annotated

import structlog
import typer

from metaledger.producers import administration
from metaledger.producers.relay import Relay
from metaledger.services import parts
from metaledger.services.daemon import stop_on_signal
from metaledger.services.metrics import metrics_file
from metaledger.services.shell import DONE, Shell, add_command

_log = structlog.get_logger()


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "relay", run_relay)


def run_relay(
    shell: Shell,
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="the database with the outbox [relay.outbox]"),
    ] = None,
    spool: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a spool instead [relay.spool]")
    ] = None,
) -> int:
    """Send what an outbox or a spool holds to the log, until it is stopped."""
    settings = shell.settings
    with (
        stop_on_signal() as stop,
        parts.open_log(settings) as log,
        parts.relay_source(settings, url, spool) as (engine, outbox),
    ):
        found = administration.status(engine)
        writer = log.writer()
        try:
            _log.info("relay.started", stream_id=found.stream_id, rows_waiting=found.rows_waiting)
            relay = Relay(
                engine,
                writer,
                outbox,
                partitions=log.partitions,
                owner=parts.relay_owner(settings),
                settings=settings.relay,
            )
            if settings.relay.metrics_file is not None:
                relay.on_report = metrics_file(settings.relay.metrics_file, found.stream_id)
            relay.run(stop)
            _log.info("relay.stopped")
        finally:
            writer.close()
    return DONE

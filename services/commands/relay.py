"""`relay`: the daemon between an outbox (or a spool) and the log."""

from pathlib import Path
from threading import Event
from typing import Annotated

import structlog
import typer
from sqlalchemy import Engine

from metaledger.producers import administration
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.schemas.errors import UsageError
from metaledger.services import parts
from metaledger.services.daemon import stop_on_signal
from metaledger.services.metrics import metrics_file
from metaledger.services.settings import EmbeddedLedger, Settings, ledger_of
from metaledger.services.shell import DONE, Shell, add_command

_log = structlog.get_logger()


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "relay", run_relay)


def run_relay(
    shell: Shell,
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="the database with the outbox \\[relay.outbox]"),
    ] = None,
    spool: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a spool instead \\[relay.spool]")
    ] = None,
) -> int:
    """Send what an outbox or a spool holds to the log, until it is stopped."""
    settings = shell.settings
    made: Path | None = None
    if url is None and (chosen := spool or settings.relay.spool) is not None:
        _require_ledger(settings, chosen)
        made = None if chosen.exists() else chosen
    with (
        stop_on_signal() as stop,
        parts.relay_source(settings, url, spool) as (engine, outbox),
    ):
        found = administration.status(engine)
        _relay(settings, engine, outbox, found.stream_id, stop, made)
    return DONE


def _require_ledger(settings: Settings, spool: Path) -> None:
    """Raises UsageError where the ledger would be a new file that nobody named: a spool is bound to
    the ledger that it first goes into, and a compute host's is elsewhere.
    """
    ledger = ledger_of(settings.ledger)
    is_made = isinstance(ledger, EmbeddedLedger) and not ledger.path.exists()
    if is_made and "ledger" not in settings.named:
        raise UsageError(
            f"into which ledger does {spool} go? Set `ledger` in metaledger.toml, or give --ledger"
        )


def _relay(
    settings: Settings,
    engine: Engine,
    outbox: Outbox,
    stream_id: str,
    stop: Event,
    made: Path | None,
) -> None:
    with parts.open_or_create_log(settings) as log:
        administration.bind(engine, log)
        writer = log.writer()
        try:
            relay = Relay(
                engine,
                writer,
                outbox,
                partitions=log.partitions,
                owner=parts.relay_owner(settings),
                settings=settings.relay,
            )
            if settings.relay.metrics_file is not None:
                relay.on_report = metrics_file(settings.relay.metrics_file, stream_id)
            _log.info("relay.started", stream_id=stream_id)
            if made is not None:
                # Whose writer comes later, or whose name is mistyped.
                _log.warning("relay.spool_made", spool=str(made))
            relay.run(stop)
            _log.info("relay.stopped")
        finally:
            writer.close()

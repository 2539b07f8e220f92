"""`relay`: the daemon between an outbox (or a spool) and the log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import structlog
import typer
from sqlalchemy import Engine

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.spool import Spool
from metaledger.schemas.errors import UsageError
from metaledger.services import parts
from metaledger.services.daemon import stop_on_signal
from metaledger.services.settings import Settings
from metaledger.services.shell import DONE, Shell, add_command

_log = structlog.get_logger()


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "relay", relay)


def relay(
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
        _source(settings, url, spool) as (engine, outbox),
    ):
        found = administration.status(engine)
        writer = log.writer()
        try:
            _log.info("relay.started", stream_id=found.stream_id, rows_waiting=found.rows_waiting)
            Relay(
                engine,
                writer,
                outbox,
                partitions=log.partitions,
                owner=parts.relay_owner(settings),
                settings=settings.relay,
            ).run(stop)
            _log.info("relay.stopped")
        finally:
            writer.close()
    return DONE


@contextmanager
def _source(
    settings: Settings, url: str | None, spool: Path | None
) -> Iterator[tuple[Engine, Outbox]]:
    """What is to be emptied: what the command line names, else what the settings name."""
    if url is None and spool is None:
        url, spool = settings.relay.outbox, settings.relay.spool
    if (url is None) == (spool is None):
        raise UsageError("relay what? Name an outbox's database or a spool's file, and not both")
    producer = parts.producer_settings(settings)
    if spool is not None:
        of_spool = Spool(spool, producer)
        of_spool.install()
        engine, outbox = of_spool.engine, of_spool.outbox
    else:
        engine, outbox = open_database(url or ""), Outbox(producer, producer.codec())
    try:
        yield engine, outbox
    finally:
        engine.dispose()

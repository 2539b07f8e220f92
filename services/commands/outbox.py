"""`outbox install|status|reseed`: the care for an outbox in a service's database."""

from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Engine

from metaledger.producers import administration
from metaledger.schemas.errors import UsageError
from metaledger.services import parts
from metaledger.services.health import RECONCILE
from metaledger.services.output import Views
from metaledger.services.shell import DONE, Shell, add_group
from metaledger.services.terminal import table, table_of

Url = Annotated[
    str | None,
    typer.Argument(metavar="URL", help="the service's database (SQLAlchemy) \\[relay.outbox]"),
]
_LACKING = ("aggregate", "at", "reason")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    about = "The outbox in a service's own database."
    add_group(app, "outbox", about, install=install, status=status, reseed=reseed)


def install(
    shell: Shell,
    url: Url = None,
    stream_id: Annotated[
        str | None, typer.Option(help="the stream's id; a fresh one where it is left out")
    ] = None,
) -> int:
    """Make the outbox's tables where they are missing; run again, it changes nothing."""
    engine = _engine(shell, url)
    try:
        found = administration.install(engine, stream_id=stream_id)
    finally:
        engine.dispose()

    def view() -> Views:
        yield f"The outbox is installed; its stream is {found}."

    shell.output.answer({"stream_id": found}, view)
    return DONE


def status(shell: Shell, url: Url = None) -> int:
    """What waits in it, what is unrecorded or held, and how its relay is."""
    engine = _engine(shell, url)
    try:
        found = asdict(administration.status(engine, rows_max=shell.settings.relay.outbox_rows_max))
    finally:
        engine.dispose()
    lists = {name: found[name] for name in ("unrecorded", "held")}

    def view() -> Views:
        yield table(("", ""), [item for item in found.items() if item[0] not in lists])
        for name, rows in lists.items():
            if rows:
                yield ""
                yield table_of(_LACKING, rows, title=f"{name}, the oldest")

    shell.output.answer(found, view)
    return DONE


def reseed(
    shell: Shell,
    url: Url = None,
    above: Annotated[
        int, typer.Option(min=0, help="the highest epoch that the ledger knows of this stream")
    ] = 0,
) -> int:
    """Begin a new epoch, after the service's database was restored from a backup."""
    engine = _engine(shell, url)
    try:
        epoch = administration.reseed(engine, above=above)
        unrecorded = administration.status(engine).unrecorded_aggregates
    finally:
        engine.dispose()

    def view() -> Views:
        yield f"Epoch {epoch} has begun."
        if unrecorded:
            yield (
                f"{unrecorded:,} aggregates count as unrecorded until the ledger is told what the "
                "database holds, and the guard allows nothing meanwhile. While relay and projector "
                f"run: `{RECONCILE}`."
            )

    shell.output.answer({"epoch": epoch, "unrecorded_aggregates": unrecorded}, view)
    return DONE


def _engine(shell: Shell, url: str | None) -> Engine:
    where = url or shell.settings.relay.outbox
    if where is None:
        raise UsageError("which outbox? Give the URL of its database, or set relay.outbox")
    return parts.open_outbox(where)

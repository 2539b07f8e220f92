"""`hypervisor show|history`: one hypervisor, now or as of a time."""

from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from metaledger.services import queries
from metaledger.services.output import Document, Views
from metaledger.services.reading import reading
from metaledger.services.shell import (
    DONE,
    AsOf,
    Shell,
    add_group,
    answer_unknown,
    parse_moment,
)
from metaledger.services.terminal import table, table_of

HypervisorId = Annotated[str, typer.Argument(metavar="ID", help="the hypervisor's id")]
_LANDMARKS = ("registered_at", "removed_at")
_HISTORY = ("valid_from", "valid_to", "host", "version", "set_via", "end_reason")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    about = "One hypervisor: who it is, and the host names by which it was reached."
    add_group(app, "hypervisor", about, show=show, history=history)


def show(shell: Shell, hypervisor_id: HypervisorId, as_of: AsOf = None) -> int:
    """What the hypervisor is, or was: its identity and its endpoints."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        document = hypervisor_as_of(connection, hypervisor_id, at)
    if document is None:
        return answer_unknown(shell, f"hypervisor {hypervisor_id}", at)

    def view() -> Views:
        yield table(("attribute", "value"), document["attributes"].items())
        yield ""
        if document["endpoints"]:
            yield table_of(("host", "since", "set_by_event"), document["endpoints"])
        else:
            yield "No host."

    shell.output.answer(document, view)
    return DONE


def history(shell: Shell, hypervisor_id: HypervisorId, as_of: AsOf = None) -> int:
    """Every host name that it had, from when to when, with the reason of its end."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        known = hypervisor_as_of(connection, hypervisor_id, at)
        rows = queries.hypervisor.history(connection, hypervisor_id, at or queries.END_OF_TIME)
    if known is None:
        return answer_unknown(shell, f"hypervisor {hypervisor_id}", at)

    def view() -> Views:
        if rows:
            yield table_of(_HISTORY, rows)
        else:
            yield "It never had a host."

    shell.output.answer({"hypervisor_id": hypervisor_id, "as_of": at, "intervals": rows}, view)
    return DONE


def hypervisor_as_of(connection: Connection, hypervisor_id: str, at: datetime | None) -> Document:
    """The hypervisor's document; None where it was not known. What it was called has no
    history: as of a time the attributes are the times that had passed.
    """
    row = queries.hypervisor.as_it_is(connection, hypervisor_id)
    if row is None:
        return None
    moment = at or queries.END_OF_TIME
    endpoints = queries.hypervisor.endpoints_as_of(connection, hypervisor_id, moment)
    if at is None:
        attributes = {name: value for name, value in row.items() if name != "hypervisor_id"}
    else:
        attributes = {name: row[name] for name in _LANDMARKS if row[name] and row[name] <= at}
        if not attributes and not queries.hypervisor.history(connection, hypervisor_id, at):
            return None
    return {
        "hypervisor_id": hypervisor_id,
        "as_of": at,
        "attributes": attributes,
        "endpoints": endpoints,
    }

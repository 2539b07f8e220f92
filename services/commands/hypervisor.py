"""`hypervisor show|history`: one hypervisor, now or as of a time. `hypervisor unmapped`: the
instances that nobody knows the hypervisor of.
"""

from datetime import datetime
from itertools import chain
from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy import Connection

from metaledger.schemas.times import time_text
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
from metaledger.services.terminal import cell, seconds_only, table, table_of

HypervisorId = Annotated[str, typer.Argument(metavar="ID", help="the hypervisor's id")]
_LANDMARKS = ("registered_at", "registration_told_at", "removed_at")
_INSTANCES = ("instance_uuid", "since", "cause", "host", "resolved_by")
_HISTORY = ("valid_from", "valid_to", "host", "version", "set_via", "end_reason")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    about = "Hypervisors: who they are, the host names by which they were reached, what runs there."
    add_group(app, "hypervisor", about, show=show, history=history, unmapped=unmapped)


def show(shell: Shell, hypervisor_id: HypervisorId, as_of: AsOf = None) -> int:
    """What the hypervisor is, or was: its identity, its endpoints, what runs there."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        document = hypervisor_as_of(connection, hypervisor_id, at)
        moment = at or queries.END_OF_TIME
        instances = queries.hypervisor.instances_as_of(connection, hypervisor_id, moment)
    if document is None:
        return answer_unknown(shell, f"hypervisor {hypervisor_id}", at)

    def view() -> Views:
        yield table(("attribute", "value"), document["attributes"].items())
        yield ""
        if document["endpoints"]:
            yield table_of(("host", "since", "set_by_event"), document["endpoints"])
        else:
            yield "No host."
        yield ""
        if instances:
            yield table_of(_INSTANCES, instances, title="What runs there")
        else:
            yield "No instance."

    shell.output.answer({**document, "instances": instances}, view)
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


def unmapped(shell: Shell) -> int:
    """The instances told by a host name that leads to no one hypervisor, with those that had it."""
    with reading(shell.settings.read_model) as connection:
        rows = queries.hypervisor.unmapped(connection)
        first = next(rows, None)
        if first is not None or shell.output.as_json:
            found = chain(() if first is None else (first,), rows)
            shell.output.stream(found, _unmapped_for_people, lines=False)
        else:
            shell.output.say("Of every instance that is somewhere the hypervisor is known.")
    return DONE


def _unmapped_for_people(row: Document) -> Text:
    candidates = ", ".join(row["candidates"]) or "nobody had this name"
    since = seconds_only(time_text(row["since"]))
    return cell(f"{row['instance_uuid']}  {since}  {row['host']}: {candidates}")


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

"""`anomalies`: what services did and should not have done, and what the ledger missed."""

from typing import Annotated

import typer

from metaledger.services import queries
from metaledger.services.output import Views
from metaledger.services.reading import reading
from metaledger.services.shell import DONE, Shell, add_command, parse_moment
from metaledger.services.terminal import harmless, table_of

COLUMNS = ("occurred_at", "severity", "kind", "aggregate", "details", "withdrawn_by_event")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "anomalies", anomalies)


def anomalies(
    shell: Shell,
    kind: Annotated[str | None, typer.Option(help="only this kind, such as history_gap")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="not before this time (RFC 3339, with an offset)"),
    ] = None,
) -> int:
    """What went wrong, in the order of time."""
    moment = parse_moment(since, "--since")
    with reading(shell.settings.read_model) as connection:
        rows = queries.ledger.anomalies(connection, kind=kind, since=moment)
        kinds = [] if rows or kind is None else queries.ledger.anomaly_kinds(connection)

    def view() -> Views:
        if not rows:
            yield "No anomalies." if kind is None else f"No anomalies of kind {harmless(kind)}."
            if kinds and kind not in kinds:
                # A kind that was mistyped is no good news.
                yield f"There are some of kind {', '.join(kinds)}."
        else:
            yield table_of(COLUMNS, map(for_people, rows))

    shell.output.answer(rows, view)
    return DONE


def for_people(row: queries.Row) -> queries.Row:
    """The row with its aggregate in one word and its details on one line."""
    details = "; ".join(f"{name}: {_shown(value)}" for name, value in row["details"].items())
    return {
        **row,
        "aggregate": f"{row['aggregate_kind']}:{row['aggregate_id']}",
        "details": details,
    }


def _shown(value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{key}={_shown(member)}" for key, member in value.items())
        case list():
            return ", ".join(map(_shown, value))
        case None:
            return "null"
        case _:
            return str(value)

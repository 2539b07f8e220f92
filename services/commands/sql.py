"""`sql QUERY`: reads the read model; writes nothing."""

from typing import Annotated

import typer

from metaledger.services.output import Views
from metaledger.services.reading import reading, run_query
from metaledger.services.shell import DONE, Shell, add_command
from metaledger.services.terminal import table


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "sql", sql)


def sql(
    shell: Shell, query: Annotated[str, typer.Argument(metavar="QUERY", help="one SELECT")]
) -> int:
    """Read the read model by SQL; with --json: {"columns": […], "rows": [[…], …]}."""
    with reading(shell.settings.read_model) as connection:
        answer = run_query(connection, query)
        rows = [list(row) for row in answer.rows]

    def view() -> Views:
        yield table(answer.columns, rows)

    shell.output.answer({"columns": answer.columns, "rows": rows}, view)
    return DONE

"""`migrate`: creates the read model, or brings its schema up to this build's version."""

import typer

from metaledger.projector import readmodel
from metaledger.projector.database import connect
from metaledger.services.output import Views
from metaledger.services.settings import redacted
from metaledger.services.shell import DONE, Shell, add_command


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "migrate", migrate)


def migrate(shell: Shell) -> int:
    """Bring the read model up to this build's version; `project` fills it again."""
    engine = connect(shell.settings.read_model)
    try:
        found = readmodel.migrate(engine)
    finally:
        engine.dispose()
    url = redacted(shell.settings.read_model)
    document = {
        "read_model": url,
        "format": readmodel.FORMAT,
        "revision": readmodel.REVISION,
        "generation": found.generation,
    }

    def view() -> Views:
        yield f"{url} is of this build's version (format {readmodel.FORMAT})."

    shell.output.answer(document, view)
    return DONE

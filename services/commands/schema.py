"""`schema list|check|register`: the contract, its compatibility, and its place in a registry."""

import typer

from metaledger.schemas.catalogue import SCHEMAS
from metaledger.services.output import Views
from metaledger.services.shell import DONE, Shell, add_group
from metaledger.services.terminal import table_of


def register(app: typer.Typer) -> None:
    """Adds the group."""
    about = "The contract: its schemas, their compatibility, a schema registry."
    add_group(app, "schema", about, list=list_schemas)


def list_schemas(shell: Shell) -> int:
    """Every schema that this build knows."""
    document = [
        {
            "type": schema.type,
            "version": schema.version,
            "fingerprint": schema.fingerprint.hex(),
            "subject": schema.subject,
        }
        for schema in SCHEMAS
    ]

    def view() -> Views:
        yield table_of(("type", "version", "fingerprint", "subject"), document)

    shell.output.answer(document, view)
    return DONE

"""`schema list|check|register`: the contract, its compatibility, and its place in a registry."""

from pathlib import Path
from typing import Annotated

import typer

from metaledger.schemas.catalogue import SCHEMAS
from metaledger.schemas.compatibility import incompatibilities
from metaledger.schemas.errors import UsageError
from metaledger.schemas.registry import COMPATIBILITY, register_all
from metaledger.services import parts
from metaledger.services.output import Views
from metaledger.services.shell import DONE, NO, Shell, add_group
from metaledger.services.terminal import harmless, table_of


def register(app: typer.Typer) -> None:
    """Adds the group."""
    about = "The contract: its schemas, their compatibility, a schema registry."
    add_group(
        app, "schema", about, list=list_schemas, check=check_schemas, register=register_schemas
    )


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


def check_schemas(shell: Shell) -> int:
    """Do all versions of each schema understand each other, both ways (FULL_TRANSITIVE)?"""
    found = incompatibilities()
    document = {"schemas": len(SCHEMAS), "level": COMPATIBILITY, "incompatible": found}

    def view() -> Views:
        yield from map(harmless, found)
        if not found:
            yield f"{len(SCHEMAS)} schemas, {COMPATIBILITY}: compatible."

    shell.output.answer(document, view)
    return NO if found else DONE


def register_schemas(
    shell: Shell,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="for the ids [registry.schema_ids]")
    ] = None,
) -> int:
    """Give the registry every schema, and write the ids that it gave into a file."""
    target = file or shell.settings.registry.schema_ids
    if target is None:
        raise UsageError("where to write the ids? Give --file, or set registry.schema_ids")
    ids = register_all(parts.registry_access(shell.settings))
    try:
        target.write_text(ids.to_json(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error

    def view() -> Views:
        yield f"{len(ids.by_fingerprint)} schemas are registered; their ids stand in {target}."

    shell.output.answer({"schemas": len(ids.by_fingerprint), "file": str(target)}, view)
    return DONE

"""`doctor`: is everything set up so that nothing is lost? Changes nothing."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from metaledger.services.examination import NOVA_COMPUTE, Finding, examine
from metaledger.services.output import Views
from metaledger.services.shell import DONE, NO, UNREACHABLE, Shell, add_command
from metaledger.services.terminal import cell, table

_MARKS = {
    True: Text("ok", style="green"),
    False: Text("wrong", style="red"),
    None: Text("skipped", style="dim"),
}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "doctor", doctor)


def doctor(
    shell: Shell,
    glance_conf: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="a hooked Glance's glance-api.conf")
    ] = None,
    nova_conf: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="the nova.conf of a hooked Nova cell")
    ] = None,
    compute_conf: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="the nova.conf of a hooked nova-compute"),
    ] = None,
) -> int:
    """Check configuration, log, sizes, read model, registry, outbox, and hooked services.

    Of a service that is started with several --config-file give each here, in the same order.
    """
    given = {"glance": glance_conf, "nova": nova_conf, NOVA_COMPUTE: compute_conf}
    hooked = {service: files for service, files in given.items() if files}
    findings = list(examine(shell.settings, hooked))

    def view() -> Views:
        yield table(
            ("check", "", "what is there"),
            ((one.check, _MARKS[one.fine], cell(one.text)) for one in findings),
        )

    shell.output.answer({"fine": _fine(findings), "findings": list(map(asdict, findings))}, view)
    if any(one.unreachable for one in findings):
        return UNREACHABLE
    return DONE if _fine(findings) else NO


def _fine(findings: list[Finding]) -> bool:
    return all(one.fine is not False for one in findings)

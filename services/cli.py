"""`metaledger`: the command line of READ_MODEL.md. The entry point, and the one place where an
error becomes an exit status and one line on standard error.

0 done, 1 the answer is no, 2 the input or the usage is wrong (or a person has to decide), 3 a part
that is needed cannot be reached. An error that nobody foresaw is 70 and one line too; `--verbose`
adds its traceback.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from metaledger.schemas.errors import MetaledgerError, UsageError
from metaledger.services.commands import (
    anomalies,
    demo,
    doctor,
    emit,
    events,
    guard,
    hypervisor,
    image,
    importing,
    instance,
    lineage,
    migrate,
    outbox,
    project,
    quarantine,
    reconcile,
    relay,
    schema,
    sql,
    status,
    topic,
)
from metaledger.services.output import NobodyReads
from metaledger.services.shell import UNREACHABLE, USAGE, global_options
from metaledger.services.terminal import harmless

INTERRUPTED = 130
INTERNAL = 70
# In the table of READ_MODEL.md. Typer's hint at what is there, `relay` for `replay`, may do harm.
_PLANNED = ("replay", "diff", "promote")


class _Commands(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # type: ignore[explicit-override] # noqa: ANN401 (typer's)
        if args[0] in _PLANNED and not ctx.resilient_parsing:
            raise UsageError(f"{args[0]} is planned, and not there yet")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="metaledger",
    cls=_Commands,
    callback=global_options,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    demo,
    emit,
    events,
    project,
    relay,
    outbox,
    importing,
    reconcile,
    topic,
    quarantine,
    image,
    lineage,
    instance,
    hypervisor,
    guard,
    anomalies,
    sql,
    schema,
    migrate,
    status,
    doctor,
):
    group.register(app)


def main() -> None:
    """The entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs a command line, and gives its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A locale without a character shows its escape; it never ends a command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(list(arguments), prog_name="metaledger", standalone_mode=False)
    except NobodyReads:
        # No error, and nothing is to be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 (the last line of defence; a traceback helps nobody)
        return _failed(error, verbose="--verbose" in arguments or "-v" in arguments)
    return status if isinstance(status, int) else 0


def _failed(error: Exception, *, verbose: bool) -> int:
    match error:
        case typer.TyperException():
            text, status = error.format_message(), USAGE
        case MetaledgerError():
            text, status = str(error), UNREACHABLE if error.retriable else USAGE
        case OSError():
            # A file that cannot be read or written, a full disk: the usage or the machine.
            named = f"{error.filename}: " if error.filename else ""
            text, status = f"{named}{error.strerror or error}", USAGE
        case _:
            text, status = f"internal error: {type(error).__name__}: {error}", INTERNAL
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    line = " ".join(text.split())
    if line:
        sys.stderr.write(f"metaledger: {harmless(line)}\n")
    return status

"""What every command has: the global options, the settings made of them, and an output.

A command is a function that takes a `Shell` and its own arguments, and returns an exit status of
READ_MODEL.md: DONE, or NO where the answer is no (errors are raised; `cli` maps them). It may be
given the global options before its name or behind it, the latter win.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from metaledger.schemas.errors import InvalidEvent, UsageError
from metaledger.schemas.times import parse_time
from metaledger.services.logs import configure_logs
from metaledger.services.output import Output
from metaledger.services.settings import (
    CONFIG_VARIABLE,
    LEDGER_VARIABLE,
    READ_MODEL_VARIABLE,
    Settings,
    load_settings,
    process_environment,
)
from metaledger.services.terminal import harmless

DONE = 0
NO = 1
USAGE = 2
UNREACHABLE = 3

LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="URL",
        help=f"sqlite:///FILE or kafka://HOST:PORT/TOPIC [{LEDGER_VARIABLE}]",
    ),
]
ReadModelOption = Annotated[
    str | None,
    typer.Option(
        "--read-model",
        metavar="URL",
        help=f"sqlite:///FILE or postgresql://… [{READ_MODEL_VARIABLE}]",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help=f"the configuration file [{CONFIG_VARIABLE}]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on standard output")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="log more")]
# Not of all commands, but of all that show a history.
AsOf = Annotated[
    str | None, typer.Option(metavar="TIME", help="as of this time (RFC 3339, with an offset)")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalOptions:
    """What may stand before a command's name and behind it."""

    ledger: str | None = None
    read_model: str | None = None
    config: Path | None = None
    json: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class Shell:
    """What a command works with."""

    settings: Settings
    output: Output


_OPTIONS: dict[str, Any] = {
    "ledger": LedgerOption,
    "read_model": ReadModelOption,
    "config": ConfigOption,
    "json": JsonOption,
    "verbose": VerboseOption,
}

Command = Callable[..., int]


def add_command(app: typer.Typer, name: str, function: Command) -> None:
    """Makes a function a command of `app`; its first parameter is the Shell."""
    app.command(name)(_with_global_options(function))


def add_group(app: typer.Typer, name: str, about: str, **commands: Command) -> None:
    """Makes functions the commands of a group; `accept_gap` is `accept-gap` to who types it."""
    group = typer.Typer(help=about, no_args_is_help=True)
    for command, function in commands.items():
        add_command(group, command.replace("_", "-"), function)
    app.add_typer(group, name=name)


def answer_no(shell: Shell, sentence: str) -> int:
    """The answer is no: `null` for programs, one line for people."""
    if shell.output.as_json:
        shell.output.answer(None, tuple)
    return say_no(sentence)


def say_no(sentence: str) -> int:
    """The answer is no, and there is a document that says so to programs."""
    sys.stderr.write(f"metaledger: {harmless(sentence)}\n")
    return NO


def answer_unknown(shell: Shell, what: str, at: datetime | None) -> int:
    """The answer is no: the read model knows nothing of that, or did not at that time."""
    when = "" if at is None else " as of that time"
    return answer_no(shell, f"the read model knows no {what}{when}")


def parse_moment(text: str | None, option: str) -> datetime | None:
    """A time that a user gave. Raises UsageError."""
    if text is None:
        return None
    try:
        return parse_time(text, option)
    except InvalidEvent as error:
        raise UsageError(str(error)) from None


def global_options(
    context: typer.Context,
    *,
    ledger: LedgerOption = None,
    read_model: ReadModelOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """The ledger of what happened to images and instances: history with intent, as SQL."""
    context.obj = GlobalOptions(
        ledger=ledger, read_model=read_model, config=config, json=json, verbose=verbose
    )


def _with_global_options(function: Command) -> Callable[..., int]:
    """The function as typer sees it: with a context and the global options for the Shell."""
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]

    @wraps(function)
    def run(context: typer.Context, **given: Any) -> int:  # noqa: ANN401 (typer's)
        behind = {name: given.pop(name) for name in _OPTIONS}
        options = replace(
            context.find_root().obj, **{name: value for name, value in behind.items() if value}
        )
        return function(_shell(options), **given)

    context = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_ONLY, annotation=typer.Context
    )
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hint,
            default=False if hint in (JsonOption, VerboseOption) else None,
        )
        for name, hint in _OPTIONS.items()
    ]
    mine = [
        one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY) for one in own
    ]
    parameters = [context.replace(kind=inspect.Parameter.KEYWORD_ONLY), *mine, *shared]
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _shell(options: GlobalOptions) -> Shell:
    configure_logs(verbose=options.verbose)
    settings = load_settings(
        ledger=options.ledger,
        read_model=options.read_model,
        config=options.config,
        environment=process_environment(),
    )
    return Shell(settings, Output(as_json=options.json))

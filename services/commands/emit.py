"""`emit FILE`: appends events in the JSON form, all or nothing."""

import sys
from typing import Annotated

import typer

from metaledger.services import lines, parts
from metaledger.services.held import Held
from metaledger.services.output import Document, Views, progress
from metaledger.services.settings import KafkaLedger, ledger_of
from metaledger.services.shell import DONE, USAGE, Shell, add_command
from metaledger.services.terminal import harmless
from metaledger.services.writing import append


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "emit", emit)


def emit(
    shell: Shell,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines; - is standard input")],
) -> int:
    """Append events: the whole file is checked first, and nothing of a bad one is appended."""
    settings = shell.settings
    reading = lines.Reading(
        context=parts.producer_settings(settings).context(),
        codec=parts.codec_of(settings),
        repeatable=isinstance(ledger_of(settings.ledger), KafkaLedger),
    )
    with lines.opened(file) as source, Held() as held:
        checked = lines.check(source, reading, held)
        if checked.bad_total:
            return _refused(shell, file, checked)
        with progress("emit") as advance:
            append(
                settings,
                lines.drafts(checked, reading, held),
                lambda done: advance(done, checked.events),
            )
    document = {"file": file, "appended": checked.events, "errors": []}

    def view() -> Views:
        yield f"{checked.events:,} events appended."

    shell.output.answer(document, view)
    return DONE


def _refused(shell: Shell, file: str, checked: lines.Checked) -> int:
    """Names the bad lines, on standard error and in the document."""
    rest = checked.bad_total - len(checked.bad)
    texts = [f"{file}, {bad.text}" for bad in checked.bad]
    if rest:
        texts.append(f"{file}, and {rest:,} more lines")
    for text in texts:
        sys.stderr.write(f"metaledger: {harmless(text)}\n")
    if shell.output.as_json:
        shell.output.answer(_errors(file, checked), tuple)
    return USAGE


def _errors(file: str, checked: lines.Checked) -> Document:
    errors = [
        {"line": bad.line, "path": bad.path, "expected": bad.expected, "got": bad.got}
        for bad in checked.bad
    ]
    return {"file": file, "appended": 0, "errors": errors, "errors_total": checked.bad_total}

"""`demo`: five incidents of the past, on an embedded ledger in a folder of its own.

Nothing of the user's is touched. What is shown are the answers of the commands that are named.
"""

import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from metaledger.schemas.errors import UsageError
from metaledger.schemas.jsonform import parse_line
from metaledger.services import parts
from metaledger.services.commands.incidents import INCIDENTS, Incident
from metaledger.services.commands.project import project_to_end
from metaledger.services.output import Document, Output, Views
from metaledger.services.settings import RegistrySettings, Settings
from metaledger.services.shell import DONE, Shell, add_command
from metaledger.services.terminal import harmless
from metaledger.services.writing import append

_NAMES = ", ".join(incident.name for incident in INCIDENTS)
_WIDTH = 88


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "demo", demo)


def demo(
    shell: Shell,
    incident: Annotated[
        str | None, typer.Argument(metavar="[INCIDENT]", help=f"one alone: {_NAMES}")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="keep ledger and read model there")
    ] = None,
) -> int:
    """Five incidents: what each lost, and what the ledger still knows."""
    chosen = [one for one in INCIDENTS if incident in (None, one.name)]
    if not chosen:
        raise UsageError(f"no incident is called {harmless(incident or '')}: there are {_NAMES}")
    output = _Answers(as_json=shell.output.as_json)
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = Shell(_settings(shell.settings, place), output)
        told = [_played(own, output, one, number) for number, one in enumerate(chosen, start=1)]
    shell.output.answer({"incidents": told}, lambda: _onward(chosen, folder))
    return DONE


class _Answers(Output):
    """Keeps what commands answer, and shows it to people at once."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(as_json=as_json)
        self.latest: Document = None

    # typing.override asks for Python 3.12.
    def answer(  # type: ignore[explicit-override]
        self, document: Document, view: Callable[[], Views]
    ) -> None:
        self.latest = document
        if not self.as_json:
            super().answer(document, view)

    def tell(self, *parts: Text | str) -> None:
        """Something around the answers, for people alone."""
        if not self.as_json:
            self.say(*parts)


def _settings(settings: Settings, folder: Path) -> Settings:
    """An embedded ledger in the folder, whatever else is configured."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder / "metaledger.db"
    if ledger.exists():
        raise UsageError(f"{ledger} is there already: the demo begins in an empty folder")
    return replace(
        settings,
        ledger=f"sqlite:///{ledger}",
        read_model=f"sqlite:///{folder / 'metaledger-read.db'}",
        deployment_id="default",
        registry=RegistrySettings(),
    )


def _played(shell: Shell, output: _Answers, incident: Incident, number: int) -> Document:
    """Appends the incident's events, projects them, and asks."""
    output.tell(_head(f"{number}. {incident.title}"), *_wrapped(incident.lost), incident.link)
    text = files("metaledger.services").joinpath("demo", incident.file).read_text("utf-8")
    context = parts.producer_settings(shell.settings).context()
    append(shell.settings, [parse_line(line, context) for line in text.splitlines()])
    project_to_end(shell.settings)
    answers = []
    for question in incident.questions:
        output.tell("", *_wrapped(question.says), _typed(question.words), "")
        question.ask(shell)
        asked = f"metaledger {question.words}"
        answers.append({"says": question.says, "command": asked, "answer": output.latest})
    # What the guard judged is in the ledger, and is to be seen.
    project_to_end(shell.settings)
    return {
        "name": incident.name,
        "title": incident.title,
        "link": incident.link,
        "lost": incident.lost,
        "answers": answers,
    }


def _onward(chosen: Sequence[Incident], folder: Path | None) -> Views:
    yield _head("The same by hand")
    # Where it is installed for this demo alone, its name is on nobody's path.
    program = "metaledger"
    if shutil.which(program) is None:
        program = str(Path(sys.executable).with_name(program))
    if folder is None:
        yield f"The ledger of this demo is gone again. To keep it:  {program} demo --folder demo"
        return
    yield f"cd {folder}"
    yield f"{program} events"
    for incident in chosen:
        yield f"{program} {incident.questions[0].words}"
    yield f'{program} sql "SELECT kind, aggregate_id FROM anomalies"'


def _head(text: str) -> Text:
    return Text(f"\n{text}\n", style="bold")


def _typed(words: str) -> Text:
    return Text(f"$ metaledger {words}", style="cyan")


def _wrapped(text: str) -> Sequence[str]:
    return textwrap.wrap(text, _WIDTH)

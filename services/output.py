"""Where a command's answer goes: tables for people, JSON for programs; nothing else is on stdout.

A command makes one document of plain data and says how a person sees it; which of the two is
written is decided here. With `--json` the document is exact: one JSON document on standard output,
or with `--follow` one JSON object a line. Progress goes to standard error, and only to a terminal.
"""

import base64
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO
from uuid import UUID

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from metaledger.schemas.times import time_text

Document = Any
Views = Iterable[RenderableType]
# A pipe has no width: rows stay on one line there, so that grep and awk can read them.
_PIPE_COLUMNS = 100_000
# Below this many a second, the rate is shown with a decimal.
_WHOLE_RATE_MIN = 10


class NobodyReads(Exception):
    """Standard output was closed by its reader (`| head`): the command has nothing left to do."""


class _Console(Console):
    def on_broken_pipe(self) -> None:  # type: ignore[explicit-override]  # `override` is of 3.12
        """Leaves the decision to the command, where rich would end the process with 1."""
        raise NobodyReads


class Output:
    """Standard output in one of its two forms. Writing raises NobodyReads."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        width = None if self._stdout.isatty() else _PIPE_COLUMNS
        self._console = _Console(
            file=self._stdout, width=width, highlight=False, markup=False, emoji=False
        )

    def answer(self, document: Document, view: Callable[[], Views]) -> None:
        """The command's one answer."""
        if self.as_json:
            self._write(json_text(document) + "\n")
        else:
            self.say(*view())

    def say(self, *parts: RenderableType) -> None:
        """Something for people, at once; a plain string stands as it is, without markup."""
        with _while_somebody_reads():
            for part in parts:
                text = Text(part) if isinstance(part, str) else part
                # What is wider than the terminal is the terminal's to fold, and never cut.
                self._console.print(text, soft_wrap=isinstance(text, Text), crop=False)
            self._stdout.flush()

    def stream(
        self,
        documents: Iterable[Document],
        view: Callable[[Document], RenderableType],
        *,
        lines: bool,
    ) -> int:
        """Many answers in bounded memory: a JSON array, or with `lines` one document a line.

        Returns how many there were.
        """
        count = 0
        for count, document in enumerate(documents, 1):
            if not self.as_json:
                self.say(view(document))
            elif lines:
                self._write(json_text(document) + "\n")
            else:
                opening = "[" if count == 1 else ","
                self._write(f"{opening}\n{json_text(document)}", at_once=False)
        if self.as_json and not lines:
            self._write("\n]\n" if count else "[]\n")
        return count

    def _write(self, text: str, *, at_once: bool = True) -> None:
        with _while_somebody_reads():
            self._stdout.write(text)
            if at_once:
                # Each line whole and at once: who follows reads it as soon as it is there.
                self._stdout.flush()


@contextmanager
def _while_somebody_reads() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReads from error


def json_text(document: Document) -> str:
    """The document as JSON on one line, in ASCII, so that it is exact whatever the locale is and
    drives no terminal either; what JSON has no form for becomes text.
    """
    try:
        return json.dumps(document, default=_as_text, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(document), default=_as_text)


def _finite(value: Document) -> Document:
    """NaN and infinities, which JSON has no form for, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return value


def _as_text(value: object) -> object:
    match value:
        case datetime() if value.tzinfo is not None:
            return time_text(value)
        case bytes() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case Decimal() | UUID():
            return str(value)
        case set() | frozenset():
            return sorted(value)
        case _:
            return str(value)


Advance = Callable[[int, int | None], None]


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Progress of long work on standard error, with rate and time left, on a terminal only.

    Gives a function that takes how many are done, and how many there are in all (None: unknown).
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def advance(done: int, total: int | None) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=_rate(speed))

        yield advance


def _rate(speed: float | None) -> str:
    if not speed:
        return ""
    return f"{speed:,.0f}/s" if speed >= _WHOLE_RATE_MIN else f"{speed:.1f}/s"

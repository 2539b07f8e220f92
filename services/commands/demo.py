"""`demo`: an incident of the past, step by step on an embedded ledger in a folder of its own.

The events stand in `demo/` beside the commands' package; nothing of the user's is touched.
"""

import json
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from metaledger.schemas.errors import UsageError
from metaledger.schemas.jsonform import parse_line
from metaledger.services import parts, queries
from metaledger.services.commands.anomalies import for_people
from metaledger.services.commands.image import explained, explanation_table, image_as_of
from metaledger.services.commands.project import project_to_end
from metaledger.services.output import Document, Views
from metaledger.services.reading import reading
from metaledger.services.settings import RegistrySettings, Settings
from metaledger.services.shell import DONE, Shell, add_command
from metaledger.services.terminal import seconds_only, table, table_of
from metaledger.services.writing import append

SCENARIO = "1-purge-on-upload.jsonl"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "demo", demo)


def demo(
    shell: Shell,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="keep ledger and read model there")
    ] = None,
) -> int:
    """What the ledger knows after a service has lost metadata: Glance bug 901534, step by step."""
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        document = played(shell.settings, place)
    shell.output.answer(document, lambda: _told(document, folder))
    return DONE


def played(settings: Settings, folder: Path) -> Document:
    """Plays the incident in the folder, and gives what is to be seen after each step."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder / "metaledger.db"
    if ledger.exists():
        raise UsageError(f"{ledger} is there already: the demo begins in an empty folder")
    settings = replace(
        settings,
        ledger=f"sqlite:///{ledger}",
        read_model=f"sqlite:///{folder / 'metaledger-read.db'}",
        deployment_id="default",
        registry=RegistrySettings(),
    )
    text = files("metaledger.services").joinpath("demo", SCENARIO).read_text(encoding="utf-8")
    registered, uploaded = text.splitlines()
    image_id = json.loads(registered)["data"]["image_id"]
    before = _step(settings, registered, image_id)
    after = _step(settings, uploaded, image_id)
    with reading(settings.read_model) as connection:
        uploaded_at: datetime = after["attributes"]["data_uploaded_at"]
        return {
            "image_id": image_id,
            "registered": before,
            "uploaded": after,
            "explained": [
                explained(row)
                for row in queries.image.explanation(connection, image_id, queries.END_OF_TIME)
            ],
            "anomalies": queries.ledger.anomalies(connection),
            "as_of": image_as_of(connection, image_id, uploaded_at - timedelta(seconds=30)),
        }


def _step(settings: Settings, line: str, image_id: str) -> Document:
    """Appends an event, projects it, and gives the image as it then is."""
    append(settings, [parse_line(line, parts.producer_settings(settings).context())])
    project_to_end(settings)
    with reading(settings.read_model) as connection:
        return image_as_of(connection, image_id, None)


def _told(document: Document, folder: Path | None) -> Views:
    yield from _incident(document)
    yield from _ledger(document)
    yield from _onward(document, folder)


def _incident(document: Document) -> Views:
    yield _head("1. A snapshot of an instance is registered in Glance")
    yield "Nova registers the image, and says with its properties where it comes from."
    yield ""
    yield _properties(document["registered"])
    yield _head("2. Its data is uploaded")
    yield "The upload of the data carries properties too, and the Glance of then took them for the"
    yield "whole set: what they did not name, it purged. Nobody had asked for that."
    yield "(https://bugs.launchpad.net/glance/+bug/901534)"
    yield _head("3. What Glance shows now")
    yield "The rest is gone: the instance, the user's own keys, even that it is a snapshot. The"
    yield "tables call the old rows deleted, and say neither when nor by whom, nor what was meant."
    yield ""
    yield _properties(document["uploaded"])


def _ledger(document: Document) -> Views:
    yield _head("4. What the ledger still knows: each key, and why it is gone or there")
    yield explanation_table(document["explained"])
    yield _head("5. It was noticed when it happened")
    columns = ("occurred_at", "severity", "kind", "details")
    yield table_of(columns, map(for_people, document["anomalies"]))
    at = seconds_only(document["as_of"]["as_of"].isoformat().replace("+00:00", "Z"))
    yield _head(f"6. And it knows the image as it was, here at {at}")
    yield _properties(document["as_of"])


def _onward(document: Document, folder: Path | None) -> Views:
    yield _head("7. The same by hand")
    # Where it is installed for this demo alone, its name is on nobody's path.
    program = "metaledger"
    if shutil.which(program) is None:
        program = str(Path(sys.executable).with_name(program))
    if folder is None:
        yield f"The ledger of this demo is gone again. To keep it:  {program} demo --folder demo"
        return
    yield f"cd {folder}"
    for command in (
        "events",
        f"image explain {document['image_id']}",
        f"image show {document['image_id']} --as-of {document['as_of']['as_of'].isoformat()}",
        "anomalies",
        'sql "SELECT key, end_reason FROM image_property_history"',
    ):
        yield f"{program} {command}"


def _head(text: str) -> Text:
    return Text(f"\n{text}\n", style="bold")


def _properties(image: Document) -> Table:
    rows = ((row["key"], row["value"]) for row in image["properties"])
    return table(("property", "value"), rows)

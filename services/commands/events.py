"""`events`: the history as it was written, straight from the log."""

from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from threading import Event
from typing import Annotated, Any

import typer
from rich.text import Text

from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import ContractError, UnknownSchema
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.log import Log, LogRecord
from metaledger.services.daemon import stop_on_signal
from metaledger.services.following import log_records
from metaledger.services.output import Document, json_text
from metaledger.services.parts import codec_of, open_log
from metaledger.services.shell import DONE, Shell, add_command, say_no
from metaledger.services.terminal import cell, harmless


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "events", events)


def events(
    shell: Shell,
    image: Annotated[str | None, typer.Option(metavar="ID", help="of this image")] = None,
    instance: Annotated[str | None, typer.Option(metavar="UUID", help="of this instance")] = None,
    hypervisor: Annotated[str | None, typer.Option(metavar="ID", help="of this hypervisor")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on as events come")] = False,
) -> int:
    """The history as it was written, of all or of those named; with --follow, and what comes."""
    ids = {"image": image, "instance": instance, "hypervisor": hypervisor}
    aggregates = {f"{kind}:{given}" for kind, given in ids.items() if given is not None}
    # Without --follow a signal ends it as any command: half a document is no answer.
    with (
        stop_on_signal() if follow else nullcontext(Event()) as stop,
        open_log(shell.settings) as log,
    ):
        documents = _documents(
            log, codec_of(shell.settings), aggregates, stop.is_set, follow=follow
        )
        count = shell.output.stream(documents, line, lines=follow)
    if aggregates and not count and not follow:
        return say_no(f"the log has no event of {' or '.join(sorted(aggregates))}")
    return DONE


def document_of(record: LogRecord, codec: Codec) -> Document:
    """The record's event in the JSON form, with where it stands in the log; or why it is none."""
    place = {
        "partition": record.position.partition,
        "offset": record.position.offset,
        "recorded_at": record.recorded_at,
    }
    try:
        event = codec.decode(record.value, record.sha256)
    except (ContractError, UnknownSchema) as error:
        return {"log": place, "key": record.key, "error": str(error)}
    return {**to_json(event), "log": place}


def line(document: Document) -> Text:
    """The event on one line, for people."""
    if "error" in document:
        place = document["log"]
        where = f"partition {place['partition']} offset {place['offset']}"
        return Text(harmless(f"{where}  cannot be read: {document['error']}"), style="red")
    meta = document["meta"]
    text = Text(f"{meta['occurred_at']}  ").append(document["type"], style="bold")
    text.append("  ").append(cell(meta["aggregate"]))
    for name in ("request_id", "user_id"):
        if meta[name] is not None:
            text.append("  ").append(cell(meta[name]))
    told = cell(json_text(_told(document["data"], meta["aggregate"])))
    told.stylize("dim")
    return text.append("  ").append(told)


def _told(data: dict[str, Any], aggregate: str) -> dict[str, Any]:
    """What the data tells beside its aggregate: no nulls, nothing empty."""
    kind = aggregate.partition(":")[0]
    known = (f"{kind}_id", f"{kind}_uuid")
    told = {}
    for name, value in data.items():
        if name in known or value is None or value in ([], {}):
            continue
        told[name] = _told(value, aggregate) if name in _NESTED else value
    return told


# Records within an event; a map of the same names is the user's, and stays as it is.
_NESTED = ("change", "layout", "source")


def _documents(
    log: Log, codec: Codec, aggregates: Collection[str], stop: Callable[[], bool], *, follow: bool
) -> Iterator[Document]:
    for record in log_records(log, stop, follow=follow):
        if not aggregates or record.key in aggregates:
            yield document_of(record, codec)

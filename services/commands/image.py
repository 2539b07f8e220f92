"""`image show|history|explain`: one image, now or as of a time. `image lineage` is in `lineage`."""

from datetime import datetime
from typing import Any

import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection

from metaledger.projector.folds.image import integer
from metaledger.services import queries
from metaledger.services.commands.lineage import ImageId, lineage
from metaledger.services.output import Document, Views
from metaledger.services.queries import Row
from metaledger.services.reading import reading
from metaledger.services.shell import (
    DONE,
    AsOf,
    Shell,
    add_group,
    answer_unknown,
    parse_moment,
)
from metaledger.services.terminal import cell, table, table_of

_LANDMARKS = ("registered_at", "registration_told_at", "data_uploaded_at", "deleted_at")
_HISTORY = ("valid_from", "valid_to", "what", "key", "version", "value", "set_via", "end_reason")
# What each reason says to people.
_ENDED = {
    "overwritten": "overwritten",
    "removed": "removed on purpose",
    "purged": "purged, no decision known",
    "image_deleted": "ended with the image",
    "unseen": "found gone: nobody saw it end",
}
_SET = {
    "registered": "set at registration",
    "merge": "set",
    "purge": "set with a whole set",
    "unseen": "found there: nobody saw it being set",
}


def register(app: typer.Typer) -> None:
    """Adds the group."""
    about = "One image: its properties, every interval with its reason, why each is there, lineage."
    add_group(app, "image", about, show=show, history=history, lineage=lineage, explain=explain)


def show(shell: Shell, image_id: ImageId, as_of: AsOf = None) -> int:
    """What the image is, or was: attributes and properties."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        document = image_as_of(connection, image_id, at)
    if document is None:
        return answer_unknown(shell, f"image {image_id}", at)

    def view() -> Views:
        yield table(("attribute", "value"), document["attributes"].items())
        yield ""
        if document["properties"]:
            yield table_of(("key", "value", "since", "set_by_event"), document["properties"])
        else:
            yield "No properties."

    shell.output.answer(document, view)
    return DONE


def history(shell: Shell, image_id: ImageId, as_of: AsOf = None) -> int:
    """Every interval of its attributes and properties, with the reason of its end."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        rows = queries.image.history(connection, image_id, at or queries.END_OF_TIME)
    if not rows:
        return answer_unknown(shell, f"image {image_id}", at)

    def view() -> Views:
        yield table_of(_HISTORY, rows)

    shell.output.answer({"image_id": image_id, "as_of": at, "intervals": rows}, view)
    return DONE


def explain(shell: Shell, image_id: ImageId, as_of: AsOf = None) -> int:
    """Why each property is there or gone: by which event, request and user."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        document = image_as_of(connection, image_id, at)
        rows = queries.image.explanation(connection, image_id, at or queries.END_OF_TIME)
    if document is None:
        return answer_unknown(shell, f"image {image_id}", at)
    keys = [explained(row) for row in rows]

    def view() -> Views:
        if keys:
            yield explanation_table(keys)
        else:
            yield "It never had a property."

    shell.output.answer({"image_id": image_id, "as_of": at, "keys": keys}, view)
    return DONE


def image_as_of(connection: Connection, image_id: str, at: datetime | None) -> Document:
    """The image's document; None where it was not known."""
    row = queries.image.as_it_is(connection, image_id)
    if row is None:
        return None
    if at is None:
        attributes = {name: value for name, value in row.items() if name != "image_id"}
        properties = queries.image.live_properties(connection, image_id)
    else:
        if not queries.image.history(connection, image_id, at):
            return None
        attributes = _attributes_as_of(connection, row, at)
        properties = queries.image.properties_as_of(connection, image_id, at)
    return {
        "image_id": image_id,
        "as_of": at,
        "attributes": attributes,
        "properties": properties,
    }


def _attributes_as_of(connection: Connection, row: Row, at: datetime) -> Document:
    """As those of now, null where it is not known, and more: what only the history has."""
    told = dict[str, Any](queries.image.attributes_as_of(connection, row["image_id"], at))
    if "size" in told:
        told["size"] = integer(told["size"])  # as the fold reads it
    passed = {name: row[name] if row[name] and row[name] <= at else None for name in _LANDMARKS}
    # Its deletion ended all that was told; what it was then it is for ever.
    last = row if passed["deleted_at"] else dict.fromkeys(row)
    attributes = {**last, **told, **passed}
    del attributes["image_id"]
    return attributes


def explained(row: Row) -> Document:
    """One key's explanation: its last interval, who set it, and who ended it."""
    ended = None if row["valid_to"] is None else _event(row, "ended_by", row["end_reason"])
    return {
        "key": row["key"],
        "state": "live" if ended is None else "gone",
        "value": row["value"],
        "version": row["version"],
        "valid_from": row["valid_from"],
        "valid_to": row["valid_to"],
        "set": _event(row, "set_by", row["set_via"]),
        "ended": ended,
    }


def explanation_table(keys: list[Document]) -> Table:
    """The explanations for people; what was purged stands out."""
    return table(
        ("key", "state", "last value", "why", "by"),
        ((_key(one), one["state"], one["value"], _why(one), _by(one)) for one in keys),
    )


def _why(one: Document) -> str:
    words, how = (
        (_SET, one["set"]["how"]) if one["ended"] is None else (_ENDED, one["ended"]["how"])
    )
    return words.get(how, str(how))


def _by(one: Document) -> str:
    event = one["ended"] or one["set"]
    named = [event["event_type"] or f"event {event['event_id']}"]
    named += [
        f"{name} {event[field]}"
        for name, field in (("request", "request_id"), ("user", "user_id"))
        if event[field]
    ]
    return ", ".join(named)


def _key(one: Document) -> Text:
    text = cell(one["key"])
    if one["ended"] is not None:
        text.stylize("red" if one["ended"]["how"] == "purged" else "dim")
    return text


def _event(row: Row, role: str, how: str | None) -> Document:
    return {
        "how": how,
        "event_id": row[f"{role}_event"],
        "event_type": row[f"{role}_type"],
        "request_id": row[f"{role}_request"],
        "user_id": row[f"{role}_user"],
        "service": row[f"{role}_service"],
    }

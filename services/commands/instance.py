"""`instance show|metadata|disks`: one instance, now or as of a time."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from metaledger.services import queries
from metaledger.services.output import Document, Views, json_text
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
from metaledger.services.terminal import harmless, table, table_of

InstanceUuid = Annotated[str, typer.Argument(metavar="UUID", help="the instance's uuid")]
_LANDMARKS = ("booted_at", "boot_told_at", "deleted_at")
_METADATA = ("key", "authoritative", "stored", "drifted", "in_use")
_DISKS = ("disk", "state", "backend", "format", "size_bytes")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    about = "One instance: what it runs and where, its metadata, its disks."
    add_group(app, "instance", about, show=show, metadata=metadata, disks=disks)


def show(shell: Shell, instance_uuid: InstanceUuid, as_of: AsOf = None) -> int:
    """What the instance is, or was: image, flavor, place."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        row = _known(connection, instance_uuid, at)
        attributes = row and _attributes(connection, row, at)
    if attributes is None:
        return answer_unknown(shell, f"instance {instance_uuid}", at)

    def view() -> Views:
        yield table(("attribute", "value"), attributes.items())

    document = {"instance_uuid": instance_uuid, "as_of": at, "attributes": attributes}
    shell.output.answer(document, view)
    return DONE


def metadata(shell: Shell, instance_uuid: InstanceUuid, as_of: AsOf = None) -> int:
    """Its image metadata: what it has by right, what its service stored, what operations use."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        row = _known(connection, instance_uuid, at)
        document = row and _metadata(connection, row, at)
    if document is None:
        return answer_unknown(shell, f"instance {instance_uuid}", at)

    def view() -> Views:
        if document["rescue_image_ref"] is not None:
            image = harmless(document["rescue_image_ref"])
            yield f"Rescued with image {image}: its metadata is in use."
            yield ""
        if document["metadata"]:
            yield table_of(_METADATA, document["metadata"])
        else:
            yield "No image metadata."
        yield ""
        if document["system_metadata"]:
            columns = ("key", "value", "since", "set_by_event")
            yield table_of(columns, document["system_metadata"], title="Stored")
        else:
            yield "Nothing is stored."

    shell.output.answer(document, view)
    return DONE


def disks(shell: Shell, instance_uuid: InstanceUuid, as_of: AsOf = None) -> int:
    """Its disks: their state, their layout, and the driver_info that is made from it."""
    at = parse_moment(as_of, "--as-of")
    with reading(shell.settings.read_model) as connection:
        row = _known(connection, instance_uuid, at)
        if at is None:
            found = queries.instance.disks(connection, instance_uuid)
        else:
            found = queries.instance.disks_as_of(connection, instance_uuid, at)
    if row is None:
        return answer_unknown(shell, f"instance {instance_uuid}", at)

    def view() -> Views:
        if not found:
            yield "No disk is known."
            return
        columns = (*_DISKS, "source", "recorded_by", "last_error", "driver_info")
        yield table_of(columns, map(_for_people, found))

    document = {"instance_uuid": instance_uuid, "as_of": at, "disks": found}
    shell.output.answer(document, view)
    return DONE


def _known(connection: Connection, instance_uuid: str, at: datetime | None) -> Row | None:
    """The instance as it is now; None where it was not known then."""
    row = queries.instance.as_it_is(connection, instance_uuid)
    if row is None or at is None:
        return row
    since = queries.instance.first_told(connection, instance_uuid)
    return row if since is not None and since <= at else None


def _attributes(connection: Connection, row: Row, at: datetime | None) -> Document:
    if at is None:
        return {name: value for name, value in row.items() if name != "instance_uuid"}
    instance_uuid = row["instance_uuid"]
    attributes = queries.instance.attributes_as_of(connection, instance_uuid, "attribute", at)
    if _is_deleted(row, at):
        attributes.pop("rescue_image_ref", None)
    place = queries.instance.place_as_of(connection, instance_uuid, at)
    landmarks = {name: row[name] for name in _LANDMARKS if row[name] and row[name] <= at}
    return {**attributes, **place, **landmarks}


def _metadata(connection: Connection, row: Row, at: datetime | None) -> Document:
    moment = at or queries.END_OF_TIME
    instance_uuid = row["instance_uuid"]
    told, rescue, attributes = (
        queries.instance.attributes_as_of(connection, instance_uuid, kind, moment)
        for kind in ("authoritative", "rescue", "attribute")
    )
    rescue_image = None if _is_deleted(row, moment) else attributes.get("rescue_image_ref")
    stored = queries.instance.stored_as_of(connection, instance_uuid, moment)
    booted = row["boot_told_at"] is not None and row["boot_told_at"] <= moment
    is_known = row["authoritative_by_event"] is not None if at is None else bool(told) or booted
    compared = _compared(
        told,
        {one["key"]: one["value"] for one in stored if one["key"].startswith("image_")},
        told if rescue_image is None else rescue,
        is_known=is_known,
    )
    return {
        "instance_uuid": instance_uuid,
        "as_of": at,
        "rescue_image_ref": rescue_image,
        "metadata": list(compared),
        "system_metadata": stored,
    }


def _compared(
    told: dict[str, str | None],
    stored: dict[str, str | None],
    in_use: dict[str, str | None],
    *,
    is_known: bool,
) -> Iterator[Row]:
    """As the view `instance_image_metadata`, with what operations use."""
    missing = object()
    for key in sorted({*told, *stored, *in_use}):
        yield {
            "key": key,
            "authoritative": told.get(key),
            "stored": stored.get(key),
            "drifted": is_known and told.get(key, missing) != stored.get(key, missing),
            "in_use": in_use.get(key),
        }


def _is_deleted(row: Row, at: datetime) -> bool:
    return row["deleted_at"] is not None and row["deleted_at"] <= at


def _for_people(disk: Row) -> Row:
    """With its source in one column."""
    image, driver_info = disk["source_image_id"], disk["driver_info"]
    return {
        **disk,
        "source": disk["source_function"] if image is None else image,
        "driver_info": None if driver_info is None else json_text(driver_info),
    }

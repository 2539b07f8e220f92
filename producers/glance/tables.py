"""Glance's tables, as far as the ledger reads them, and the one way to read an image.

Rules: only reads, and all of them locking (`FOR UPDATE`; SQLite has one writer and needs none):
under MariaDB's repeatable read a plain read shows what was true when the transaction began, not
what it is about to change. The caller holds the images' counters already, so that locks are always
taken in one order: counter, image, properties, tags, locations. A location's URL may hold
credentials, so no query here names that column.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    select,
)

from metaledger.producers.glance.rows import ATTRIBUTES, ImageState

IDS_MAX = 500  # in one IN list; SQLite before 3.32 took 999 parameters

_METADATA = MetaData()


def _child(name: str, *columns: Column[Any]) -> Table:
    return Table(
        name,
        _METADATA,
        Column("id", Integer, primary_key=True),
        Column("image_id", String(36)),
        *columns,
        Column("deleted", Boolean),
    )


IMAGES = Table(
    "images",
    _METADATA,
    Column("id", String(36), primary_key=True),
    *(Column(name, String(255)) for name in ATTRIBUTES[:6]),
    *(Column(name, Integer) for name in ("min_disk", "min_ram", "size", "virtual_size")),
    *(Column(name, Boolean) for name in ("protected", "os_hidden", "deleted")),
    *(Column(name, String(255)) for name in ("checksum", "os_hash_algo", "os_hash_value")),
)
PROPERTIES = _child("image_properties", Column("name", String(255)), Column("value", Text))
TAGS = _child("image_tags", Column("value", String(255)))
LOCATIONS = _child("image_locations")


@dataclass(frozen=True, slots=True)
class Reading:
    """Images as they are now, those that are there, and the owners of all their rows."""

    states: dict[str, ImageState] = field(default_factory=dict)
    owners: dict[tuple[str, Any], str] = field(default_factory=dict)


def read_images(connection: Connection, image_ids: Sequence[str]) -> Reading:
    """The images with these ids, read and locked in the order of their ids."""
    reading = Reading()
    ordered = sorted(set(image_ids))
    for start in range(0, len(ordered), IDS_MAX):
        _read(connection, ordered[start : start + IDS_MAX], reading)
    return reading


def _read(connection: Connection, image_ids: Sequence[str], reading: Reading) -> None:
    images = select(IMAGES).where(IMAGES.c.id.in_(image_ids)).order_by(IMAGES.c.id)
    rows = connection.execute(images.with_for_update()).mappings().all()
    properties: dict[str, dict[str, str | None]] = {row["id"]: {} for row in rows}
    tags: dict[str, list[str]] = {row["id"]: [] for row in rows}
    for child in _live(connection, PROPERTIES, image_ids, reading):
        properties[child["image_id"]][child["name"]] = child["value"]
    for child in _live(connection, TAGS, image_ids, reading):
        tags[child["image_id"]].append(child["value"])
    locations = Counter(
        child["image_id"] for child in _live(connection, LOCATIONS, image_ids, reading)
    )
    for row in rows:
        values = dict(row)
        image_id = values.pop("id")
        reading.states[image_id] = ImageState(
            image_id=image_id,
            **values,
            location_count=locations[image_id],
            # Two requests that race leave a tag in two live rows.
            tags=tuple(dict.fromkeys(tags[image_id])),
            properties=properties[image_id],
        )


def _live(
    connection: Connection, table: Table, image_ids: Sequence[str], reading: Reading
) -> Iterator[RowMapping]:
    """The live rows of a child table in order; notes the owner of the others too."""
    query = select(table).where(table.c.image_id.in_(image_ids)).order_by(table.c.id)
    for row in connection.execute(query.with_for_update()).mappings():
        reading.owners[table.name, row["id"]] = row["image_id"]
        if not row["deleted"]:
            yield row

"""Glance's tables, as far as the ledger reads them, and how a hook reads an image.

Rules: only reads, in one statement for all four tables (`watching/union`). A location's URL may
hold credentials, so no query names that column.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from metaledger.producers.glance.rows import ATTRIBUTES, ImageState
from metaledger.producers.watching.service import Reading
from metaledger.producers.watching.union import Main, MainRow, Part, PartRow, Union

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
    Column("deleted_at", DateTime),
)
PROPERTIES = _child("image_properties", Column("name", String(255)), Column("value", Text))
TAGS = _child("image_tags", Column("value", String(255)), Column("deleted_at", DateTime))
LOCATIONS = _child("image_locations")


# What an image's own row says of its attributes.
COLUMNS = ATTRIBUTES[:-1]


def read_images(connection: Connection, image_ids: Sequence[str]) -> Reading[ImageState]:
    """The images with these ids, by aggregate."""
    return _read(_UNION.rows(connection, image_ids))


def _read(rows: Iterable[MainRow | PartRow]) -> Reading[ImageState]:
    reading: Reading[ImageState] = Reading()
    images: list[MainRow] = []
    live: defaultdict[tuple[str, str], list[PartRow]] = defaultdict(list)
    for row in rows:
        if isinstance(row, MainRow):
            images.append(row)
            continue
        reading.owners[row.table, row.row_id] = f"image:{row.id}"
        if not row.deleted:
            live[row.table, row.id].append(row)
    for image in images:
        parts = (sorted(live[it.name, image.id], key=_ROW_ID) for it in _CHILDREN)
        reading.states[f"image:{image.id}"] = _state(image, *parts)
    return reading


def _state(
    image: MainRow, properties: list[PartRow], tags: list[PartRow], locations: list[PartRow]
) -> ImageState:
    held = dict(image.columns)
    held |= {name: bool(held[name]) for name in _BOOLEANS if held[name] is not None}
    return ImageState(
        image_id=image.id,
        deleted=bool(image.deleted),
        location_count=len(locations),
        # Two requests that race leave a tag in two live rows.
        tags=tuple(dict.fromkeys(it.value for it in tags if it.value is not None)),
        properties={it.name: it.value for it in properties},
        **held,
    )


_ROW_ID = attrgetter("row_id")
_CHILDREN = (PROPERTIES, TAGS, LOCATIONS)
# MariaDB and SQLite say 0 and 1.
_BOOLEANS = ("protected", "os_hidden")
_UNION = Union(
    Main(table=IMAGES, key=IMAGES.c.id, read={name: IMAGES.c[name] for name in COLUMNS}),
    *(
        Part(
            table=it,
            key=it.c.image_id,
            name=it.c.get("name"),
            value=it.c.get("value"),
        )
        for it in _CHILDREN
    ),
)

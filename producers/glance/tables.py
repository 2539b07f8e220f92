"""Glance's tables, as far as the ledger reads them, and the one way to read an image.

Rules: only reads, in one statement for all four tables, for each is a round trip inside somebody's
request. The caller holds the images' counters already, so nobody else who records changes these
images. On MariaDB the reads lock (`FOR UPDATE`), in one order: image, properties, tags, locations.
Under its repeatable read a plain read shows what was true when the transaction began, not what it
is about to change. Elsewhere they need no lock: PostgreSQL reads what is committed, and where it is
asked for a snapshot the counter's lock fails if the counter moved after that; SQLite has one
writer. A location's URL may hold credentials, so no query here names that column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    CompoundSelect,
    Connection,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    bindparam,
    literal_column,
    null,
    select,
    union_all,
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
    """The images with these ids, locked in the order of their ids where reading locks."""
    reading = Reading()
    ordered = sorted(set(image_ids))
    read = _READ_LOCKING if connection.dialect.name in _SNAPSHOTS_ARE_STALE else _READ
    for start in range(0, len(ordered), IDS_MAX):
        rows = connection.execute(read, {"image_ids": ordered[start : start + IDS_MAX]}).all()
        _gather(reading, rows)
    return reading


def _gather(reading: Reading, rows: Iterable[Row[Any]]) -> None:
    images = [row for row in rows if row.row_id is None]
    children = sorted((row for row in rows if row.row_id is not None), key=lambda row: row.row_id)
    live: dict[tuple[str, str], list[Row[Any]]] = {}
    for row in children:
        reading.owners[row.source, row.row_id] = row.image_id
        if not row.deleted:
            live.setdefault((row.source, row.image_id), []).append(row)
    for row in images:
        image_id = row.image_id
        properties, tags, locations = (live.get((it.name, image_id), ()) for it in _CHILDREN)
        reading.states[image_id] = ImageState(
            image_id=image_id,
            deleted=row.deleted,
            location_count=len(locations),
            # Two requests that race leave a tag in two live rows.
            tags=tuple(dict.fromkeys(tag.value for tag in tags)),
            properties={it.name: it.value for it in properties},
            **{name: getattr(row, name) for name in _IMAGES_OWN},
        )


_CHILDREN = (PROPERTIES, TAGS, LOCATIONS)
_IMAGES_OWN = ATTRIBUTES[:-1]
_SNAPSHOTS_ARE_STALE = frozenset({"mysql", "mariadb"})


def _select(table: Table) -> Select[Any]:
    """A table's rows, in columns that are the same for all four; what a table has not is null."""
    image_id, row_id = (table.c.id, null()) if table is IMAGES else (table.c.image_id, table.c.id)
    return select(
        literal_column(f"'{table.name}'").label("source"),
        row_id.label("row_id"),
        image_id.label("image_id"),
        *(table.c.get(name, null()).label(name) for name in ("value", "deleted", *_IMAGES_OWN)),
    ).where(image_id.in_(bindparam("image_ids", expanding=True)))


# The images come first, and the properties second: so PostgreSQL finds a type for each column.
_SELECTS = [_select(table) for table in (IMAGES, *_CHILDREN)]
_READ = union_all(*_SELECTS)
# In brackets, or a lock would stand before UNION.
_READ_LOCKING: CompoundSelect[Any] = union_all(
    *(it.with_for_update().self_group() for it in _SELECTS)
)

"""Glance's tables, as far as the ledger reads them, and the one way to read an image.

Rules: only reads, in one statement for all four tables, for each is a round trip inside somebody's
request. The caller holds the images' counters already, so nobody else who records changes these
images. On MariaDB the reads lock (`FOR UPDATE`), in one order: image, properties, tags, locations.
Under its repeatable read a plain read shows what was true when the transaction began, not what it
is about to change. Elsewhere they need no lock: PostgreSQL reads what is committed, and where it is
asked for a snapshot the counter's lock fails if the counter moved after that; SQLite has one
writer. A location's URL may hold credentials, so no query here names that column.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from metaledger.producers.glance.rows import ATTRIBUTES, ImageState

IDS_MAX = 500  # in one IN list; SQLite before 3.32 took 999 parameters

# From the column that names the image to a condition.
Which = Callable[[ColumnElement[Any]], ColumnElement[bool]]

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
    # All rows at once, below: the driver has them, and one by one they take SQLAlchemy longer.
    reading = Reading()
    ordered = sorted(set(image_ids))
    union = _UNIONS[connection.dialect.name]
    if len(ordered) == 1:
        _gather(reading, connection.execute(union.of_one, {"image_id": ordered[0]}).all())
        return reading
    for start in range(0, len(ordered), IDS_MAX):
        named = {"image_ids": ordered[start : start + IDS_MAX]}
        _gather(reading, connection.execute(union.of_many, named).all())
    return reading


def _gather(reading: Reading, rows: Iterable[Any]) -> None:
    images: dict[str, tuple[str, bool]] = {}
    live: defaultdict[tuple[str, str], list[tuple[int, str, str | None]]] = defaultdict(list)
    for source, row_id, image_id, name, value, deleted in rows:
        if row_id is None:
            images[image_id] = value, deleted
            continue
        reading.owners[source, row_id] = image_id
        if not deleted:
            live[source, image_id].append((row_id, name, value))
    for image_id, (columns, deleted) in images.items():
        properties, tags, locations = (sorted(live[it.name, image_id]) for it in _CHILDREN)
        held = dict(zip(_COLUMNS, json.loads(columns), strict=True))
        held |= {name: bool(held[name]) for name in _BOOLEANS if held[name] is not None}
        reading.states[image_id] = ImageState(
            image_id=image_id,
            deleted=deleted,
            location_count=len(locations),
            # Two requests that race leave a tag in two live rows.
            tags=tuple(dict.fromkeys(value for _, _, value in tags if value is not None)),
            properties={name: value for _, name, value in properties},
            **held,
        )


_CHILDREN = (PROPERTIES, TAGS, LOCATIONS)
_COLUMNS = ATTRIBUTES[:-1]
# MariaDB and SQLite say 0 and 1.
_BOOLEANS = ("protected", "os_hidden")
_SNAPSHOTS_ARE_STALE = frozenset({"mysql", "mariadb"})


@dataclass(frozen=True, slots=True)
class _Union:
    """A dialect's statement for many images, and the one that a request nearly always needs: it
    costs less, for SQLAlchemy writes an IN list anew each time.
    """

    of_one: CompoundSelect[Any]
    of_many: CompoundSelect[Any]


def _select(table: Table, dialect: str, which: Which) -> Select[Any]:
    """A table's rows as (source, row id, image id, name, value, deleted), null where it has none.

    An image's columns are one value, a JSON array, for PyMySQL reads each column of each row in
    Python: twenty columns would take it longer than the round trip.
    """
    columns: list[ColumnElement[Any]]
    if table is IMAGES:
        image_id: Column[Any] = table.c.id
        build = func.json_build_array if dialect == "postgresql" else func.json_array
        # PostgreSQL alone has a type for JSON; MariaDB's CAST would choose a character set.
        array = build(*(table.c[name] for name in _COLUMNS))
        columns = [null(), null(), cast(array, Text) if dialect == "postgresql" else array]
    else:
        image_id = table.c.image_id
        columns = [table.c[name] if name in table.c else null() for name in ("id", "name", "value")]
    row_id, name, value = columns
    return select(
        *(literal_column(f"'{table.name}'"), row_id, image_id, name, value, table.c.deleted)
    ).where(which(image_id))


def _union(dialect: str, which: Which) -> CompoundSelect[Any]:
    # The images come first, and the properties second: so PostgreSQL finds a type for each column.
    selects = [_select(table, dialect, which) for table in (IMAGES, *_CHILDREN)]
    if dialect not in _SNAPSHOTS_ARE_STALE:
        return union_all(*selects)
    # In brackets, or a lock would stand before UNION.
    return union_all(*(it.with_for_update().self_group() for it in selects))


_UNIONS = {
    name: _Union(
        of_one=_union(name, lambda image_id: image_id == bindparam("image_id")),
        of_many=_union(name, lambda image_id: image_id.in_(bindparam("image_ids", expanding=True))),
    )
    for name in ("postgresql", "sqlite", *_SNAPSHOTS_ARE_STALE)
}

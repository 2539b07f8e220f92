"""Glance's images as cold start and reconciliation read them, deleted ones too.

What Glance leaves of a deleted image, as it was seen (33.0.0) and read in its code:

- Its deletion is two transactions. The first sets the status `deleted` and purges the properties,
  and by that stamps `deleted_at` anew on every property's row of the image, on those too that were
  removed years before. The second marks the image itself as deleted, some milliseconds later.
- So nothing tells the properties that it had from those that it had once. A deleted image is told
  with all of them: what is left out is lost for good, and what is too much is old, and true.
- Tags are marked in the second transaction, at the same time as the image; those that were removed
  before keep their own time. So the image's last tags are known (on MariaDB, whose times are whole
  seconds, with those that were removed in the second of the deletion).
- Its locations are marked before both, one by one: how many it had is not told.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    String,
    bindparam,
    cast,
    func,
    or_,
    select,
)

from metaledger.producers.glance.rows import ImageState, attributes_of, imported, reconciled
from metaledger.producers.glance.tables import COLUMNS, IMAGES, LOCATIONS, PROPERTIES, TAGS
from metaledger.producers.source import Kind, Standing, What
from metaledger.producers.unnested import in_array
from metaledger.producers.watching.union import IDS_MAX
from metaledger.schemas.image import ImageDeleted, ImageEvent
from metaledger.schemas.representable import representable_map


def read_all(connection: Connection, image_ids: Sequence[str]) -> dict[str, ImageState]:
    """The images with these ids, by aggregate; of deleted ones what is left, as they last were.

    It locks nothing, so its connection has to read what is committed.
    """
    states: dict[str, ImageState] = {}
    for start in range(0, len(image_ids), IDS_MAX):
        states |= _as_they_are(connection, image_ids[start : start + IDS_MAX])
    gone = [state for state in states.values() if state.gone]
    for start in range(0, len(gone), IDS_MAX):
        states |= _as_they_were(connection, gone[start : start + IDS_MAX])
    return states


def standing(state: ImageState) -> Standing:
    """What can be compared with the ledger, which has no location but their number."""
    if state.gone:
        return Standing(deleted=True)
    attributes, _ = representable_map(attributes_of(state))
    properties, _ = representable_map(state.properties)
    tags, _ = representable_map(dict.fromkeys(state.tags))
    return Standing(
        values={
            **{("attribute", name): value for name, value in attributes.items()},
            **{("tag", name): name for name in tags},
            **{("property", name): value for name, value in properties.items()},
        }
    )


def _reconciled(
    state: ImageState, _differs: Collection[What], now: datetime
) -> Sequence[ImageEvent]:
    return [reconciled(state, occurred_at=now)]


def _purged(image_id: str, now: datetime) -> Sequence[ImageEvent]:
    return [ImageDeleted(image_id=image_id, deleted_at=now)]


def _as_they_are(connection: Connection, image_ids: Sequence[str]) -> dict[str, ImageState]:
    """What is live of them, by a plain statement a table: hundreds at once, where the one for all
    tables that a hook reads by (`tables`) costs more than the round trips that it spares.
    """
    named, statements = {"image_ids": image_ids}, _statements(connection)
    properties: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for image_id, name, value in connection.execute(statements.live_properties, named).all():
        properties[image_id][name] = value
    tags: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for image_id, value in connection.execute(statements.live_tags, named).all():
        tags[image_id][value] = None
    counts = {row[0]: row[1] for row in connection.execute(statements.live_locations, named).all()}
    return {
        f"image:{image_id}": ImageState(
            image_id=image_id,
            deleted=bool(deleted),
            location_count=counts.get(image_id, 0),
            tags=tuple(tags[image_id]),
            properties=properties[image_id],
            **dict(zip(COLUMNS, columns, strict=True)),
        )
        for image_id, deleted, *columns in connection.execute(statements.images, named).all()
    }


def _as_they_were(connection: Connection, gone: Sequence[ImageState]) -> dict[str, ImageState]:
    named = {"image_ids": [state.image_id for state in gone]}
    statements = _statements(connection)
    times = {row.id: row.time for row in connection.execute(statements.times, named)}
    properties: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for image_id, name, value in connection.execute(statements.properties, named):
        properties[image_id][name] = value
    tags: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for image_id, value in connection.execute(statements.last_tags, named):
        tags[image_id][value] = None
    return {
        f"image:{state.image_id}": replace(
            state,
            deleted_at=_time(times.get(state.image_id)),
            location_count=0,
            properties=properties[state.image_id],
            tags=tuple(tags[state.image_id]),
        )
        for state in gone
    }


def _time(text: str | None) -> datetime | None:
    """A time of Glance's, which is UTC and does not say so; None where it is none."""
    try:
        return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        # MariaDB's 0000-00-00, or whatever somebody wrote into a SQLite file.
        return None


# As text: a driver gives what is no time in forms of its own, or fails.
_TIME = cast(IMAGES.c.deleted_at, String(40)).label("time")


class _Statements:
    """What reads images whose ids are in `image_ids`; `among` says how, one way a database."""

    def __init__(self, among: Callable[[Column[Any]], ColumnElement[bool]]) -> None:
        columns = [IMAGES.c[name] for name in COLUMNS]
        self.images = select(IMAGES.c.id, IMAGES.c.deleted, *columns).where(among(IMAGES.c.id))
        self.properties = (
            select(PROPERTIES.c.image_id, PROPERTIES.c.name, PROPERTIES.c.value)
            .where(among(PROPERTIES.c.image_id))
            .order_by(PROPERTIES.c.id)
        )
        self.live_properties = self.properties.where(PROPERTIES.c.deleted.is_(False))
        tags = (
            select(TAGS.c.image_id, TAGS.c.value)
            .where(among(TAGS.c.image_id), TAGS.c.value.is_not(None))
            .order_by(TAGS.c.id)
        )
        self.live_tags = tags.where(TAGS.c.deleted.is_(False))
        self.last_tags = tags.join_from(TAGS, IMAGES, TAGS.c.image_id == IMAGES.c.id).where(
            or_(TAGS.c.deleted.is_(False), TAGS.c.deleted_at == IMAGES.c.deleted_at)
        )
        self.live_locations = (
            select(LOCATIONS.c.image_id, func.count())
            .where(among(LOCATIONS.c.image_id), LOCATIONS.c.deleted.is_(False))
            .group_by(LOCATIONS.c.image_id)
        )
        self.times = select(IMAGES.c.id, _TIME).where(among(IMAGES.c.id))


_LISTED = _Statements(lambda column: column.in_(bindparam("image_ids", expanding=True)))
# A list has SQLAlchemy, the driver and the server handle each id for itself.
_IN_ARRAY = _Statements(lambda column: in_array(column, "image_ids"))


def _statements(connection: Connection) -> _Statements:
    return _IN_ARRAY if connection.dialect.name == "postgresql" else _LISTED


KINDS = (
    Kind(
        name="image",
        tables=[table.name for table in (IMAGES, PROPERTIES, TAGS, LOCATIONS)],
        key=IMAGES.c.id,
        undated=IMAGES.c.deleted.is_(True) & IMAGES.c.deleted_at.is_(None),
        read=read_all,
        imported=imported,
        standing=standing,
        reconciled=_reconciled,
        purged=_purged,
    ),
)

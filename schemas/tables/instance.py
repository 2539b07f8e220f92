"""The tables and views of instances (READ_MODEL.md), written by the projection of the same name;
those of their disks stand in `disk`. The two histories have the form of `intervals`.
"""

from typing import Any

from sqlalchemy import (
    Column,
    Index,
    Integer,
    Select,
    Table,
    Text,
    and_,
    exists,
    func,
    null,
    or_,
    select,
    union_all,
)

from metaledger.schemas.tables.base import CHANGES_IN_PLACE, METADATA, UtcTime, View
from metaledger.schemas.tables.intervals import interval_table

_UUID = "The instance's uuid."

instances = Table(
    "instances",
    METADATA,
    Column("instance_uuid", Text, primary_key=True, comment=_UUID),
    Column("image_ref", Text, comment="The image that it runs, as last known; null: none."),
    Column("flavor", Text, comment="Its flavor, as last known."),
    Column("hypervisor_id", Text, comment="The hypervisor that it is on, as last known."),
    Column("booted_at", UtcTime, comment="When it was created; null: nobody saw it."),
    Column(
        "boot_told_at",
        UtcTime,
        comment="Since when its boot is known: as booted_at, or, where nobody saw it boot, when it "
        "was met or imported as it was then; null: nobody told of any boot.",
    ),
    Column("rescue_image_ref", Text, comment="What it runs meanwhile; null: not rescued."),
    Column("deleted_at", UtcTime, comment="When it was deleted, as its service said; null: live."),
    Column(
        "authoritative_by_event",
        Text,
        comment="The boot or rebuild that its authoritative metadata is of; null: not known, or "
        "deleted.",
    ),
    # What runs there.
    Index(None, "hypervisor_id"),
    # What runs it.
    Index(None, "image_ref"),
    comment="Every instance that the ledger has heard of, deleted ones too.",
    info=CHANGES_IN_PLACE,
)

instance_attribute_history = interval_table(
    "instance_attribute_history",
    [
        Column("instance_uuid", Text, primary_key=True, comment=_UUID),
        Column(
            "kind",
            Text,
            primary_key=True,
            comment="attribute (image_ref, flavor, rescue_image_ref), authoritative (the image "
            "metadata that it booted with or was rebuilt with), rescue (the image metadata that "
            "operations use while it is rescued), or disk (the state of the disk of that name).",
        ),
    ],
    key="attribute",
    ways="booted, rebuilt, rolled_back, rescued, told (a disk's state), or unseen: found set, "
    "nobody saw how.",
    ends="overwritten, removed, instance_deleted, or unseen; null: live.",
    comment="What is known of an instance beside its stored metadata: one row an interval.",
)

instance_metadata_history = interval_table(
    "instance_metadata_history",
    [Column("instance_uuid", Text, primary_key=True, comment=_UUID)],
    key="key",
    ways="booted, saved, rebuilt, or unseen: found set, nobody saw how.",
    ends="overwritten, removed, instance_deleted, or unseen; null: live.",
    comment="The system metadata that its service stored: one row a key and interval.",
)

instance_locations = Table(
    "instance_locations",
    METADATA,
    Column("instance_uuid", Text, primary_key=True, comment=_UUID),
    Column(
        "version",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="1, 2, 3 … for each instance.",
    ),
    Column("hypervisor_id", Text, comment="The hypervisor; null: known by its host name alone."),
    Column("host", Text, comment="The hypervisor's host name when the instance came there."),
    Column("valid_from", UtcTime, nullable=False, comment="Since when it was there."),
    Column("valid_to", UtcTime, comment="Until when, this time excluded; null: it is there."),
    Column(
        "cause",
        Text,
        nullable=False,
        comment="Why it came: BOOTED, SCHEDULED, EVACUATION, LIVE_MIGRATION, COLD_MIGRATION, "
        "RESIZE, UNSHELVE, or UNSEEN: found there, nobody saw it come.",
    ),
    Column("set_by_event", Text, nullable=False, comment="The event that told that it came."),
    Column("ended_by_event", Text, comment="The event that ended it; null: it is there."),
    Index(None, "hypervisor_id"),
    comment="Where an instance ever was: one row a stay.",
)


def _live(kind: str, name: str) -> Any:  # noqa: ANN401 (a subquery with columns of its own)
    columns = instance_attribute_history.c
    return (
        select(columns.instance_uuid, columns.key, columns.value)
        .where(columns.kind == kind, columns.valid_to.is_(None))
        .subquery(name)
    )


def _image_metadata() -> Select[Any]:
    """Both sides, one after the other, so that either database looks up one instance in each."""
    told = _live("authoritative", "told")
    columns = instance_metadata_history.c
    stored = (
        select(columns.instance_uuid, columns.key, columns.value)
        # LIKE would not tell small letters from large ones in SQLite.
        .where(columns.valid_to.is_(None), func.substr(columns.key, 1, 6) == "image_")
        .subquery("stored")
    )
    same = and_(told.c.instance_uuid == stored.c.instance_uuid, told.c.key == stored.c.key)
    differs = or_(stored.c.key.is_(None), told.c.value.is_distinct_from(stored.c.value))
    known = exists().where(
        instances.c.instance_uuid == stored.c.instance_uuid,
        instances.c.authoritative_by_event.is_not(None),
    )
    both = union_all(
        select(
            told.c.instance_uuid,
            told.c.key,
            told.c.value.label("authoritative"),
            stored.c.value.label("stored"),
            differs.label("drifted"),
        ).select_from(told.outerjoin(stored, same)),
        select(
            stored.c.instance_uuid,
            stored.c.key,
            null().label("authoritative"),
            stored.c.value.label("stored"),
            known.label("drifted"),
        ).where(~exists().where(same)),
    ).subquery("both")
    return select(both)


instance_image_metadata = View(
    name="instance_image_metadata",
    comment="The image metadata that instances have by right, and what their service stored.",
    columns={
        "instance_uuid": _UUID,
        "key": "The key, which begins with image_.",
        "authoritative": "What it booted with or was rebuilt with; null: null, or no such key.",
        "stored": "What its service stored; null: null, or no such key.",
        "drifted": "Whether the two differ; never where nobody saw it boot or be rebuilt.",
    },
    select=_image_metadata(),
)

_rescue = instance_attribute_history.c

instance_rescue_metadata = View(
    name="instance_rescue_metadata",
    comment="The image metadata that operations use in place of the authoritative one: of "
    "instances that are rescued now.",
    columns={
        "instance_uuid": _UUID,
        "key": "The key.",
        "value": "Its value; null is a value too.",
        "since": "Since when it is used.",
        "set_by_event": "The event that set it.",
    },
    select=select(
        _rescue.instance_uuid,
        _rescue.key,
        _rescue.value,
        _rescue.valid_from.label("since"),
        _rescue.set_by_event,
    )
    .join(instances, instances.c.instance_uuid == _rescue.instance_uuid)
    .where(_rescue.kind == "rescue", _rescue.valid_to.is_(None), instances.c.deleted_at.is_(None)),
)

TABLES: tuple[Table, ...] = (
    instances,
    instance_attribute_history,
    instance_metadata_history,
    instance_locations,
)
VIEWS: tuple[View, ...] = (instance_image_metadata, instance_rescue_metadata)

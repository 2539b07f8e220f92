"""The tables and views of images (READ_MODEL.md), written by the projection of the same name.

The two histories have the form of `intervals`.
"""

from sqlalchemy import BigInteger, Column, Table, Text, select

from metaledger.schemas.tables.base import CHANGES_IN_PLACE, METADATA, UtcTime, View
from metaledger.schemas.tables.intervals import interval_table

images = Table(
    "images",
    METADATA,
    Column("image_id", Text, primary_key=True, comment="The image's id."),
    Column("name", Text, comment="Its name, as last known."),
    Column("status", Text, comment="Its status, as last known; null: nobody told."),
    Column("owner", Text, comment="The project that owns it, as last known."),
    Column("visibility", Text, comment="Who may see it, as last known."),
    Column("disk_format", Text, comment="The format of its disk, as last known."),
    Column("container_format", Text, comment="The format of its container, as last known."),
    Column("size", BigInteger, comment="The size of its data in bytes; null: no data yet."),
    Column("checksum", Text, comment="The checksum of its data; null: none was told."),
    Column(
        "image_type",
        Text,
        nullable=False,
        comment="snapshot: it was uploaded as one or said so once; else image.",
    ),
    Column("registered_at", UtcTime, comment="When it was registered; null: nobody saw it."),
    Column(
        "registration_told_at",
        UtcTime,
        comment="Since when its registration is known: as registered_at, or, where it was found "
        "there first, when it was met or imported; null: nobody told of any registration.",
    ),
    Column(
        "data_uploaded_at", UtcTime, comment="When its data was last uploaded; null: nobody saw it."
    ),
    Column("deleted_at", UtcTime, comment="When it was deleted, as its service said; null: live."),
    Column("last_event_id", Text, nullable=False, comment="The last event that told of it."),
    comment="Every image that the ledger has heard of, deleted ones too.",
    info=CHANGES_IN_PLACE,
)


def _history(name: str, *, key: str, comment: str) -> Table:
    return interval_table(
        name,
        [Column("image_id", Text, primary_key=True, comment="The image's id.")],
        key=key,
        ways="registered, merge, purge, or unseen: found set, nobody saw how.",
        ends="overwritten, removed (meant by the caller), purged (not meant, or nobody "
        "knows), image_deleted, or unseen; null: live.",
        comment=comment,
    )


image_property_history = _history(
    "image_property_history",
    key="property",
    comment="Every property that an image ever had: one row a key and interval.",
)

image_attribute_history = _history(
    "image_attribute_history",
    key="attribute",
    comment="Name, status, owner, visibility, tags …: one row an attribute and interval.",
)

_property = image_property_history.c

image_properties = View(
    name="image_properties",
    comment="The properties that images have now.",
    columns={
        "image_id": "The image's id.",
        "key": "The property's name.",
        "value": "The property's value; null is a value too.",
        "since": "Since when it has this value.",
        "set_by_event": "The event that set it.",
    },
    select=select(
        _property.image_id,
        _property.key,
        _property.value,
        _property.valid_from.label("since"),
        _property.set_by_event,
    ).where(_property.valid_to.is_(None)),
)

TABLES: tuple[Table, ...] = (images, image_property_history, image_attribute_history)
VIEWS: tuple[View, ...] = (image_properties,)

"""The tables and views of lineage (READ_MODEL.md): which image a snapshot really descends from.

The folds write `snapshots_taken` and `snapshot_uploads`, each what its own aggregate tells. All
else takes two aggregates, and is derived from them behind the folds: `snapshots`, `derived_lineage`
(the images of which there is something to say; the view has all) and the closure `image_ancestors`.
"""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Index,
    Integer,
    Select,
    Table,
    Text,
    false,
    literal,
    null,
    select,
    union_all,
)

from metaledger.schemas.tables.base import METADATA, UtcTime, View
from metaledger.schemas.tables.image import images

_IMAGE = "The image's id."
_INSTANCE = "The instance that it is a snapshot of."

snapshots_taken = Table(
    "snapshots_taken",
    METADATA,
    Column("event_id", Text, primary_key=True, comment="The SnapshotTaken."),
    Column("image_id", Text, nullable=False, comment="The snapshot's image."),
    Column("instance_uuid", Text, nullable=False, comment=_INSTANCE),
    Column("image_ref", Text, comment="The image that the instance ran; null: not told."),
    Column("purpose", Text, nullable=False, comment="SNAPSHOT, BACKUP or SHELVE."),
    Column("occurred_at", UtcTime, comment="When it was taken; null: nobody saw it."),
    Index(None, "image_id"),
    comment="Every snapshot that an instance's service told of.",
)

snapshot_uploads = Table(
    "snapshot_uploads",
    METADATA,
    Column("image_id", Text, primary_key=True, comment="The snapshot's image."),
    Column("instance_uuid", Text, comment="The instance, as the image told; null: not told."),
    Column("occurred_at", UtcTime, comment="When its data was last uploaded; null: nobody saw it."),
    Column("event_id", Text, nullable=False, comment="The SnapshotUploaded that counts."),
    comment="The snapshots whose data was uploaded.",
)

snapshots = Table(
    "snapshots",
    METADATA,
    Column("image_id", Text, primary_key=True, comment=_IMAGE),
    Column("instance_uuid", Text, nullable=False, comment=_INSTANCE),
    Column(
        "parent_image_id",
        Text,
        comment="The image that the instance ran when it was taken; null: not known, or none.",
    ),
    Column(
        "purpose",
        Text,
        comment="SNAPSHOT, BACKUP or SHELVE; null: only its upload is known.",
    ),
    Column(
        "taken_at",
        UtcTime,
        comment="When it was taken; where only its upload is known, when it was seen registered, "
        "else uploaded; null: nobody saw it taken or uploaded.",
    ),
    # What was taken of an instance.
    Index(None, "instance_uuid"),
    comment="Every image that is known to be a snapshot of an instance.",
)

_LINEAGE = {
    "image_id": _IMAGE,
    "instance_uuid": "The instance that it is a snapshot of; null: of none that is known.",
    "parent_image_id": "The image that its instance ran, derived; null: not known, or none.",
    "declared_base_image_ref": "What its property base_image_ref says, or last said; null: "
    "it never had one.",
    "declared_lost": "Whether it had that property and lost it, other than by its own deletion.",
    "base_image_ref": "The declared one if it is the parent or an ancestor of it; else the parent; "
    "else the declared one.",
    "root_image_id": "Where its ancestry ends; the image itself where it has none.",
    "evidence": "agreed, derived (nothing is declared), declared (no parent is known), "
    "contradicted or none.",
}

derived_lineage = Table(
    "derived_lineage",
    METADATA,
    Column("image_id", Text, primary_key=True, comment=_LINEAGE["image_id"]),
    *(
        Column(name, Text, comment=_LINEAGE[name])
        for name in ("instance_uuid", "parent_image_id", "declared_base_image_ref")
    ),
    Column("declared_lost", Boolean, nullable=False, comment=_LINEAGE["declared_lost"]),
    Column("base_image_ref", Text, comment=_LINEAGE["base_image_ref"]),
    Column("root_image_id", Text, nullable=False, comment=_LINEAGE["root_image_id"]),
    Column("evidence", Text, nullable=False, comment=_LINEAGE["evidence"]),
    Column(
        "edge_image_id",
        Text,
        comment="Where its edge goes: to its parent, else to what it declares; null: nowhere.",
    ),
    # Whose children.
    Index(None, "edge_image_id"),
    comment="The lineage of images of which there is something to say; private: image_lineage.",
)

image_ancestors = Table(
    "image_ancestors",
    METADATA,
    Column("image_id", Text, primary_key=True, comment=_IMAGE),
    Column("ancestor_image_id", Text, primary_key=True, comment="An image that it descends from."),
    Column(
        "depth",
        Integer,
        nullable=False,
        comment="1 for its parent (else what it declares), 2 for that one's …",
    ),
    # Whose descendants.
    Index(None, "ancestor_image_id"),
    comment="The closure of lineage: every ancestor of every image that has one.",
)


def _image_lineage() -> Select[Any]:
    """One after the other, so that either database looks up one image in each part."""
    columns = [derived_lineage.c[name] for name in _LINEAGE]
    known = select(derived_lineage.c.image_id).where(
        derived_lineage.c.image_id == images.c.image_id
    )
    nothing = {name: null() for name in _LINEAGE} | {
        "image_id": images.c.image_id,
        "declared_lost": false(),
        "root_image_id": images.c.image_id,
        "evidence": literal("none"),
    }
    both = union_all(
        select(*columns),
        select(*(nothing[name].label(name) for name in _LINEAGE)).where(~known.exists()),
    ).subquery("both")
    return select(both)


image_lineage = View(
    name="image_lineage",
    comment="Where images come from: what is derived and what they declare, one row an image.",
    columns=_LINEAGE,
    select=_image_lineage(),
)

FOLDED: tuple[Table, ...] = (snapshots_taken, snapshot_uploads)
DERIVED: tuple[Table, ...] = (snapshots, derived_lineage, image_ancestors)
TABLES: tuple[Table, ...] = (*FOLDED, *DERIVED)
VIEWS: tuple[View, ...] = (image_lineage,)

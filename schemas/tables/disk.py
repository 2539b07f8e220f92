"""The tables of an instance's disks (READ_MODEL.md), written with the instances they belong to."""

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from metaledger.schemas.tables.base import METADATA, JsonValue, UtcTime


def _disk() -> tuple[Column[Any], ...]:
    return (
        Column("instance_uuid", Text, primary_key=True, comment="The instance that it belongs to."),
        Column("disk", Text, primary_key=True, comment="Its name there: disk, disk.swap …"),
    )


def _layout() -> tuple[Column[Any], ...]:
    return (
        Column("backend", Text, comment="How it is kept: qcow2, flat, lvm, rbd …"),
        Column("format", Text, comment="The format of its data: qcow2, raw …"),
        Column("size_bytes", BigInteger, comment="Its size."),
        Column("source_kind", Text, comment="IMAGE or FUNCTION: what it was made from."),
        Column("source_image_id", Text, comment="The image that it was made from."),
        Column("source_function", Text, comment="The function that made it, such as mkswap."),
        Column("location", Text, comment="Where its backend keeps it; null: not told."),
        Column("layout_version", Text, comment="The version of the layout's description."),
        Column("extra", JsonValue, comment="What its backend says beyond that."),
        Column(
            "driver_info",
            JsonValue,
            comment="The layout as a block device mapping would store it.",
        ),
    )


disks = Table(
    "disks",
    METADATA,
    *_disk(),
    Column(
        "state",
        Text,
        nullable=False,
        comment="intended (it may exist or not), created, failed or deleted.",
    ),
    *_layout(),
    Column(
        "recorded_by",
        Text,
        comment="What the layout is known by: intent, backfill, change or outcome; null: it is "
        "not known, and neither are the columns that come from it.",
    ),
    Column("last_error", Text, comment="Why its last creation failed; null: it did not."),
    comment="Every disk that the ledger has heard of, with the layout that it has, or last had.",
)

disk_layout_history = Table(
    "disk_layout_history",
    METADATA,
    *_disk(),
    Column(
        "version",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="1, 2, 3 … for each disk.",
    ),
    *_layout(),
    Column("valid_from", UtcTime, nullable=False, comment="Since when it had this layout."),
    Column("valid_to", UtcTime, comment="Until when, this time excluded; null: live."),
    Column("set_by_event", Text, nullable=False, comment="The event that told it."),
    Column(
        "recorded_by",
        Text,
        nullable=False,
        comment="What it is known by: intent, backfill, change or outcome.",
    ),
    Column("ended_by_event", Text, comment="The event that ended it; null: live."),
    Column("end_reason", Text, comment="overwritten or disk_deleted; null: live."),
    comment="Every layout that a disk ever had: one row a layout and interval.",
)

TABLES: tuple[Table, ...] = (disks, disk_layout_history)

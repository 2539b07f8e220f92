"""The form that all interval histories share: one row a key and version (READ_MODEL.md).

The primary key serves the history of one owner, and with it every as-of question about it; the
index serves the question who has a key now.
"""

from collections.abc import Sequence

from sqlalchemy import Column, Index, Integer, Table, Text, text

from metaledger.schemas.tables.base import METADATA, UtcTime


def interval_table(
    name: str, owner: Sequence[Column[str]], *, key: str, ways: str, ends: str, comment: str
) -> Table:
    """The table of a history. `owner` are the columns that the rows begin with, the owner's id
    first; `key` says what has the intervals, `ways` and `ends` what `set_via` and `end_reason` may
    say.
    """
    live = text("valid_to IS NULL")
    owners = ", ".join(column.name.removesuffix("_uuid").removesuffix("_id") for column in owner)
    return Table(
        name,
        METADATA,
        *owner,
        Column("key", Text, primary_key=True, comment=f"The {key}'s name."),
        Column(
            "version",
            Integer,
            primary_key=True,
            autoincrement=False,
            comment=f"1, 2, 3 … for each {owners} and key.",
        ),
        Column("value", Text, comment=f"The {key}'s value; null is a value too."),
        Column("valid_from", UtcTime, nullable=False, comment="Since when it had this value."),
        Column("valid_to", UtcTime, comment="Until when, this time excluded; null: live."),
        Column("set_by_event", Text, nullable=False, comment="The event that set it."),
        Column("set_via", Text, nullable=False, comment=ways),
        Column("ended_by_event", Text, comment="The event that ended it; null: live."),
        Column("end_reason", Text, comment=ends),
        # Who has it now. The value is no part of it, for it may exceed what an index takes. Nor is
        # the owner: so a key's entries stand as they came, and a batch's new ones on one page;
        # by owner each stood on one of its own, and PostgreSQL wrote whole pages to its log.
        Index(None, "key", postgresql_where=live, sqlite_where=live),
        comment=comment,
    )

"""What every history of the read model promises, whatever it is of: its rows alone show it.

The versions of a key are 1, 2, 3 …; its intervals don't overlap; all but the last have ended, each
by an event, at that event's time, for one reason; and that reason says whether another value took
its place.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import Table

from metaledger.schemas.tables import TABLES

Row = Mapping[str, Any]

HISTORIES = [it for it in TABLES if {"version", "valid_from", "valid_to"} <= {*it.columns.keys()}]
# Why an interval ended where the same event set the next one, and where none took its place.
# Any other may be either.
REPLACED = {"overwritten", "changed"}
GONE = {"removed", "purged", "image_deleted", "instance_deleted", "disk_deleted"}


def broken(table: Table, rows: Sequence[Row], valid_at: Mapping[str, Any]) -> Iterator[str]:
    """What a history breaks of that, in a sentence each; `valid_at` is the time of each event."""
    for key, versions in by_key(table, rows).items():
        found = [*_numbered(versions), *_timed(versions, valid_at), *_ended(versions)]
        yield from (f"{table.name} of {' '.join(key)}: {it}" for it in found)


def by_key(table: Table, rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """The rows of each key of a history, in the order of their versions."""
    names = [it.name for it in table.primary_key if it.name != "version"]
    found: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: int(row["version"])):
        found[tuple(row[name] for name in names)].append(row)
    return found


def _numbered(versions: Sequence[Row]) -> Iterator[str]:
    numbers = [it["version"] for it in versions]
    if numbers != [*range(1, len(numbers) + 1)]:
        yield f"its versions are {numbers}"
    if open_ones := [it["version"] for it in versions[:-1] if it["valid_to"] is None]:
        yield f"{open_ones} have not ended, and are not the last"


def _timed(versions: Sequence[Row], valid_at: Mapping[str, Any]) -> Iterator[str]:
    for it in versions:
        if it["valid_to"] is not None and it["valid_to"] < it["valid_from"]:
            yield f"{it['version']} ends before it begins"
        if it["valid_from"] != valid_at.get(it["set_by_event"]):
            yield f"{it['version']} did not begin when its event says"
        if it["valid_to"] != valid_at.get(it["ended_by_event"]):
            yield f"{it['version']} did not end when its event says"
    for one, other in pairwise(versions):
        if one["valid_to"] is not None and other["valid_from"] < one["valid_to"]:
            yield f"{other['version']} begins before {one['version']} ends"


def _ended(versions: Sequence[Row]) -> Iterator[str]:
    for it, after in zip(versions, [*versions[1:], None], strict=True):
        named = {it[name] is None for name in ("valid_to", "ended_by_event")}
        named |= {it["end_reason"] is None} if "end_reason" in it else set()
        if len(named) == 2:
            yield f"{it['version']} ended by halves"
        reason = it.get("end_reason")
        is_replaced = after is not None and after["set_by_event"] == it["ended_by_event"]
        if (reason in REPLACED and not is_replaced) or (reason in GONE and is_replaced):
            yield f"{it['version']} ended as {reason}, and {'' if is_replaced else 'not '}replaced"

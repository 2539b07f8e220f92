"""The tables of instances, and what Nova has of them: one function a table (`agreement`)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from .held import Held, Instance, Place, image_keys
from .histories import Row
from .told import (
    ATTRIBUTES,
    BOOTED,
    Told,
    both,
    known_to_both,
    last_of,
    last_of_kind,
    of,
    values_of,
)

# What Nova calls a move with such a cause.
MOVES = {
    "EVACUATION": "evacuation",
    "LIVE_MIGRATION": "live-migration",
    "COLD_MIGRATION": "migration",
    "RESIZE": "resize",
}
# A migration that got there.
DONE = {"finished", "confirmed", "reverted", "completed", "done"}
STORED = "instance_metadata_history"
NOWHERE: Row = {"host": None}


def instances(held: Held, told: Told) -> Iterator[str]:
    rows = {it["instance_uuid"]: it for it in told.tables["instances"]}
    for uuid in sorted(held.instances.keys() ^ rows.keys()):
        # What was archived is in no table of Nova's.
        if uuid in held.instances or rows[uuid]["deleted_at"] is None:
            yield f"{uuid} is in {'Nova' if uuid in held.instances else 'the ledger'} alone"
    types = {it.meta.event_id: it.type for it in told.events}
    for uuid, it in known_to_both(held, told):
        row = rows[uuid]
        by = None if it.is_deleted else "InstanceSystemMetadataSaved" if it.is_rebuilt else BOOTED
        nova: dict[str, Any] = {
            "image_ref": it.image,
            "deleted": it.is_deleted,
            "booted": True,
            "rescue_image_ref": it.rescue.image_id if it.rescue else None,
            "authoritative_by": by,
        }
        if it.flavor is not None:
            nova["flavor"] = it.flavor
        # Where it was last Nova may have forgotten, of one that is deleted.
        if not it.is_deleted:
            nova["hypervisor_id"] = it.place and it.place.hypervisor_id
        tells = {
            **row,
            "deleted": row["deleted_at"] is not None,
            "booted": row["booted_at"] is not None and row["booted_at"] == row["boot_told_at"],
            "authoritative_by": types.get(
                row["authoritative_by_event"], row["authoritative_by_event"]
            ),
        }
        yield from of(uuid, both(nova, {name: tells[name] for name in nova}))


def as_histories_say(told: Told) -> Iterator[str]:
    """The row of an instance is where its histories end."""
    for row in told.tables["instances"]:
        uuid = row["instance_uuid"]
        last = {
            it["key"]: it["value"]
            for it in last_of(told, ATTRIBUTES, uuid)
            if it["kind"] == "attribute"
        }
        stay = [it["hypervisor_id"] for it in last_of(told, "instance_locations", uuid)]
        rescue = None if row["deleted_at"] else last.get("rescue_image_ref")
        begun = [it["valid_from"] for it in told.of(ATTRIBUTES, uuid) if it["key"] == "flavor"]
        ended = {
            it["valid_to"]
            for it in told.of(ATTRIBUTES, uuid)
            if it["end_reason"] == "instance_deleted"
        }
        ends = {
            "booted_at": begun[0] if begun else None,
            "deleted_at": ended.pop() if ended else None,
            "image_ref": last.get("image_ref"),
            "flavor": last.get("flavor"),
            "hypervisor_id": stay[0] if stay else None,
            "rescue_image_ref": rescue,
        }
        yield from of(uuid, both(ends, {name: row[name] for name in ends}))


def instance_metadata_history(held: Held, told: Told) -> Iterator[str]:
    for uuid, it in known_to_both(held, told):
        rows = told.of(STORED, uuid)
        last = {row["key"]: row["value"] for row in last_of(told, STORED, uuid)}
        yield from of(uuid, both(it.metadata, last))
        if it.values is not None:
            yield from of(
                uuid, both(it.values, {key: values_of(rows, key=key) for key in it.values})
            )


def instance_attribute_history(held: Held, told: Told) -> Iterator[str]:
    for uuid, it in known_to_both(held, told):
        rows = told.of(ATTRIBUTES, uuid)
        nova = _attributes(it)
        tells = {key: values_of(rows, kind=key[0], key=key[1]) for key in nova}
        yield from of(uuid, both(nova, tells))
        yield from of(uuid, both(it.authoritative, last_of_kind(told, uuid, "authoritative")))
        # What a deletion leaves of a rescue, only the compute side could have ended.
        if not it.is_deleted:
            rescued = it.rescue.metadata if it.rescue else {}
            yield from of(uuid, both(rescued, last_of_kind(told, uuid, "rescue")))
        if it.values is not None:
            yield from of(uuid, _by_right(it.values, rows))
        for row in rows:
            # No event tells of another flavor: there is that of the boot alone. And the image of a
            # volume stands in no row of Nova's on the way.
            is_known = (row["kind"], row["key"]) in nova or row["kind"] == "authoritative"
            is_of_boot = row["key"] == "flavor" and row["version"] == 1
            if not is_known and not is_of_boot and row["key"] != "image_ref":
                yield f"{uuid}: {row['kind']} {row['key']} is in the ledger alone"


def _attributes(it: Instance) -> dict[tuple[str, str], Sequence[str]]:
    """What Nova knows of its attributes and its rescues, one after the other."""
    had: dict[tuple[str, str], Sequence[str]] = {}
    if it.images is not None:
        had["attribute", "image_ref"] = it.images
    if it.flavor is not None:
        had["attribute", "flavor"] = [it.flavor]
    had["attribute", "rescue_image_ref"] = [rescue.image_id for rescue in it.rescues]
    for key in {key for rescue in it.rescues for key in rescue.metadata}:
        had["rescue", key] = [each.metadata[key] for each in it.rescues if key in each.metadata]
    return had


def _by_right(stored: Mapping[str, Sequence[str | None]], rows: Sequence[Row]) -> Iterator[str]:
    """What it ever had by right was stored once."""
    for row in rows:
        if row["kind"] == "authoritative" and row["value"] not in stored.get(row["key"], ()):
            yield f"authoritative {row['key']}: {row['value']}, which Nova never stored"


def instance_locations(held: Held, told: Told) -> Iterator[str]:
    for uuid, it in known_to_both(held, told):
        stays = sorted(told.of("instance_locations", uuid), key=lambda row: row["version"])
        places = [Place(row["hypervisor_id"], row["host"]) for row in stays]
        now = [Place(row["hypervisor_id"], row["host"]) for row in stays if row["valid_to"] is None]
        yield from of(uuid, both([it.place] if it.place and not it.is_deleted else [], now))
        if it.places is not None:
            yield from of(uuid, both(it.places, places))
        came = [
            (row["cause"], one["host"], row["host"]) for one, row in pairwise([NOWHERE, *stays])
        ]
        yield from of(uuid, _moves(it, came))


def _moves(it: Instance, came: Sequence[tuple[str, str | None, str]]) -> Iterator[str]:
    """Each stay came by what Nova notes as such a move, and each that got there is a stay."""
    noted = {(move.type, move.source, move.dest) for move in it.migrations}
    # One that was reverted goes the same way back.
    noted |= {(kind, dest, source) for kind, source, dest in noted}
    for cause, source, dest in came:
        if cause in MOVES and (MOVES[cause], source, dest) not in noted:
            yield f"it came to {dest} by {cause}, of which Nova notes nothing"
        if cause == "UNSHELVE" and "unshelve" not in it.actions:
            yield f"it came to {dest} by UNSHELVE, and Nova was not told to"
        if cause not in {*MOVES, "UNSHELVE", "SCHEDULED"}:
            yield f"it came to {dest} by {cause}, and everything was there to be seen"
    arrived = {(MOVES.get(cause), dest) for cause, _source, dest in came}
    for move in it.migrations:
        is_done = move.status in DONE and move.source != move.dest
        if is_done and (move.type, move.dest) not in arrived:
            yield f"Nova notes {move}, of which there is no stay"


def instance_hypervisors(held: Held, told: Told) -> Iterator[str]:
    """Each stay again; all were told with their hypervisor, and that is the host's."""
    names = ("instance_uuid", "version", "host", "valid_from", "valid_to", "cause", "set_by_event")
    ids = ("hypervisor_id", "hypervisor_id")
    stays = [
        [*(it[name] for name in (*names, *ids)), "id"] for it in told.tables["instance_locations"]
    ]
    columns = (*names, "hypervisor_id", "told_hypervisor_id", "resolved_by")
    views = [[it[name] for name in columns] for it in told.tables["instance_hypervisors"]]
    yield from both(sorted(stays), sorted(views))
    for it in told.tables["instance_hypervisors"]:
        node = held.nodes.get(it["hypervisor_id"])
        if node is None or node.host != it["host"]:
            yield f"{it['instance_uuid']} was on {it['hypervisor_id']}, which is not {it['host']}"


def instance_image_metadata(held: Held, told: Told) -> Iterator[str]:
    """What it has by right, and what is stored; of a deleted one nothing is live."""
    for uuid, it in known_to_both(held, told):
        stored = image_keys(it.metadata)
        right = it.authoritative
        nova = {
            key: (
                right.get(key),
                stored.get(key),
                (key in right, right.get(key)) != (key in stored, stored.get(key)),
            )
            for key in ({} if it.is_deleted else right.keys() | stored.keys())
        }
        rows = told.of("instance_image_metadata", uuid)
        tells = {row["key"]: (row["authoritative"], row["stored"], row["drifted"]) for row in rows}
        yield from of(uuid, both(nova, tells))


def instance_rescue_metadata(held: Held, told: Told) -> Iterator[str]:
    for uuid, it in known_to_both(held, told):
        rows = told.of("instance_rescue_metadata", uuid)
        nova = it.rescue.metadata if it.rescue else {}
        yield from of(uuid, both(nova, {row["key"]: row["value"] for row in rows}))
        live = {
            (row["valid_from"], row["set_by_event"])
            for row in told.of(ATTRIBUTES, uuid)
            if (row["kind"], row["valid_to"]) == ("rescue", None)
        }
        if not {(row["since"], row["set_by_event"]) for row in rows} <= live:
            yield f"{uuid}: it is rescued since another time than its history says"

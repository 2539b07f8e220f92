"""What Nova's own tests left of each thing that the read model has a table of.

The cells' databases say it, with what triggers saw of their rows on the way; and what no row says,
the notes do (`functional`).
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.pool import NullPool

from metaledger.producers.nova.rows import recorded_metadata

from .harness import Kept

# What nova-compute told stands beside the cells, in no database of Nova's; and so do the notes.
SPOOL, NOTES = "spool", "notes"
INSTANCES = """
    SELECT instances.uuid AS instance_uuid, image_ref, instances.deleted, vm_state, instances.host,
           compute_nodes.uuid AS hypervisor_id, instance_extra.flavor
      FROM instances
      LEFT JOIN compute_nodes ON compute_nodes.id = instances.compute_id
      LEFT JOIN instance_extra ON instance_extra.instance_uuid = instances.uuid
     WHERE NOT instances.hidden"""
METADATA = "SELECT instance_uuid, key, value FROM instance_system_metadata"
ACTIONS = "SELECT instance_uuid, action FROM instance_actions"
MIGRATIONS = """
    SELECT instance_uuid, migration_type, source_compute, dest_compute, status FROM migrations"""
# One that no service has claimed has no host.
NODES = """
    SELECT uuid, host, hypervisor_hostname, hypervisor_type, deleted FROM compute_nodes
     WHERE host IS NOT NULL"""
SEEN = """
    SELECT seen.uuid AS instance_uuid, image_ref, seen.host, node.uuid AS hypervisor_id,
           seen.is_deleted AS deleted
      FROM shadow_seen_instances AS seen LEFT JOIN compute_nodes AS node ON node.id = compute_id
     ORDER BY n"""
SEEN_METADATA = """
    SELECT instance_uuid, key, value, is_deleted AS deleted, states
      FROM shadow_seen_metadata ORDER BY n"""
SNAPSHOTS = "SELECT image_id, instance_uuid, image_type, base_image_ref FROM snapshots"
RESCUES = "SELECT instance_uuid, image_id, metadata FROM rescues"
UNRECORDED = "SELECT aggregate FROM metaledger_counters WHERE unrecorded_since IS NOT NULL"


class Place(NamedTuple):
    """A compute node, and the host name by which it was reached."""

    hypervisor_id: str | None
    host: str


class Migration(NamedTuple):
    """What Nova noted of a move. `status` says how it ended."""

    type: str
    source: str
    dest: str
    status: str


class Node(NamedTuple):
    """A compute node."""

    host: str
    hypervisor_hostname: str
    hypervisor_type: str
    id_source: str
    is_removed: bool


class Snapshot(NamedTuple):
    """An image that the image service was given of an instance; `base` is what it says of it."""

    image_id: str
    instance_uuid: str
    image_type: str
    base: str | None


class Rescue(NamedTuple):
    """What the hypervisor was told to run in an instance's place."""

    image_id: str
    metadata: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Instance:
    """An instance as its row is in the end, and what triggers saw of it on the way.

    `flavor` is None where it was resized, for Nova forgets what it was before. `images`, `places`
    and `values` (of its metadata, by key) are one after the other, and None where two cells saw it:
    nobody knows in which order. `images` is None also of one on a volume, whose row names none.
    `authoritative` is the image metadata of its boot or, where it `is_rebuilt`, of its last
    rebuild; `rescue` is the one that it runs from now.
    """

    image: str | None
    flavor: str | None
    place: Place | None
    is_deleted: bool
    rescue: Rescue | None
    rescues: Sequence[Rescue]
    metadata: Mapping[str, str | None]
    authoritative: Mapping[str, str | None]
    is_rebuilt: bool
    actions: Sequence[str]
    migrations: Sequence[Migration]
    images: Sequence[str] | None
    places: Sequence[Place] | None
    values: Mapping[str, Sequence[str | None]] | None


class Held:
    """All of it. `unrecorded` are the aggregates that a cell's outbox marks so."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        cells = [_engine(it) for it in kept if it.cell not in {SPOOL, NOTES}]
        notes = [_engine(it) for it in kept if it.cell == NOTES]
        local = {row.uuid for row in _rows(notes, "SELECT uuid FROM local_nodes")}
        self.nodes = {
            row.uuid: Node(*row[1:4], "FILE" if row.uuid in local else "NATIVE", bool(row.deleted))
            for row in _rows(cells, NODES)
        }
        self.snapshots = [Snapshot(*row) for row in _rows(notes, SNAPSHOTS)]
        self.rescues: defaultdict[str, list[Rescue]] = defaultdict(list)
        for uuid, image_id, metadata in _rows(notes, RESCUES):
            self.rescues[uuid].append(Rescue(image_id, json.loads(metadata)))
        self.unrecorded = [row.aggregate for row in _rows(cells, UNRECORDED)]
        read = [_Cell(cell) for cell in cells]
        self.instances: dict[str, Instance] = {}
        for cell in read:
            for row in cell.rows(INSTANCES):
                uuid = row.instance_uuid
                is_one = sum(bool(each.rows(SEEN, uuid)) for each in read) == 1
                rescues = self.rescues[uuid]
                self.instances[uuid] = _instance(cell, row, rescues, is_one=is_one)


class _Cell:
    """What a cell says of instances, read once."""

    def __init__(self, database: Engine) -> None:
        queries = (INSTANCES, METADATA, ACTIONS, MIGRATIONS, SEEN, SEEN_METADATA)
        self._read = {query: _rows([database], query) for query in queries}

    def rows(self, query: str, instance_uuid: str | None = None) -> list[Any]:
        """Of all instances, or of one."""
        found = self._read[query]
        return [it for it in found if instance_uuid in (None, it.instance_uuid)]


def image_keys(metadata: Mapping[str, str | None]) -> dict[str, str | None]:
    """What of it is an image's."""
    return {key: value for key, value in metadata.items() if key.startswith("image_")}


def _instance(cell: _Cell, row: Any, rescues: Sequence[Rescue], *, is_one: bool) -> Instance:
    uuid = row.instance_uuid
    metadata = {it.key: it.value for it in cell.rows(METADATA, uuid)}
    actions = [it.action for it in cell.rows(ACTIONS, uuid)]
    migrations = [Migration(*it[1:]) for it in cell.rows(MIGRATIONS, uuid)]
    values = _values(cell.rows(SEEN_METADATA, uuid))
    # What comes when it is deleted is told to nobody.
    states = [*takewhile(lambda it: not it.deleted, cell.rows(SEEN, uuid))]
    borrowed = values.get("shelved_image_id", ())
    images = _runs([it.image_ref for it in states if it.image_ref not in borrowed])
    is_on_volume = any(not it.image_ref for it in states)
    places = [it.host and Place(it.hypervisor_id, it.host) for it in states]
    image = row.image_ref or None
    if image is None and "rebuild" in actions:
        # Of the image that a volume was made of anew its row says nothing.
        image = metadata.get("image_base_image_ref")
    flavor = json.loads(row.flavor)["cur"]["nova_object.data"]["name"]
    is_rescued = row.vm_state == "rescued" and not row.deleted
    stored = recorded_metadata(metadata)
    authoritative = image_keys(stored)
    is_rebuilt = "rebuild" in actions
    if is_rebuilt and images[-1:] and images[-1] in images[:-1]:
        is_rebuilt = False
        # A rebuild found no host: the image was put back, and what is stored was not.
        first = [it for it in cell.rows(SEEN_METADATA, uuid) if it.states <= 1]
        authoritative = image_keys(recorded_metadata({it.key: it.value for it in first}))
    return Instance(
        image=image,
        flavor=None if any(it.type == "resize" for it in migrations) else flavor,
        place=None if row.host is None else Place(row.hypervisor_id, row.host),
        is_deleted=bool(row.deleted),
        rescue=rescues[-1] if is_rescued else None,
        rescues=rescues,
        metadata=stored,
        authoritative=authoritative,
        is_rebuilt=is_rebuilt,
        actions=actions,
        migrations=migrations,
        images=images if is_one and not is_on_volume else None,
        places=_runs(places) if is_one else None,
        values=values if is_one else None,
    )


def _values(rows: Sequence[Any]) -> dict[str, list[str | None]]:
    """The values that each key had. One that is left out and comes back has a value anew."""
    states: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        # A value may be null: what is gone is no value.
        states[row.key].append((row.value,) if not row.deleted else None)
    recorded = recorded_metadata(dict.fromkeys(states))
    return {key: [value for (value,) in _runs(states[key])] for key in recorded}


def _runs(states: Sequence[Any]) -> list[Any]:
    """Each state that is another than the one before it; none where it is nothing."""
    return [
        state
        for before, state in zip([None, *states], states, strict=False)
        if state and state != before
    ]


def _engine(kept: Kept) -> Engine:
    return create_engine(kept.url, poolclass=NullPool)


def _rows(databases: Sequence[Engine], query: str) -> list[Any]:
    """What the databases hold; of notes that nobody took there is no table."""
    found: list[Any] = []
    for database in databases:
        with database.connect() as connection:
            wanted = query.partition("FROM ")[2].split()[0]
            if wanted in inspect(connection).get_table_names():
                found += connection.execute(text(query))
    return found

"""The databases of Nova's cells and the read model of their outboxes, compared row by row.

The read model is made as an operator's is: from the events alone. What differs is said in a
sentence each; nothing is a difference but what the ledger says otherwise than Nova's rows do.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine, NullPool, bindparam, create_engine, select, text

from metaledger.producers.nova.rows import recorded_metadata
from metaledger.producers.nova.tables import SYSTEM_METADATA
from metaledger.schemas.instance import InstanceRebuilt, InstanceRelocated
from metaledger.schemas.meta import Origin

from ..glance.ledger import recorded
from ..glance.readmodel import ReadModel

# What nova-compute told stands beside the cells, in no database of Nova's; and so does what the
# tests' image service was given (`functional`).
SPOOL, IMAGES = "spool", "images"
INSTANCES = text("""
    SELECT instances.uuid, image_ref, instances.deleted, vm_state, instances.host,
           compute_nodes.uuid AS hypervisor_id, instance_extra.flavor
      FROM instances
      LEFT JOIN compute_nodes ON compute_nodes.id = instances.compute_id
      LEFT JOIN instance_extra ON instance_extra.instance_uuid = instances.uuid
     WHERE NOT instances.hidden""")
METADATA = select(SYSTEM_METADATA.c.key, SYSTEM_METADATA.c.value).where(
    SYSTEM_METADATA.c.instance_uuid == bindparam("uuid")
)
RESIZED = text("""
    SELECT count(*) FROM migrations WHERE instance_uuid = :uuid AND migration_type = 'resize'""")
UNRECORDED = text("SELECT aggregate FROM metaledger_counters WHERE unrecorded_since IS NOT NULL")
LIVE = text("""
    SELECT key, value FROM instance_metadata_history
     WHERE instance_uuid = :uuid AND valid_to IS NULL""")
STAYS = text("""
    SELECT hypervisor_id, host FROM instance_locations
     WHERE instance_uuid = :uuid AND valid_to IS NULL""")
ATTRIBUTES = text("""
    SELECT key, value FROM instance_attribute_history
     WHERE instance_uuid = :uuid AND kind = 'attribute' AND valid_to IS NULL""")
# One that no service has claimed has no host.
NODES = text("""
    SELECT uuid, host, hypervisor_hostname, hypervisor_type, deleted FROM compute_nodes
     WHERE host IS NOT NULL""")
HYPERVISORS = text("SELECT * FROM hypervisors")
HOSTS = text("SELECT host FROM hypervisor_hosts WHERE hypervisor_id = :id AND valid_to IS NULL")
GIVEN = text("SELECT image_id, instance_uuid, image_type FROM snapshots")
TAKEN = text("SELECT image_id, instance_uuid, purpose FROM snapshots_taken")
TYPES = {"SNAPSHOT": "snapshot", "SHELVE": "snapshot", "BACKUP": "backup"}
# What a fold raises where it was told something wrong, or where Nova did something wrong.
ANOMALIES = text("""
    SELECT kind, aggregate_id, details FROM anomalies
     WHERE aggregate_kind = 'instance'
       AND kind IN ('history_gap', 'semantics_divergence', 'boot_metadata_overwritten',
                    'base_image_ref_dropped', 'clock_skew', 'value_altered')
     ORDER BY kind""")


class Database(Protocol):
    """A cell's database, or what stands beside the cells."""

    @property
    def cell(self) -> str: ...
    @property
    def url(self) -> str: ...


class Compared:
    """What a test of Nova left in all its cells, their events and the read model of these, whose
    files stand in `folder`.
    """

    def __init__(self, cells: Sequence[Database], folder: Path) -> None:
        folder.mkdir(parents=True)
        told = [cell for cell in cells if cell.cell != IMAGES]
        self.events = [event for cell in told for event in recorded(cell.url)]
        self._cells, self._images = (
            [create_engine(cell.url, poolclass=NullPool) for cell in some]
            for some in (
                [cell for cell in told if cell.cell != SPOOL],
                [cell for cell in cells if cell.cell == IMAGES],
            )
        )
        self._model = ReadModel(folder, *(cell.url for cell in told))
        try:
            self._model.catch_up()
            self.instances = {
                row["instance_uuid"]: row
                for row in self._model.rows(text("SELECT * FROM instances"))
            }
            self.differences = list(self._differences())
        finally:
            self._model.close()

    def told(self) -> list[str]:
        """The types of all events, of a relocation with its cause."""
        return [
            f"{it.type} {it.data.cause}" if isinstance(it.data, InstanceRelocated) else it.type
            for it in self.events
        ]

    def _differences(self) -> Iterator[str]:
        held = {row.uuid: (cell, row) for cell in self._cells for row in _rows(cell, INSTANCES)}
        for uuid in sorted(held.keys() ^ self.instances.keys()):
            # What was archived is in no table of Nova's.
            if uuid in held or self.instances[uuid]["deleted_at"] is None:
                yield f"{uuid} is in {'Nova' if uuid in held else 'the ledger'} alone"
        for uuid in sorted(held.keys() & self.instances.keys()):
            cell, row = held[uuid]
            found = self._of_instance(cell, row, self.instances[uuid])
            yield from (f"{uuid}: {it}" for it in found)
        yield from self._hypervisors()
        yield from self._snapshots()
        for anomaly in self._model.rows(ANOMALIES):
            yield "{aggregate_id}: {kind} {details}".format(**anomaly)
        for row in [row for cell in self._cells for row in _rows(cell, UNRECORDED)]:
            yield f"{row.aggregate} is marked as unrecorded"
        if missed := sum(event.meta.missed for event in self.events):
            yield f"{missed} changes were missed"
        yield from self._unseen()

    def _unseen(self) -> Iterator[str]:
        """Everything was there to be seen; but what comes from another cell is imported there."""
        booted = {
            event.meta.aggregate
            for event in self.events
            if event.type == "InstanceBooted" and event.meta.origin is Origin.OBSERVED
        }
        for event in self.events:
            origin, aggregate = event.meta.origin, event.meta.aggregate
            is_arrival = origin is Origin.IMPORTED and aggregate in booted
            if origin is not Origin.OBSERVED and not is_arrival:
                yield f"{event.type} of {aggregate} is {origin}"

    def _of_instance(self, cell: Engine, row: Any, told: dict[str, Any]) -> Iterator[str]:
        uuid = row.uuid
        attributes = self._live(ATTRIBUTES, uuid)
        stays = [(it["hypervisor_id"], it["host"]) for it in self._model.rows(STAYS, uuid=uuid)]
        image = row.image_ref or self._image_of_volume(uuid)
        stored = {it.key: it.value for it in _rows(cell, METADATA, uuid=uuid)}
        flavor = json.loads(row.flavor)["cur"]["nova_object.data"]["name"]
        both: dict[str, tuple[object, object]] = {
            "booted": (True, told["booted_at"] is not None),
            "image": (image, told["image_ref"]),
            "deleted": (bool(row.deleted), told["deleted_at"] is not None),
            "live image": (image, attributes.get("image_ref")),
            "rescued": (row.vm_state == "rescued", told["rescue_image_ref"] is not None),
            "hypervisor": (row.hypervisor_id, told["hypervisor_id"]),
            "place": ([] if row.host is None else [(row.hypervisor_id, row.host)], stays),
            "metadata": (recorded_metadata(stored), self._live(LIVE, uuid)),
        }
        if row.deleted:
            both |= {
                "live image": (None, attributes.get("image_ref")),
                "rescued": (False, told["rescue_image_ref"] is not None),
                "place": ([], stays),
                "metadata": ({}, self._live(LIVE, uuid)),
            }
            # Where it was last Nova may have forgotten.
            del both["hypervisor"]
        # No event tells that a flavor changed: the ledger has that of the boot.
        if not _rows(cell, RESIZED, uuid=uuid)[0][0]:
            both["flavor"] = (flavor, told["flavor"])
        yield from _differing(both)

    def _live(self, query: Any, uuid: str) -> dict[str, str | None]:
        return {row["key"]: row["value"] for row in self._model.rows(query, uuid=uuid)}

    def _hypervisors(self) -> Iterator[str]:
        """Nova's compute nodes, and by which names they are or were reached."""
        held = {row.uuid: row for cell in self._cells for row in _rows(cell, NODES)}
        told = {row["hypervisor_id"]: row for row in self._model.rows(HYPERVISORS)}
        for uuid in sorted(held.keys() ^ told.keys()):
            yield f"hypervisor {uuid} is in {'Nova' if uuid in held else 'the ledger'} alone"
        for uuid in sorted(held.keys() & told.keys()):
            row, tells = held[uuid], told[uuid]
            names = ("host", "hypervisor_hostname", "hypervisor_type")
            both = {name: (getattr(row, name), tells[name]) for name in names}
            both["removed"] = (bool(row.deleted), tells["removed_at"] is not None)
            hosts = [it["host"] for it in self._model.rows(HOSTS, id=uuid)]
            both["live host"] = ([] if row.deleted else [row.host], hosts)
            yield from (f"hypervisor {uuid}: {it}" for it in _differing(both))

    def _snapshots(self) -> Iterator[str]:
        """What the image service was given, deleted ones too."""
        given = {tuple(row) for service in self._images for row in _rows(service, GIVEN)}
        taken = {
            (row["image_id"], row["instance_uuid"], TYPES[row["purpose"]])
            for row in self._model.rows(TAKEN)
        }
        for snapshot in sorted(given ^ taken):
            where = "the image service" if snapshot in given else "the ledger"
            yield f"snapshot {snapshot} is in {where} alone"

    def _image_of_volume(self, uuid: str) -> str | None:
        """The image that the volume was last rebuilt from, of which Nova's row says nothing."""
        rebuilt = [
            it.data.image_ref
            for it in self.events
            if isinstance(it.data, InstanceRebuilt) and it.data.instance_uuid == uuid
        ]
        return rebuilt[-1] if rebuilt else None


def _differing(both: Mapping[str, tuple[object, object]]) -> Iterator[str]:
    for what, (holds, tells) in both.items():
        if holds != tells:
            yield f"{what}: {holds} in Nova, {tells} in the ledger"


def _rows(cell: Engine, query: Any, **parameters: str) -> list[Any]:
    with cell.connect() as connection:
        return list(connection.execute(query, parameters))

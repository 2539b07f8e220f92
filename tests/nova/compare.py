"""The databases of Nova's cells and the read model of their outboxes, compared row by row.

The read model is made as an operator's is: from the events alone. What differs is said in a
sentence each; nothing is a difference but what the ledger says otherwise than Nova's rows do.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, text

from metaledger.producers.nova.rows import recorded_metadata
from metaledger.schemas.instance import InstanceRebuilt, InstanceRelocated
from metaledger.schemas.meta import Origin

from ..glance.ledger import recorded
from ..glance.readmodel import ReadModel
from .harness import Kept

# What nova-compute told stands beside the cells, in no database of Nova's.
SPOOL = "spool"
INSTANCES = text("""
    SELECT instances.uuid, image_ref, instances.deleted, compute_nodes.uuid AS hypervisor_id,
           instance_extra.flavor
      FROM instances
      LEFT JOIN compute_nodes ON compute_nodes.id = instances.compute_id
      LEFT JOIN instance_extra ON instance_extra.instance_uuid = instances.uuid
     WHERE NOT instances.hidden""")
METADATA = text("SELECT key, value FROM instance_system_metadata WHERE instance_uuid = :uuid")
RESIZED = text("""
    SELECT count(*) FROM migrations WHERE instance_uuid = :uuid AND migration_type = 'resize'""")
UNRECORDED = text("SELECT aggregate FROM metaledger_counters WHERE unrecorded_since IS NOT NULL")
LIVE = text("""
    SELECT key, value FROM instance_metadata_history
     WHERE instance_uuid = :uuid AND valid_to IS NULL""")
# What a fold raises where it was told something wrong, or where Nova did something wrong.
ANOMALIES = text("""
    SELECT kind, aggregate_id, details FROM anomalies
     WHERE aggregate_kind = 'instance'
       AND kind IN ('history_gap', 'semantics_divergence', 'boot_metadata_overwritten',
                    'base_image_ref_dropped', 'clock_skew', 'value_altered')
     ORDER BY kind""")


class Compared:
    """What a test of Nova left in all its cells, their events and the read model of these, whose
    files stand in `folder`.
    """

    def __init__(self, cells: Sequence[Kept], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.events = [event for cell in cells for event in recorded(cell.url)]
        self._cells = [
            create_engine(cell.url, poolclass=NullPool) for cell in cells if cell.cell != SPOOL
        ]
        self._model = ReadModel(folder, *(cell.url for cell in cells))
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
        uuid, deleted = row.uuid, row.deleted != 0
        if (told["deleted_at"] is not None) != deleted:
            yield f"deleted: {deleted} in Nova, {told['deleted_at']} in the ledger"
        if told["image_ref"] != (row.image_ref or self._image_of_volume(uuid)):
            yield f"image: {row.image_ref} in Nova, {told['image_ref']} in the ledger"
        if not deleted and told["hypervisor_id"] != row.hypervisor_id:
            yield f"hypervisor: {row.hypervisor_id} in Nova, {told['hypervisor_id']} in the ledger"
        flavor = json.loads(row.flavor)["cur"]["nova_object.data"]["name"]
        # No event tells that a flavor changed: the ledger has that of the boot.
        if not _rows(cell, RESIZED, uuid=uuid)[0][0] and told["flavor"] != flavor:
            yield f"flavor: {flavor} in Nova, {told['flavor']} in the ledger"
        stored = {it.key: it.value for it in _rows(cell, METADATA, uuid=uuid)}
        expected = {} if deleted else recorded_metadata(stored)
        live = {it["key"]: it["value"] for it in self._model.rows(LIVE, uuid=uuid)}
        if live != expected:
            yield f"metadata: {expected} in Nova, {live} in the ledger"

    def _image_of_volume(self, uuid: str) -> str | None:
        """The image that the volume was last rebuilt from, of which Nova's row says nothing."""
        rebuilt = [
            it.data.image_ref
            for it in self.events
            if isinstance(it.data, InstanceRebuilt) and it.data.instance_uuid == uuid
        ]
        return rebuilt[-1] if rebuilt else None


def _rows(cell: Engine, query: Any, **parameters: str) -> list[Any]:
    with cell.connect() as connection:
        return list(connection.execute(query, parameters))

"""What is judged, as it stands: the SQL that reads instances and hypervisors for `judgements`, and
writes the anomalies that those find. A part of `derived`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, func, select

from metaledger.projector.bulk import Bulk
from metaledger.projector.folds.instance_turn import BASE
from metaledger.projector.judgements import JUDGED, Hypervisor, Instance, Told
from metaledger.schemas.hypervisor import MANY_ON_A_HOST
from metaledger.schemas.tables.hypervisor import hypervisor_hosts, hypervisors
from metaledger.schemas.tables.instance import (
    instance_attribute_history,
    instance_locations,
    instance_metadata_history,
    instances,
)
from metaledger.schemas.tables.ledger import anomalies, ledger_events
from metaledger.schemas.tables.lineage import image_ancestors

# What is no event of the aggregate that it is kept with.
_TELL_NOTHING = ("DestroyJudged", "GapAccepted", "RecordSkipped")


class Subjects:
    """The statements about what is judged."""

    def __init__(self, connection: Connection, bulk: Bulk) -> None:
        self._connection = connection
        self._bulk = bulk

    def instances(self, instance_uuids: Sequence[str]) -> list[Instance]:
        """These instances as they stand, those that are known."""
        statement = select(
            instances.c.instance_uuid, instances.c.boot_told_at, instances.c.deleted_at
        ).where(self._bulk.among(instances.c.instance_uuid, instance_uuids))
        found = self._connection.execute(statement).all()
        live = [row.instance_uuid for row in found if row.deleted_at is None]
        bases = self._live(instance_metadata_history, BASE, live)
        running = self._live(instance_attribute_history, "image_ref", live)
        ancestors = self._ancestors({told.value for told in running.values()})
        untold = [row.instance_uuid for row in found if row.boot_told_at is None]
        first = self._first_events(untold)
        strangers = self._strangers(live)
        return [
            Instance(
                instance_uuid=uuid,
                base=bases.get(uuid),
                running=running.get(uuid),
                ancestors=ancestors.get(running[uuid].value, ()) if uuid in running else (),
                first_event_id=first.get(uuid),
                stranger=strangers.get(uuid),
            )
            for uuid, *_ in found
        ]

    def _ancestors(self, image_ids: Collection[str]) -> Mapping[str, set[str]]:
        columns = image_ancestors.c
        statement = select(columns.image_id, columns.ancestor_image_id).where(
            self._bulk.among(columns.image_id, sorted(image_ids))
        )
        found = defaultdict[str, set[str]](set)
        for image_id, ancestor in self._connection.execute(statement):
            found[image_id].add(ancestor)
        return found

    def _live(self, history: Table, key: str, instance_uuids: Sequence[str]) -> dict[str, Told]:
        columns = history.c
        statement = (
            select(
                columns.instance_uuid,
                columns.value,
                columns.set_by_event,
                ledger_events.c.log_offset,
            )
            .join(ledger_events, ledger_events.c.event_id == columns.set_by_event)
            .where(
                self._bulk.among(columns.instance_uuid, instance_uuids),
                columns.key == key,
                columns.valid_to.is_(None),
            )
        )
        if "kind" in columns:
            statement = statement.where(columns.kind == "attribute")
        return {
            uuid: Told(value=value, event_id=event_id, order=(offset,))
            for uuid, value, event_id, offset in self._connection.execute(statement)
            if value
        }

    def _strangers(self, instance_uuids: Sequence[str]) -> dict[str, Told]:
        """The hypervisors that these are on, of those that nobody told a host name of."""
        stays, named = instance_locations.c, hypervisor_hosts.c
        statement = select(stays.instance_uuid, stays.hypervisor_id, stays.set_by_event).where(
            self._bulk.among(stays.instance_uuid, instance_uuids),
            stays.valid_to.is_(None),
            stays.hypervisor_id.is_not(None),
            ~select(named.host).where(named.hypervisor_id == stays.hypervisor_id).exists(),
        )
        return {
            uuid: Told(value=hypervisor_id, event_id=event_id, order=())
            for uuid, hypervisor_id, event_id in self._connection.execute(statement)
        }

    def _first_events(self, instance_uuids: Sequence[str]) -> dict[str, str]:
        columns = ledger_events.c
        row = func.row_number().over(
            partition_by=columns.aggregate_id, order_by=(columns.occurred_at, columns.event_id)
        )
        events = (
            select(columns.aggregate_id, columns.event_id, row.label("number"))
            .where(
                columns.aggregate_kind == "instance",
                self._bulk.among(columns.aggregate_id, instance_uuids),
                columns.event_type.not_in(_TELL_NOTHING),
            )
            .subquery("events")
        )
        statement = select(events.c.aggregate_id, events.c.event_id).where(events.c.number == 1)
        return {row.aggregate_id: row.event_id for row in self._connection.execute(statement)}

    def hypervisors_near(self, hypervisor_ids: Sequence[str]) -> list[Hypervisor]:
        """These hypervisors, and all that have, or had, a host name that one of them ever had; as
        far as they are there.
        """
        theirs = hypervisor_hosts.alias("theirs")
        columns = hypervisor_hosts.c
        near = (
            select(columns.hypervisor_id)
            .join(theirs, theirs.c.host == columns.host)
            .where(self._bulk.among(theirs.c.hypervisor_id, hypervisor_ids))
        )
        statement = (
            select(
                columns.hypervisor_id,
                columns.host,
                columns.set_by_event,
                columns.version,
                columns.end_reason,
            )
            .join(hypervisors, hypervisors.c.hypervisor_id == columns.hypervisor_id)
            .where(
                columns.hypervisor_id.in_(near),
                hypervisors.c.removed_at.is_(None),
                hypervisors.c.hypervisor_type.is_distinct_from(MANY_ON_A_HOST),
            )
            .order_by(columns.hypervisor_id, columns.version)
        )
        hosts = defaultdict[str, list[Told]](list)
        for it in self._connection.execute(statement):
            hosts[it.hypervisor_id].append(
                Told(value=it.host, event_id=it.set_by_event, order=(it.version,))
            )
            if it.end_reason == "removed":
                del hosts[it.hypervisor_id]
        return [Hypervisor(hypervisor_id=name, hosts=those) for name, those in hosts.items()]

    def judged(self, kind: str, aggregate_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The judged anomalies of these aggregates, withdrawn ones too, by their id."""
        statement = select(anomalies).where(
            anomalies.c.aggregate_kind == kind,
            self._bulk.among(anomalies.c.aggregate_id, aggregate_ids),
            anomalies.c.kind.in_(JUDGED),
        )
        found = self._connection.execute(statement).mappings()
        return {row["anomaly_id"]: dict(row) for row in found}

    def put_anomalies(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raises, changes and withdraws."""
        values = [tuple(row[column.name] for column in anomalies.columns) for row in rows]
        if values:
            self._bulk.merge(self._connection, anomalies, self._bulk.form(anomalies, values))

    def valid_times(self, event_ids: Collection[str]) -> dict[str, datetime]:
        """The valid time of these events."""
        statement = select(ledger_events.c.event_id, ledger_events.c.valid_at).where(
            self._bulk.among(ledger_events.c.event_id, sorted(event_ids))
        )
        return {row.event_id: row.valid_at for row in self._connection.execute(statement)}

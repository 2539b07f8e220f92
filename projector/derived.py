"""What is derived behind the folds: the SQL that reads their rows and writes what takes more than
one aggregate. Beside `store` the only place where SQL writes the read model, and never the same
rows: nobody waits here for a projector, nor a projector for this.

Statements are of many subjects each. What they find is put into the values of `lineage` and
`judgements`, which decide; `stage` says what happens in which order.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    cast,
    delete,
    literal,
    null,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from metaledger.projector.bulk import Bulk
from metaledger.projector.folds.image import BASE_IMAGE_REF
from metaledger.projector.folds.instance_turn import BASE
from metaledger.projector.judged import Subjects
from metaledger.projector.lineage import Declared, Lineage, Run, Taken, Upload, possible_id
from metaledger.projector.rows import Values
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
)
from metaledger.schemas.instance import InstanceRelocated
from metaledger.schemas.tables.image import image_property_history, images
from metaledger.schemas.tables.instance import (
    instance_attribute_history,
    instance_metadata_history,
    instances,
)
from metaledger.schemas.tables.ledger import anomalies, ledger_events, marks, read_model, streams
from metaledger.schemas.tables.lineage import (
    derived_lineage,
    image_ancestors,
    snapshot_uploads,
    snapshots,
    snapshots_taken,
)

# What these tell makes no snapshot another one.
_OF_PLACES = [
    it.__name__
    for it in (InstanceRelocated, HypervisorRegistered, HypervisorHostChanged, HypervisorRemoved)
]


class Mark(NamedTuple):
    """Something is to be derived and judged anew, for an event touched it."""

    event_id: str
    aggregate_kind: str
    aggregate_id: str


class Report(NamedTuple):
    """A source's latest report for a partition."""

    stream_id: str
    reported_at: datetime
    oldest_unsent_at: datetime | None


class Derivation:
    """The statements of one transaction; see `Store.deriving`."""

    def __init__(self, connection: Connection, bulk: Bulk) -> None:
        self._connection = connection
        self._bulk = bulk
        self.subjects = Subjects(connection, bulk)

    def lease(self) -> None:
        """Nobody else derives before this transaction has ended."""
        self._connection.execute(select(read_model.c.format).with_for_update())

    def reports(self) -> list[Report]:
        """How far the sources are."""
        columns = streams.c
        statement = select(columns.stream_id, columns.reported_at, columns.oldest_unsent_at)
        return [Report(*row) for row in self._connection.execute(statement)]

    def marks(self, settled_until: datetime | None, *, marks_max: int) -> list[Mark]:
        """What is to be derived now, and what waited to be judged until all sources were so far; in
        no order, for what comes of it has none.
        """
        columns = marks.c
        due: ColumnElement[bool] = columns.settles_at.is_(None)
        if settled_until is not None:
            due = or_(due, columns.settles_at <= settled_until)
        statement = (
            select(columns.event_id, columns.aggregate_kind, columns.aggregate_id)
            .where(due)
            .limit(marks_max)
        )
        return [Mark(*row) for row in self._connection.execute(statement)]

    def done(self, those: Sequence[Mark]) -> None:
        """Takes the marks away. One of the same event and of an aggregate that another of them
        named may go with them: it was there before, and its aggregate was derived.
        """
        for kind in {mark.aggregate_kind for mark in those}:
            of_kind = [mark for mark in those if mark.aggregate_kind == kind]
            self._connection.execute(
                delete(marks).where(
                    self._bulk.among(marks.c.event_id, [mark.event_id for mark in of_kind]),
                    marks.c.aggregate_kind == kind,
                    # As an expression, or SQLite looks up each pair of the two lists.
                    self._bulk.among(
                        marks.c.aggregate_id + "", [mark.aggregate_id for mark in of_kind]
                    ),
                )
            )

    def put(self, table: Table, rows: Sequence[Values]) -> None:
        """Adds the rows, or puts them in place of those that have their keys."""
        if rows:
            self._bulk.merge(self._connection, table, self._bulk.form(table, rows))

    def replace(self, table: Table, image_ids: Sequence[str], rows: Sequence[Values]) -> None:
        """All rows of these images are those."""
        if image_ids:
            those = self._bulk.among(table.c.image_id, image_ids)
            self._connection.execute(delete(table).where(those))
        if rows:
            self._bulk.copy(self._connection, table, self._bulk.form(table, rows))

    # What the folds know of images.

    def taken(self, image_ids: Sequence[str]) -> Mapping[str, list[Taken]]:
        """The SnapshotTaken of these images."""
        found = defaultdict[str, list[Taken]](list)
        those = self._bulk.among(snapshots_taken.c.image_id, image_ids)
        for row in self._connection.execute(select(snapshots_taken).where(those)):
            if possible_id(row.instance_uuid):
                found[row.image_id].append(
                    Taken(
                        event_id=row.event_id,
                        occurred_at=row.occurred_at,
                        instance_uuid=row.instance_uuid,
                        image_ref=possible_id(row.image_ref),
                        purpose=row.purpose,
                    )
                )
        return found

    def uploads(self, image_ids: Sequence[str]) -> Mapping[str, Upload]:
        """The last upload of those that were uploaded as snapshots."""
        columns = snapshot_uploads.c
        statement = (
            select(snapshot_uploads, images.c.registered_at)
            .outerjoin(images, images.c.image_id == columns.image_id)
            .where(self._bulk.among(columns.image_id, image_ids))
        )
        return {
            row.image_id: Upload(
                event_id=row.event_id,
                occurred_at=row.occurred_at,
                instance_uuid=possible_id(row.instance_uuid),
                begun_at=row.registered_at,
            )
            for row in self._connection.execute(statement)
        }

    def declared(self, image_ids: Sequence[str]) -> Mapping[str, Declared]:
        """What they declare, or last declared."""
        columns = image_property_history.c
        statement = (
            select(columns.image_id, columns.value, columns.set_by_event, columns.end_reason)
            .where(
                self._bulk.among(columns.image_id, image_ids),
                columns.key == BASE_IMAGE_REF,
                columns.value.is_not(None),
            )
            .order_by(columns.image_id, columns.version)
        )
        return {
            row.image_id: Declared(
                event_id=row.set_by_event,
                image_id=row.value,
                lost=row.end_reason not in (None, "image_deleted"),
            )
            for row in self._connection.execute(statement)
            if possible_id(row.value)
        }

    def runs(self, instance_uuids: Collection[str]) -> Mapping[str, list[Run]]:
        """What these instances ran, by the times at which their events happened, in order."""
        columns = instance_attribute_history.c
        began, ended = ledger_events.alias("began"), ledger_events.alias("ended")
        seen_boot = (began.c.event_type == "InstanceBooted") & (began.c.origin == "OBSERVED")
        statement = (
            select(
                columns.instance_uuid,
                columns.value,
                began.c.occurred_at,
                ended.c.occurred_at,
                seen_boot,
            )
            .join(began, began.c.event_id == columns.set_by_event)
            .outerjoin(ended, ended.c.event_id == columns.ended_by_event)
            .where(
                self._bulk.among(columns.instance_uuid, sorted(instance_uuids)),
                columns.kind == "attribute",
                columns.key == "image_ref",
            )
            .order_by(began.c.occurred_at, columns.version)
        )
        found = defaultdict[str, list[Run]](list)
        for instance_uuid, image_ref, since, until, is_boot in self._connection.execute(statement):
            found[instance_uuid].append(
                Run(image_ref=possible_id(image_ref), since=since, until=until, is_boot=is_boot)
            )
        return found

    def booted(self, instance_uuids: Collection[str]) -> set[str]:
        """Those that were seen to boot."""
        statement = select(instances.c.instance_uuid).where(
            self._bulk.among(instances.c.instance_uuid, sorted(instance_uuids)),
            instances.c.booted_at.is_not(None),
        )
        return set(self._connection.scalars(statement))

    # What was derived.

    def edges(self, image_ids: Collection[str]) -> dict[str, str | None]:
        """Where the edges of these images go; those of which nothing was derived are left out."""
        statement = select(derived_lineage.c.image_id, derived_lineage.c.edge_image_id).where(
            self._bulk.among(derived_lineage.c.image_id, sorted(image_ids))
        )
        return {row.image_id: row.edge_image_id for row in self._connection.execute(statement)}

    def ancestors(self, image_ids: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """The ancestors of these images, the nearest first."""
        columns = image_ancestors.c
        statement = (
            select(columns.image_id, columns.ancestor_image_id)
            .where(self._bulk.among(columns.image_id, sorted(image_ids)))
            .order_by(columns.image_id, columns.depth)
        )
        found = defaultdict[str, list[str]](list)
        for image_id, ancestor in self._connection.execute(statement):
            found[image_id].append(ancestor)
        return {image_id: tuple(those) for image_id, those in found.items()}

    def put_lineage(
        self,
        image_ids: Sequence[str],
        those: Sequence[Lineage],
        edges: Mapping[str, str | None],
    ) -> None:
        """The snapshots, and what is said of each image; of the others of these images nothing."""
        self.replace(
            snapshots, image_ids, [values for one in those if (values := _snapshot_values(one))]
        )
        self.replace(
            derived_lineage,
            image_ids,
            [_lineage_values(one, edges[one.image_id]) for one in those],
        )

    # What is to be derived next, each for the mark of the chunk that gave reason to.

    def mark_descendants(self, image_ids: Sequence[str]) -> None:
        """The edges of these images changed."""
        columns = image_ancestors.c
        self._mark(
            self._because("image", columns.image_id).join(
                image_ancestors, columns.ancestor_image_id == marks.c.aggregate_id
            ),
            "image",
            image_ids,
        )

    def mark_instances(self, image_ids: Sequence[str]) -> None:
        """The ancestors of these images changed, and with them what their instances may store."""
        stored = instance_metadata_history.c
        has_base = (
            select(stored.key)
            .where(
                stored.instance_uuid == instances.c.instance_uuid,
                stored.key == BASE,
                stored.valid_to.is_(None),
            )
            .exists()
        )
        self._mark(
            self._because("instance", instances.c.instance_uuid)
            .join(instances, instances.c.image_ref == marks.c.aggregate_id)
            .where(instances.c.deleted_at.is_(None), has_base),
            "image",
            image_ids,
        )

    def mark_strays(self, hypervisor_ids: Sequence[str]) -> None:
        """Something was told of these hypervisors, which may have been unknown until then."""
        of_it = anomalies.c
        is_astray = (
            select(of_it.anomaly_id)
            .where(
                of_it.aggregate_kind == "instance",
                of_it.aggregate_id == instances.c.instance_uuid,
                of_it.kind == "instance_hypervisor_unknown",
                of_it.withdrawn_by_event.is_(None),
            )
            .exists()
        )
        self._mark(
            self._because("instance", instances.c.instance_uuid)
            .join(instances, instances.c.hypervisor_id == marks.c.aggregate_id)
            .where(is_astray),
            "hypervisor",
            hypervisor_ids,
        )

    def mark_snapshots(self, instance_uuids: Sequence[str]) -> None:
        """Something changed of these instances, and not only where they are or on what."""
        told = ledger_events.c
        of_places = (
            select(told.event_id)
            .where(told.event_id == marks.c.event_id, told.event_type.in_(_OF_PLACES))
            .exists()
        )
        self._mark(
            self._because("image", snapshots.c.image_id)
            .join(snapshots, snapshots.c.instance_uuid == marks.c.aggregate_id)
            .where(~of_places),
            "instance",
            instance_uuids,
        )

    def mark_for_judgement(self, those: Mapping[Mark, datetime]) -> None:
        """They are to be judged again when the sources are so far."""
        self.put(marks, [(*mark, at) for mark, at in those.items()])

    def _because(self, kind: str, subject: Any) -> Select[Any]:  # noqa: ANN401 (a column)
        # PostgreSQL takes a bare NULL behind SELECT DISTINCT for text.
        return select(
            marks.c.event_id, literal(kind), subject, cast(null(), marks.c.settles_at.type)
        )

    def _mark(self, found: Select[Any], kind: str, because_of: Sequence[str]) -> None:
        if not because_of:
            return
        insert = sqlite.insert if self._connection.dialect.name == "sqlite" else postgresql.insert
        of_those = found.where(
            marks.c.aggregate_kind == kind,
            self._bulk.among(marks.c.aggregate_id, because_of),
        )
        statement = insert(marks).from_select(list(marks.c.keys()), of_those.distinct())
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(marks.primary_key.columns), set_={"settles_at": null()}
            )
        )


def _snapshot_values(one: Lineage) -> Values | None:
    it = one.snapshot
    if it is None:
        return None
    return (one.image_id, it.instance_uuid, it.parent_image_id, it.purpose, it.taken_at)


def _lineage_values(one: Lineage, edge: str | None) -> Values:
    declared = one.declared
    return (
        one.image_id,
        one.snapshot.instance_uuid if one.snapshot else None,
        one.parent_image_id,
        declared.image_id if declared else None,
        declared.lost if declared else False,
        one.base_image_ref,
        one.root_image_id,
        one.evidence,
        edge,
    )

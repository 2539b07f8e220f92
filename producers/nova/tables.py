"""A Nova cell's tables, as far as the ledger reads them, and the one way to read an instance.

Rules: only reads; an instance with its system metadata in one statement (`watching/union`). Named
are only columns that the ledger tells of: never a user's data or keys, never `connection_info`.
System metadata may hold passwords, so what may not be recorded is dropped as it is read.

The compute node that an instance is on is read within that statement, and not locked there: it is
not what changes. A flavor's name and a migration's type are asked for by themselves, where an event
needs them. Block device mappings are not read: an instance that boots from a volume has an empty
`image_ref`, and that says it.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    select,
)

from metaledger.producers.nova.rows import HypervisorState, InstanceState, recorded_metadata
from metaledger.producers.watching.service import Reading
from metaledger.producers.watching.union import IDS_MAX, Main, MainRow, Part, PartRow, Union

_METADATA = MetaData()


def _table(name: str, *columns: Column[Any]) -> Table:
    """A table of Nova's, where `deleted` is the row's own id once it is."""
    key = Column("id", Integer, primary_key=True)
    return Table(name, _METADATA, key, *columns, Column("deleted", Integer))


def _strings(*names: str) -> Iterable[Column[Any]]:
    return (Column(name, String(255)) for name in names)


INSTANCES = _table(
    "instances",
    Column("uuid", String(36), unique=True),
    *_strings("image_ref", "host", "node", "vm_state", "task_state"),
    Column("compute_id", BigInteger),
    Column("hidden", Boolean),
    Column("created_at", DateTime),
    Column("deleted_at", DateTime),
)
SYSTEM_METADATA = _table(
    "instance_system_metadata",
    Column("instance_uuid", String(36)),
    *_strings("key", "value"),
)
COMPUTE_NODES = _table(
    "compute_nodes",
    Column("uuid", String(36)),
    *_strings("host", "hypervisor_hostname", "hypervisor_type"),
    Column("deleted_at", DateTime),
)
MIGRATIONS = _table(
    "migrations", Column("instance_uuid", String(36)), Column("migration_type", String(16))
)
# What the API was asked to do with an instance.
INSTANCE_ACTIONS = _table(
    "instance_actions", Column("instance_uuid", String(36)), *_strings("action")
)
INSTANCE_EXTRA = _table(
    "instance_extra", Column("instance_uuid", String(36)), Column("flavor", Text)
)


def read_instances(connection: Connection, uuids: Collection[str]) -> Reading[InstanceState]:
    """The instances with these uuids, by aggregate, in a form that says what they are now.

    Of those that are there: soft-deleted ones too. `states` is in the order of the uuids.
    """
    return _read(_UNION.rows(connection, sorted(set(uuids))))


def read_committed_instances(
    connection: Connection, uuids: Collection[str]
) -> Reading[InstanceState]:
    """As `read_instances`, on a connection that reads what is committed: it locks nothing."""
    return _read(_UNION.committed(connection, sorted(set(uuids))))


def _read(rows: Iterable[MainRow | PartRow]) -> Reading[InstanceState]:
    reading: Reading[InstanceState] = Reading()
    instances: list[MainRow] = []
    metadata: defaultdict[str, list[PartRow]] = defaultdict(list)
    for row in rows:
        if isinstance(row, MainRow):
            instances.append(row)
            reading.owners[INSTANCES.name, row.columns["id"]] = f"instance:{row.id}"
        else:
            metadata[row.id].append(row)
            reading.owners[row.table, row.row_id] = f"instance:{row.id}"
    for row in sorted(instances, key=_id):
        reading.states[f"instance:{row.id}"] = _state(row, metadata[row.id])
    return reading


def read_flavors(connection: Connection, uuids: Collection[str]) -> dict[str, str]:
    """The names of the instances' flavors, by uuid, of those that have one."""
    found: dict[str, str] = {}
    ordered = sorted(set(uuids))
    for start in range(0, len(ordered), IDS_MAX):
        which = INSTANCE_EXTRA.c.instance_uuid.in_(ordered[start : start + IDS_MAX])
        for uuid, flavor in connection.execute(_FLAVORS.where(which)).all():
            if (name := _flavor_name(flavor)) is not None:
                found[uuid] = name
    return found


def read_migration_type(connection: Connection, uuid: str) -> str | None:
    """The type of the instance's last migration: `resize`, `migration`, `live-migration`,
    `evacuation`."""
    which = MIGRATIONS.c.instance_uuid == uuid
    found: str | None = connection.scalar(_LAST_MIGRATION.where(which))
    return found


def read_hypervisors(
    connection: Connection, hypervisor_ids: Collection[str]
) -> Reading[HypervisorState]:
    """The compute nodes with these uuids, by aggregate."""
    reading: Reading[HypervisorState] = Reading()
    ordered = sorted(set(hypervisor_ids))
    for start in range(0, len(ordered), IDS_MAX):
        which = COMPUTE_NODES.c.uuid.in_(ordered[start : start + IDS_MAX])
        # A locking read: under MySQL's repeatable read a plain one may be stale.
        query = _HYPERVISORS.where(which).order_by(COMPUTE_NODES.c.id).with_for_update()
        for row_id, uuid, deleted in connection.execute(query).all():
            aggregate = f"hypervisor:{uuid}"
            reading.owners[COMPUTE_NODES.name, row_id] = aggregate
            reading.states[aggregate] = HypervisorState(hypervisor_id=uuid, deleted=deleted != 0)
    return reading


def _state(row: MainRow, metadata: Sequence[PartRow]) -> InstanceState:
    held, deleted = dict(row.columns), bool(row.deleted)
    stored = {
        it.name: it.value
        for it in sorted(metadata, key=lambda it: it.row_id)
        # They are marked as deleted with their instance.
        if deleted or not it.deleted
    }
    return InstanceState(
        instance_uuid=row.id,
        # Empty where it boots from a volume.
        image_ref=held["image_ref"] or None,
        hypervisor_id=held["compute_uuid"],
        host=held["host"],
        node=held["node"],
        vm_state=held["vm_state"],
        task_state=held["task_state"],
        hidden=bool(held["hidden"]),
        deleted=deleted,
        created_at=_time(held["created_at"]),
        deleted_at=_time(held["deleted_at"]),
        metadata=recorded_metadata(stored),
    )


def _id(row: MainRow) -> str:
    return row.id


def _time(text: str | None) -> datetime | None:
    """Nova's times are UTC and do not say so."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def _flavor_name(document: str | None) -> str | None:
    """The name in Nova's serialised flavor; None where it has another form."""
    try:
        name = json.loads(document or "")["cur"]["nova_object.data"]["name"]
    except (ValueError, LookupError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _compute_uuid() -> Any:  # noqa: ANN401
    """The compute node's uuid, by its id, else (older instances) by its names, a live one first."""
    nodes, by_name = COMPUTE_NODES.alias("node"), COMPUTE_NODES.alias("named")
    named = (by_name.c.host == INSTANCES.c.host) & (
        by_name.c.hypervisor_hostname == INSTANCES.c.node
    )
    return func.coalesce(
        select(nodes.c.uuid).where(nodes.c.id == INSTANCES.c.compute_id).scalar_subquery(),
        select(by_name.c.uuid)
        .where(named)
        .order_by(by_name.c.deleted, by_name.c.id.desc())
        .limit(1)
        .scalar_subquery(),
    )


_UNION = Union(
    Main(
        table=INSTANCES,
        key=INSTANCES.c.uuid,
        read={
            "compute_uuid": _compute_uuid(),
            **{
                name: INSTANCES.c[name]
                for name in (
                    *("id", "image_ref", "host", "node", "vm_state", "task_state"),
                    *("hidden", "created_at", "deleted_at"),
                )
            },
        },
    ),
    Part(
        table=SYSTEM_METADATA,
        key=SYSTEM_METADATA.c.instance_uuid,
        name=SYSTEM_METADATA.c.key,
        value=SYSTEM_METADATA.c.value,
    ),
)
_FLAVORS = select(INSTANCE_EXTRA.c.instance_uuid, INSTANCE_EXTRA.c.flavor)
_LAST_MIGRATION = select(MIGRATIONS.c.migration_type).order_by(MIGRATIONS.c.id.desc()).limit(1)
_HYPERVISORS = select(COMPUTE_NODES.c.id, COMPUTE_NODES.c.uuid, COMPUTE_NODES.c.deleted)

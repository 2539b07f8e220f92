"""Nova, as the watching of its engines knows it: its tables, its instances and its compute nodes.

`watching` reads and records, `tables` says how, `rows` (pure) what happened, `intents` what Nova
was told. An UPDATE that sets nothing of what is told costs Nova nothing: most of what it saves is
the state of a task, or a compute node's usage, each minute. So a save of metadata has locked its
instance's row before its counter, and a move takes them the other way round: where two such
transactions of one instance meet, one is told of a deadlock, and Nova runs it again.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from metaledger.producers.nova import intents, rows
from metaledger.producers.nova.intents import Rebuild
from metaledger.producers.nova.rows import HypervisorState, InstanceState
from metaledger.producers.nova.tables import (
    COMPUTE_NODES,
    INSTANCE_ACTIONS,
    INSTANCES,
    SYSTEM_METADATA,
    read_flavors,
    read_hypervisors,
    read_instances,
    read_migration_type,
)
from metaledger.producers.tables import METADATA as OUTBOX_TABLES
from metaledger.producers.watching.service import Change, Reading, Service, Watched
from metaledger.schemas.events import EventData
from metaledger.schemas.instance import InstanceEvent, InstanceRebuilt

State = InstanceState | HypervisorState

_INSTANCE, _HYPERVISOR = "instance:", "hypervisor:"
_TELLING = frozenset({"uuid", "image_ref", "host", "node", "compute_id", "hidden", "deleted"})


def _tells(columns: Collection[str]) -> bool:
    # A rebuild from the same image changes the state alone.
    return not _TELLING.isdisjoint(columns) or intents.is_rebuilding()


def _removes(columns: Collection[str]) -> bool:
    return "deleted" in columns


TABLES = {
    INSTANCES.name: Watched(kind="instance", key="uuid", registers=True, tells=_tells),
    SYSTEM_METADATA.name: Watched(kind="instance", key="instance_uuid"),
    COMPUTE_NODES.name: Watched(kind="hypervisor", key="uuid", registers=True, tells=_removes),
    INSTANCE_ACTIONS.name: Watched(
        kind="instance", key="instance_uuid", when=intents.is_rebuilding
    ),
}


def _read(connection: Connection, aggregates: Collection[str]) -> Reading[State]:
    reading: Reading[State] = Reading()
    uuids = [it.removeprefix(_INSTANCE) for it in aggregates if it.startswith(_INSTANCE)]
    nodes = [it.removeprefix(_HYPERVISOR) for it in aggregates if it.startswith(_HYPERVISOR)]
    if uuids:
        instances = read_instances(connection, uuids)
        reading.states.update(instances.states)
        reading.owners.update(instances.owners)
    if nodes:
        hypervisors = read_hypervisors(connection, nodes)
        reading.states.update(hypervisors.states)
        reading.owners.update(hypervisors.owners)
    return reading


def _happened(connection: Connection, change: Change[State]) -> Sequence[EventData]:
    before, after = change.before, change.after
    if isinstance(before, HypervisorState) or isinstance(after, HypervisorState):
        was = before if isinstance(before, HypervisorState) else None
        return rows.removed(was, after if isinstance(after, HypervisorState) else None)
    uuid = change.aggregate.removeprefix(_INSTANCE)
    rebuild = intents.rebuild_of(uuid)
    told = rows.events(
        rows.Transition(
            before=before,
            after=after,
            rebuild_image=None if rebuild is None else rebuild.image_ref,
            flavor=_flavor(connection, uuid) if rows.boots(before, after) else None,
            migration_type=(
                read_migration_type(connection, uuid) if rows.moves(before, after) else None
            ),
            occurred_at=change.occurred_at,
        )
    )
    if rebuild is not None and after is not None:
        told += _completed(rebuild, after, told)
    return told


def _completed(
    rebuild: Rebuild, after: InstanceState, told: Sequence[EventData]
) -> Sequence[InstanceEvent]:
    """The save that a rebuild did without, for its image's metadata was stored already: so it is
    after one that was rolled back. Nova notes the action when that would have been saved.
    """
    if told or not rebuild.is_open:
        rebuild.is_open = any(isinstance(it, InstanceRebuilt) for it in told)
        return ()
    rebuild.is_open = False
    return [rows.kept(after)]


def _imported(connection: Connection, state: State, occurred_at: datetime) -> Sequence[EventData]:
    # Of a hypervisor the compute side tells, all but its end.
    if isinstance(state, HypervisorState):
        return ()
    flavor = _flavor(connection, state.instance_uuid)
    # One that was hidden is shown by this transaction: the ledger meets it here.
    shown = replace(state, hidden=False)
    return rows.imported(shown, flavor=flavor, seen_at=occurred_at)


def _reconciled(connection: Connection, state: State, occurred_at: datetime) -> Sequence[EventData]:
    if isinstance(state, HypervisorState):
        return rows.removed(replace(state, deleted=False), state)
    flavor = _flavor(connection, state.instance_uuid)
    return rows.reconciled(state, flavor=flavor, occurred_at=occurred_at)


def _flavor(connection: Connection, uuid: str) -> str | None:
    return read_flavors(connection, [uuid]).get(uuid)


def _install() -> None:
    intents.install()
    # `nova-manage db archive_deleted_rows` goes through every table of the database, and ends with
    # an error at one that is neither Nova's nor among those that Nova calls removed.
    removed = getattr(sys.modules.get("nova.db.main.models"), "REMOVED_TABLES", None)
    if isinstance(removed, set):
        removed.update(OUTBOX_TABLES.tables)


NOVA: Service[State] = Service(
    name="nova",
    tables=TABLES,
    read=_read,
    happened=_happened,
    imported=_imported,
    reconciled=_reconciled,
    request=intents.request_context,
    install=_install,
)

"""A Nova cell's compute nodes and instances as cold start and reconciliation read them.

- A hidden row is another cell's instance, on its way or gone: here it is none, and nothing of it is
  told or compared.
- What was archived stands in tables of its own, which nobody reads: it was deleted.
- Where the compute node of an instance is known, its place is that, and a host name alone is no
  difference. A flavor is told by a boot alone, and a resize changes it: it is not compared.
- The boot of an instance that the ledger knows changes nothing, so what differs is mended by what
  may change it: its image by a rebuild, its stored metadata by a save, its place by a relocation.
  One that is told whole was rebuilt only where its image differs: a rebuild makes the metadata that
  is stored the one that it has by right.
- A rebuild that the ledger knows without its metadata (the API was killed between its two
  transactions, or the second one went unrecorded) is open, and what is stored completes it, once
  Nova says that none is going on. One of the image that it ran already shows nowhere.
- By which names a hypervisor is reached nova-compute says itself, through a stream of its own: of a
  compute node it is compared whether it is there. So is the image of an instance whose row names
  none, as of one on a volume that was rebuilt: it stays as the ledger has it.
- A compute node does not say where its uuid comes from: of an ironic's it is the node's own, else
  Nova keeps it in a file. One that no service has claimed has no host, and is left out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from metaledger.producers.nova import rows
from metaledger.producers.nova.rows import InstanceState
from metaledger.producers.nova.tables import (
    COMPUTE_NODES,
    INSTANCE_EXTRA,
    INSTANCES,
    SYSTEM_METADATA,
    read_committed_instances,
    read_flavors,
)
from metaledger.producers.source import STATE, WHOLE, Kind, Standing, What
from metaledger.producers.watching.union import IDS_MAX
from metaledger.schemas.hypervisor import (
    HypervisorEvent,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.instance import (
    InstanceDeleted,
    InstanceEvent,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceSystemMetadataSaved,
    RelocationCause,
)
from metaledger.schemas.representable import representable, representable_map

_IMAGE, _HOST, _HYPERVISOR = (("attribute", it) for it in ("image_ref", "host", "hypervisor_id"))
# Of a rebuild, which is all that the ledger can lack of it.
REBUILD: What = ("rebuild", "metadata")
_NAMES = [("attribute", it) for it in ("host", "hypervisor_hostname", "hypervisor_type")]
_METADATA = "metadata"
_NATIVE_TYPES = frozenset({"ironic"})


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, and the name of its flavor."""

    state: InstanceState
    flavor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A compute node's row. `host` is None where no service has claimed it."""

    uuid: str
    host: str | None
    hypervisor_hostname: str | None
    hypervisor_type: str | None
    deleted: bool


def read_all(connection: Connection, uuids: Sequence[str]) -> dict[str, Instance]:
    """The instances with these uuids, by aggregate, deleted ones too."""
    states = read_committed_instances(connection, uuids).states
    flavors = read_flavors(connection, uuids)
    return {
        name: Instance(state, flavors.get(state.instance_uuid)) for name, state in states.items()
    }


def read_nodes(connection: Connection, uuids: Sequence[str]) -> dict[str, Node]:
    """The compute nodes with these uuids, by aggregate, deleted ones too."""
    nodes: dict[str, Node] = {}
    for start in range(0, len(uuids), IDS_MAX):
        which = COMPUTE_NODES.c.uuid.in_(uuids[start : start + IDS_MAX])
        for row in connection.execute(_NODES.where(which)):
            nodes[f"hypervisor:{row.uuid}"] = Node(
                uuid=row.uuid,
                host=_text(row.host),
                hypervisor_hostname=_text(row.hypervisor_hostname),
                hypervisor_type=_text(row.hypervisor_type),
                deleted=bool(row.deleted),
            )
    return nodes


def _imported(instance: Instance, now: datetime) -> Sequence[InstanceEvent]:
    return rows.imported(instance.state, flavor=instance.flavor, seen_at=now)


def _standing(instance: Instance) -> Standing | None:
    state = instance.state
    if state.hidden:
        return None
    if state.deleted:
        return Standing(deleted=True)
    metadata, _ = representable_map(state.metadata)
    place = {_HYPERVISOR: state.hypervisor_id, _HOST: _text(state.host)}
    image = _text(state.running_image)
    unknown = [] if image is not None else [_IMAGE, REBUILD]
    if state.is_rebuilding:
        unknown.append(REBUILD)
    if state.host is not None:
        unknown.append(_HOST if state.hypervisor_id is not None else _HYPERVISOR)
    return Standing(
        values={
            _IMAGE: image,
            **place,
            **{(_METADATA, key): value for key, value in metadata.items()},
        },
        unknown=unknown,
    )


def _reconciled(
    instance: Instance, differs: Collection[What], now: datetime
) -> Sequence[InstanceEvent]:
    state, uuid = instance.state, instance.state.instance_uuid
    if state.deleted:
        return [InstanceDeleted(instance_uuid=uuid, deleted_at=state.deleted_at or now)]
    metadata, altered = representable_map(state.metadata)
    told: list[InstanceEvent] = []
    image = _text(state.running_image)
    if image is not None and not {_IMAGE, REBUILD, STATE}.isdisjoint(differs):
        told.append(
            InstanceRebuilt(instance_uuid=uuid, image_ref=image, after=metadata, altered=altered)
        )
    elif not {STATE, WHOLE}.isdisjoint(differs) or any(what == _METADATA for what, _ in differs):
        told.append(
            InstanceSystemMetadataSaved(
                instance_uuid=uuid, operation="reconcile", after=metadata, altered=altered
            )
        )
    if not {_HYPERVISOR, _HOST, STATE, WHOLE}.isdisjoint(differs):
        told.append(
            InstanceRelocated(
                instance_uuid=uuid,
                cause=RelocationCause.SCHEDULED,
                to_hypervisor_id=state.hypervisor_id,
                to_host=_text(state.host),
            )
        )
    return told


def _purged(uuid: str, now: datetime) -> Sequence[InstanceEvent]:
    return [InstanceDeleted(instance_uuid=uuid, deleted_at=now)]


def _node_imported(node: Node, _now: datetime) -> Sequence[HypervisorEvent]:
    told = _registered(node)
    if told and node.deleted:
        return [*told, HypervisorRemoved(hypervisor_id=node.uuid)]
    return told


def _registered(node: Node) -> Sequence[HypervisorEvent]:
    if node.host is None:
        return []
    native = node.hypervisor_type in _NATIVE_TYPES
    return [
        HypervisorRegistered(
            hypervisor_id=node.uuid,
            id_source=IdSource.NATIVE if native else IdSource.FILE,
            host=node.host,
            hypervisor_hostname=node.hypervisor_hostname,
            hypervisor_type=node.hypervisor_type,
        )
    ]


def _node_standing(node: Node) -> Standing | None:
    if node.host is None:
        return None
    if node.deleted:
        return Standing(deleted=True)
    return Standing(unknown=_NAMES)


def _node_reconciled(
    node: Node, _differs: Collection[What], _now: datetime
) -> Sequence[HypervisorEvent]:
    return [HypervisorRemoved(hypervisor_id=node.uuid)] if node.deleted else _registered(node)


def _node_purged(uuid: str, _now: datetime) -> Sequence[HypervisorEvent]:
    return [HypervisorRemoved(hypervisor_id=uuid)]


def _text(value: str | None) -> str | None:
    return None if value is None else representable(value)


_NODES = select(
    COMPUTE_NODES.c.uuid,
    COMPUTE_NODES.c.host,
    COMPUTE_NODES.c.hypervisor_hostname,
    COMPUTE_NODES.c.hypervisor_type,
    COMPUTE_NODES.c.deleted,
)

# Hypervisors first: the places of instances name them.
KINDS: tuple[Kind[Node], Kind[Instance]] = (
    Kind(
        name="hypervisor",
        tables=[COMPUTE_NODES.name],
        key=COMPUTE_NODES.c.uuid,
        undated=(COMPUTE_NODES.c.deleted != 0) & COMPUTE_NODES.c.deleted_at.is_(None),
        read=read_nodes,
        imported=_node_imported,
        standing=_node_standing,
        reconciled=_node_reconciled,
        purged=_node_purged,
    ),
    Kind(
        name="instance",
        tables=[INSTANCES.name, SYSTEM_METADATA.name, INSTANCE_EXTRA.name],
        key=INSTANCES.c.uuid,
        undated=(INSTANCES.c.deleted != 0) & INSTANCES.c.deleted_at.is_(None),
        read=read_all,
        imported=_imported,
        standing=_standing,
        reconciled=_reconciled,
        purged=_purged,
    ),
)

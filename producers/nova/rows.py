"""From what Nova's database held of an instance before and after a transaction to events. Pure.

Rules, from EVENTS.md and from what Nova 34 does:

- The rows decide whether something happened. Nova's states say how it was meant, and the one thing
  that they cannot tell, a rebuild from the same image, its own call does (`intents`).
- Rebuild: the API commits the image with the state `rebuilding`, and the metadata in its next
  transaction. So InstanceRebuilt has no `after`, and the save, whose operation is `rebuild`,
  completes it. Where the metadata is stored already (after a rebuild that was rolled back) Nova
  saves nothing, and the action that it notes then stands for the save (`kept`). An image that is
  put back while the state is still `rebuilding` is a rebuild that
  found no host, for that is all that Nova restores.
- Unshelving spawns from the snapshot and keeps its id in `image_ref` meanwhile. That image is
  borrowed: what runs is what the shelving noted as the base (`running_image`). Any other change of
  `image_ref` that is no rebuild (a resize between cells borrows too) tells nothing.
- Instances are made without a host: the first one is a relocation. What is taken off its host
  (shelved, or to be scheduled again) is relocated to nowhere, with cause SCHEDULED.
- A hidden row is another cell's instance, on its way or gone: here it is none. One that is shown
  has arrived by a resize.
- An instance is gone when its row is marked as deleted. What follows tells nothing: its metadata is
  marked, and later both are archived.

An instance as it stands, as events of a cold start, is `imported`. Times, and what stands in other
tables, are arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from metaledger.schemas.hypervisor import HypervisorRemoved
from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceDeleted,
    InstanceEvent,
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceSystemMetadataSaved,
    Metadata,
    RelocationCause,
)
from metaledger.schemas.representable import representable, representable_map

# Of system metadata these are recorded, and what begins with `image_`; Nova keeps passwords and
# users' free text there too.
_RECORDED = frozenset(
    {
        *("old_vm_state", "owner_project_name", "owner_user_name"),
        *("shelved_at", "shelved_host", "shelved_image_id"),
    }
)
_IMAGE, _SECRET = "image_", "password"
_CAUSES = {
    "evacuation": RelocationCause.EVACUATION,
    "live-migration": RelocationCause.LIVE_MIGRATION,
    "migration": RelocationCause.COLD_MIGRATION,
    "resize": RelocationCause.RESIZE,
}
_SHELVED, _REBUILDING = "shelved", "rebuild"
# The first part of Nova's task_state, and what a save during it belongs to.
_OPERATIONS = (
    ("rebuild", "rebuild"),
    ("resize", "resize"),
    ("shelving", "shelve"),
    ("unshelving", "unshelve"),
    ("migrating", "live-migration"),
    ("rescuing", "rescue"),
    ("unrescuing", "unrescue"),
)
_BUILDING = frozenset({"scheduling", "block_device_mapping", "networking", "spawning"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceState:
    """What Nova's tables hold of one instance.

    `metadata` is what may be recorded of its system metadata: the live rows, and all of an instance
    that is deleted. `hypervisor_id` is the uuid of the compute node that it is on; `host` and
    `node` are that one's names, and None together with it. Times are aware.
    """

    instance_uuid: str
    image_ref: str | None = None
    hypervisor_id: str | None = None
    host: str | None = None
    node: str | None = None
    vm_state: str | None = None
    task_state: str | None = None
    hidden: bool = False
    deleted: bool = False
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    metadata: Metadata = field(default_factory=dict)

    @property
    def running_image(self) -> str | None:
        """The image that it runs; None: it runs from a volume."""
        shelved = self.metadata.get("shelved_image_id")
        if self.image_ref is not None and self.image_ref == shelved:
            return self.metadata.get("image_base_image_ref") or self.image_ref
        return self.image_ref

    @property
    def is_rebuilding(self) -> bool:
        """Whether a rebuild (or an evacuation, which Nova takes for one) is going on."""
        return (self.task_state or "").startswith(_REBUILDING)

    @property
    def is_shelved(self) -> bool:
        """Whether it is shelved, on a host still or not."""
        return (self.vm_state or "").startswith(_SHELVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorState:
    """A compute node's row. `hypervisor_id` is its uuid."""

    hypervisor_id: str
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One instance in one transaction.

    `rebuild_image`: Nova was told to rebuild it from this image. `flavor` is its name, for a boot;
    `migration_type` that of its last migration, for a relocation. `occurred_at` is aware.
    """

    before: InstanceState | None
    after: InstanceState | None
    rebuild_image: str | None = None
    flavor: str | None = None
    migration_type: str | None = None
    occurred_at: datetime


def recorded_metadata(metadata: Mapping[str, str | None]) -> dict[str, str | None]:
    """What of the system metadata may be recorded."""
    return {
        key: value
        for key, value in metadata.items()
        if (key.startswith(_IMAGE) and _SECRET not in key) or key in _RECORDED
    }


def events(transition: Transition) -> list[InstanceEvent]:
    """What happened, in order; empty where nothing did."""
    before, after = transition.before, transition.after
    if before is None or before.hidden or before.deleted:
        if after is None or after.hidden or after.deleted:
            return []
        if before is None or before.deleted:
            return [_booted(after, transition.flavor)]
        return [_arrived(after)]
    if after is None or after.deleted:
        return [
            InstanceDeleted(instance_uuid=before.instance_uuid, deleted_at=transition.occurred_at)
        ]
    return [] if after.hidden else _changed(before, after, transition)


def boots(before: InstanceState | None, after: InstanceState | None) -> bool:
    """Whether the transaction boots it, so that its flavor has to be known."""
    return (before is None or before.deleted) and after is not None and not after.deleted


def moves(before: InstanceState | None, after: InstanceState | None) -> bool:
    """Whether it came from one host to another, so that the migration has to be known."""
    return before is not None and after is not None and _has_moved(before, after)


def imported(state: InstanceState, *, flavor: str | None, seen_at: datetime) -> list[InstanceEvent]:
    """An instance as it stands, as events of a cold start (origin IMPORTED), in order.

    Its boot as far as it can still be known: the image that it runs, the metadata that is stored
    and the place where it is now; and its deletion, at `seen_at` where the row does not say when
    (`deleted_at` None of a deleted instance is a defect that is the caller's to report). Nothing of
    a hidden one.

        reading = read_instances(connection, uuids)              # under the counters' locks
        flavors = read_flavors(connection, uuids)
        for state in reading.states.values():
            imported(state, flavor=flavors.get(state.instance_uuid), seen_at=now)
    """
    if state.hidden:
        return []
    told: list[InstanceEvent] = [_booted(state, flavor)]
    if state.deleted:
        deleted_at = state.deleted_at or seen_at
        told.append(InstanceDeleted(instance_uuid=state.instance_uuid, deleted_at=deleted_at))
    return told


def reconciled(
    state: InstanceState, *, flavor: str | None, occurred_at: datetime
) -> list[InstanceEvent]:
    """All that the database holds, to mend what could not be recorded (origin RECONCILED).

    A boot, which changes nothing where one is known, and what is stored and where it is now. The
    image is the boot's: a rebuild that nobody recorded shows at the next one.
    """
    told = imported(state, flavor=flavor, seen_at=occurred_at)
    if state.hidden or state.deleted:
        return told
    metadata, altered = representable_map(state.metadata)
    saved = InstanceSystemMetadataSaved(
        instance_uuid=state.instance_uuid, operation="reconcile", after=metadata, altered=altered
    )
    return [*told, saved, _arrived(state, RelocationCause.SCHEDULED)]


def kept(state: InstanceState) -> InstanceSystemMetadataSaved:
    """A rebuild's save that changed nothing: what is stored is the metadata of its image."""
    metadata, altered = representable_map(state.metadata)
    return InstanceSystemMetadataSaved(
        instance_uuid=state.instance_uuid,
        operation="rebuild",
        before=metadata,
        after=metadata,
        altered=altered,
    )


def removed(
    before: HypervisorState | None, after: HypervisorState | None
) -> list[HypervisorRemoved]:
    """Whether the hypervisor was taken from the cloud: its row is marked as deleted, or gone."""
    if before is None or before.deleted or (after is not None and not after.deleted):
        return []
    return [HypervisorRemoved(hypervisor_id=before.hypervisor_id)]


def _booted(state: InstanceState, flavor: str | None) -> InstanceBooted:
    metadata, altered = representable_map(state.metadata)
    return InstanceBooted(
        instance_uuid=state.instance_uuid,
        image_ref=_text(state.running_image),
        system_metadata=metadata,
        flavor=_text(flavor),
        hypervisor_id=state.hypervisor_id,
        host=_text(state.host),
        altered=altered,
    )


def _arrived(
    state: InstanceState, cause: RelocationCause = RelocationCause.RESIZE
) -> InstanceRelocated:
    return InstanceRelocated(
        instance_uuid=state.instance_uuid,
        cause=cause,
        to_hypervisor_id=state.hypervisor_id,
        to_host=_text(state.host),
    )


def _changed(
    before: InstanceState, after: InstanceState, transition: Transition
) -> list[InstanceEvent]:
    told = [*_rebuilt(before, after, transition.rebuild_image)]
    if before.metadata != after.metadata:
        held, _ = representable_map(before.metadata)
        holds, altered = representable_map(after.metadata)
        told.append(
            InstanceSystemMetadataSaved(
                instance_uuid=after.instance_uuid,
                operation=_operation(before, after),
                before=held,
                after=holds,
                altered=altered,
            )
        )
    if _has_moved(before, after):
        told.append(
            InstanceRelocated(
                instance_uuid=after.instance_uuid,
                cause=_cause(before, after, transition.migration_type),
                from_hypervisor_id=before.hypervisor_id,
                to_hypervisor_id=after.hypervisor_id,
                from_host=_text(before.host),
                to_host=_text(after.host),
            )
        )
    return told


def _rebuilt(
    before: InstanceState, after: InstanceState, rebuild_image: str | None
) -> Sequence[InstanceEvent]:
    was, now = before.running_image, after.running_image
    if before.is_rebuilding:
        if was == now:
            return ()
        return [InstanceRebuildRolledBack(instance_uuid=after.instance_uuid, image_ref=_text(now))]
    image = rebuild_image or (now if was != now else None)
    if image is None or not after.is_rebuilding:
        return ()
    held, altered = representable_map(before.metadata)
    return [
        InstanceRebuilt(
            instance_uuid=after.instance_uuid,
            previous_image_ref=_text(was),
            image_ref=representable(image),
            before=held,
            altered=altered,
        )
    ]


def _operation(before: InstanceState, after: InstanceState) -> str:
    """What the save belongs to: Nova's state behind it, or, where that is over, before it."""
    task_state = after.task_state or before.task_state
    if task_state is None:
        return "save"
    for prefix, operation in _OPERATIONS:
        if task_state.startswith(prefix):
            return operation
    if task_state in _BUILDING:
        return "unshelve" if before.is_shelved else "build"
    return representable(task_state)


def _has_moved(before: InstanceState, after: InstanceState) -> bool:
    if (before.host, before.node) != (after.host, after.node):
        return True
    ids = (before.hypervisor_id, after.hypervisor_id)
    return None not in ids and ids[0] != ids[1]


def _cause(
    before: InstanceState, after: InstanceState, migration_type: str | None
) -> RelocationCause:
    if before.host is None and after.host is not None and before.is_shelved:
        return RelocationCause.UNSHELVE
    if before.host is None or after.host is None:
        return RelocationCause.SCHEDULED
    return _CAUSES.get(migration_type or "", RelocationCause.SCHEDULED)


def _text(value: str | None) -> str | None:
    return None if value is None else representable(value)

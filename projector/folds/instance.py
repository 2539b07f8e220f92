"""The instance aggregate: what its events make of an instance (EVENTS.md, "Folding instances").
Pure.

Gives the rows of `instances`, its histories and locations, and the anomalies that instances raise,
each kind once an event; its disks are folded in `disk`. Decided here, where the contract leaves it
open, as for images:

- What the compute side tells (rescue, snapshots, disks) and what the service's database tells (all
  else) come by streams without an order between them: neither ever looks at the other. So a
  deletion ends no rescue and no disk; `instances` shows no rescue of a deleted instance.
- A null of a boot tells nothing. A boot that comes late is the first; a second one raises
  history_gap, and what it replaces or leaves out ended unseen. One that nobody observed (IMPORTED,
  RECONCILED) is the boot of an instance of which no boot, rebuild or deletion is known; of any
  other it changes nothing, for it would overrule what was observed. `boot_told_at` says since when
  a boot is known, of either kind; `booted_at` when somebody saw one.
- An event of a deleted instance from its database is applied, brings it back and raises
  history_gap; a second deletion changes nothing. The row of `instances` keeps what was last known.
- `before`, `previous_image_ref` and the place that a relocation leaves say what was there: where
  the ledger knew otherwise, that ended unseen, and it raises history_gap. Where it knew nothing yet
  (nobody told of the instance's boot), it raises none.
- A rebuild can be rolled back until the next rebuild, boot or deletion. One that puts back another
  image than was there raises semantics_divergence, and is right. Where the rebuild is not known
  (there is none, or both name a request and the two differ) what is authoritative stays, the image
  is the one that was put back, and an instance whose boot is known raises history_gap.
- Requests are compared as they are told: a rebuild and a save that both name none are of one.
- A rebuild whose save went unrecorded is completed by the RECONCILED save that mends that: what is
  stored as `image_base_image_ref` becomes the rebuild's image by it. No other save does that, for a
  resize may set the same, and a rebuild whose second transaction never came changed no metadata.
- `boot_metadata_overwritten` is raised where a save changes the stored value of an authoritative
  key to another than the authoritative one; again, when it changes again.
- What a RECONCILED event finds of values and of the states of disks, nobody saw: they are set and
  end unseen. Boots, deletions, stays and layouts say what they always say. It shows nothing that
  the service did wrong. history_gap is raised by OBSERVED events alone.
- `details`: `reasons` of a history_gap (`booted_again`, `was_deleted`, `before_differs`,
  `image_ref_differs`, `place_differs`, `never_rebuilt`); `expected` and `found` (the keys that
  differ) of it, of semantics_divergence and, with `operation`, of boot_metadata_overwritten, where
  the authoritative values are expected; of base_image_ref_dropped the lost `base_image_ref` and the
  new `image_ref`; of destroy_denied all that the judgement says; `keys` of a value_altered.
"""

from typing import assert_never

from msgspec.structs import replace

from metaledger.projector.folds.disk import fold_disk
from metaledger.projector.folds.instance_turn import (
    NOTHING_KNOWN,
    InstanceState,
    Turn,
    attribute_edit,
    instance_put,
    of_kind,
)
from metaledger.projector.folds.location import Place
from metaledger.projector.folds.metadata import image_keys, rebuilt, rolled_back, saved
from metaledger.projector.folds.properties import difference
from metaledger.projector.folds.step import (
    Fact,
    Projection,
    Put,
    Step,
    anomaly,
    mark,
    origin_of,
    seen_at,
)
from metaledger.schemas.disk import DiskEvent
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.instance import (
    DestroyJudged,
    InstanceBooted,
    InstanceDeleted,
    InstanceEvent,
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceRescued,
    InstanceSystemMetadataSaved,
    InstanceUnrescued,
    RelocationCause,
    SnapshotPurpose,
    SnapshotTaken,
    Verdict,
)
from metaledger.schemas.meta import Origin


def fold_instance(state: InstanceState | None, fact: Fact) -> Step[InstanceState]:
    """The instance after the event. Raises Unfoldable."""
    data = fact.event.data
    if isinstance(data, DiskEvent):
        return _disk_told(state, fact, data)
    if not isinstance(data, InstanceEvent):
        raise Unfoldable(f"{fact.event.type} is no event of an instance")
    turn = Turn(state, fact, data.instance_uuid)
    match data:
        case InstanceBooted():
            return _booted(turn, data)
        case InstanceSystemMetadataSaved():
            return saved(turn, data)
        case SnapshotTaken():
            return _snapshot_taken(turn, data)
        case InstanceRebuilt():
            return rebuilt(turn, data)
        case InstanceRebuildRolledBack():
            return rolled_back(turn, data)
        case InstanceRescued():
            return _rescued(turn, data)
        case InstanceUnrescued():
            turn.become(turn.rescue_attributes, {}, via="rescued")
            turn.become(turn.rescue, {}, via="rescued")
            return turn.step()
        case InstanceRelocated():
            return _relocated(turn, data)
        case InstanceDeleted():
            return _deleted(turn, data)
        case DestroyJudged():
            return _judged(turn, data)
        case _:  # pragma: no cover (the type check proves it)
            assert_never(data)


INSTANCE_PROJECTION = Projection(
    aggregate_kind="instance", state_type=InstanceState, fold=fold_instance
)


def _booted(turn: Turn, data: InstanceBooted) -> Step[InstanceState]:
    was = turn.was
    landmarks = (was.boot_told_at, was.authoritative_by, was.rebuild, was.deleted_at)
    was_seen = turn.origin is Origin.OBSERVED
    if not was_seen and any(known is not None for known in landmarks):
        return Step(was, ())
    reasons = turn.revived()
    gap = None
    if was.boot_told_at is not None:
        reasons.append("booted_again")
        gap = difference(turn.metadata.values, data.system_metadata)
    turn.missed(reasons, gap)
    if was.deleted_at is not None:
        was = replace(was, image_ref=None, flavor=None, booted_at=None, boot_told_at=None)
    image_ref = was.image_ref if data.image_ref is None else data.image_ref
    flavor = was.flavor if data.flavor is None else data.flavor
    told = {"image_ref": data.image_ref, "flavor": data.flavor}
    turn.attributes.overlay(
        {name: value for name, value in told.items() if value is not None},
        via="booted",
        replaced="unseen",
    )
    turn.metadata.become(data.system_metadata, via="booted", replaced="unseen")
    turn.authoritative.become(image_keys(data.system_metadata), via="booted", replaced="unseen")
    turn.altered(data.altered)
    place = Place(data.hypervisor_id, data.host)
    if place.is_known:
        turn.stays.move(place, "BOOTED")
    return turn.step(
        image_ref=image_ref,
        flavor=flavor,
        hypervisor_id=turn.stays.place.hypervisor_id,
        authoritative_by=turn.event_id,
        metadata_known=True,
        rebuild=None,
        booted_at=was.booted_at or (turn.fact.at if was_seen else None),
        boot_told_at=was.boot_told_at or turn.fact.at,
        deleted_at=None,
    )


def _snapshot_taken(turn: Turn, data: SnapshotTaken) -> Step[InstanceState]:
    """Nothing of the instance changes; the image that it ran stands in the event."""
    if data.purpose is SnapshotPurpose.UNKNOWN:
        raise Unfoldable("the snapshot's purpose is a symbol that this build does not know")
    if data.altered:
        turn.found("value_altered", "warning", {"keys": sorted(set(data.altered))})
    row = {
        "event_id": turn.event_id,
        "image_id": data.snapshot_image_id,
        "instance_uuid": data.instance_uuid,
        "image_ref": data.image_ref,
        "purpose": data.purpose.value,
        "occurred_at": seen_at(turn.fact),
    }
    step = turn.step()
    taken = Put("snapshots_taken", row, is_new=True)
    marked = mark(turn.fact, f"image:{data.snapshot_image_id}")
    return Step(step.state, (*step.changes, taken, marked))


def _rescued(turn: Turn, data: InstanceRescued) -> Step[InstanceState]:
    image = {"rescue_image_ref": data.rescue_image_ref}
    turn.become(turn.rescue_attributes, image, via="rescued")
    turn.become(turn.rescue, data.rescue_metadata, via="rescued")
    turn.altered(data.altered)
    return turn.step()


def _relocated(turn: Turn, data: InstanceRelocated) -> Step[InstanceState]:
    if data.cause is RelocationCause.UNKNOWN:
        raise Unfoldable("the relocation's cause is a symbol that this build does not know")
    reasons = turn.revived()
    left = Place(data.from_hypervisor_id, data.from_host)
    known = turn.stays.place
    gap = None
    if left.is_known:
        turn.stays.move(left, "UNSEEN")
        differs = left.contradicts(known) or not known.is_known
        if differs and turn.was.boot_told_at is not None:
            reasons.append("place_differs")
            gap = difference(known.told(), left.told())
    turn.missed(reasons, gap)
    turn.stays.move(Place(data.to_hypervisor_id, data.to_host), data.cause.value)
    return turn.step(hypervisor_id=turn.stays.place.hypervisor_id, deleted_at=None)


def _deleted(turn: Turn, data: InstanceDeleted) -> Step[InstanceState]:
    was = turn.was
    if was.deleted_at is not None:
        return Step(was, ())
    for edit in (turn.attributes, turn.metadata, turn.authoritative):
        edit.end_all("instance_deleted")
    turn.stays.leave()
    return turn.step(authoritative_by=None, rebuild=None, deleted_at=data.deleted_at)


def _judged(turn: Turn, data: DestroyJudged) -> Step[InstanceState]:
    """A judgement tells nothing of the instance, and does not even create it."""
    if data.verdict is Verdict.ALLOW:
        return Step(turn.was, ())
    details = {
        "hypervisor_id": data.hypervisor_id,
        "host": data.host,
        "verdict": data.verdict.value,
        "reason": data.reason,
    }
    return Step(turn.was, (anomaly(turn.fact, "destroy_denied", "warning", details),))


def _disk_told(state: InstanceState | None, fact: Fact, data: DiskEvent) -> Step[InstanceState]:
    """What is told of a disk changes nothing else of its instance."""
    origin = origin_of(fact)
    was = state or NOTHING_KNOWN
    disk, rows = fold_disk(was.disks.get(data.disk), fact, data)
    states = attribute_edit(data.instance_uuid, was.disk_states, fact)
    told = {data.disk: disk.state}
    if origin is Origin.RECONCILED:
        states.overlay(told, via="unseen", replaced="unseen")
    else:
        states.overlay(told, via="told", replaced="overwritten")
    after = replace(
        was,
        is_told=True,
        disks={**was.disks, data.disk: disk},
        disk_states=states.history,
    )
    return Step(
        after,
        (
            *instance_put(data.instance_uuid, was, after, fact),
            *of_kind("disk", states.rows),
            *rows,
        ),
    )

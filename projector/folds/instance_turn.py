"""An instance's state, and one event's work on it: what the folds of `instance` share. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from metaledger.projector.folds.disk import Disk
from metaledger.projector.folds.intervals import Edit, EndReason, History, SetVia, Values
from metaledger.projector.folds.location import Stay, Stays
from metaledger.projector.folds.properties import Difference
from metaledger.projector.folds.step import Fact, Put, Row, Step, anomaly, mark, origin_of
from metaledger.schemas.meta import Origin


class Rebuild(Struct, frozen=True, array_like=True, kw_only=True):
    """The last rebuild, as long as it can be rolled back: what there was before it.

    `is_open`: the save of its `request_id`, which completes it, has not come.
    """

    image_ref: str | None
    authoritative: dict[str, str | None]
    authoritative_by: str | None
    request_id: str | None
    is_open: bool


class InstanceState(Struct, frozen=True, array_like=True, kw_only=True):
    """An instance as of its last event.

    `is_told`: it has a row. `attributes` are image_ref and flavor, `authoritative` and `rescue`
    image metadata, `metadata` is what its service stored, which is known once any event told it
    (`metadata_known`). `image_ref`, `flavor` and `hypervisor_id` are as last known, ended or not.
    """

    is_told: bool = False
    attributes: History = field(default_factory=History)
    authoritative: History = field(default_factory=History)
    metadata: History = field(default_factory=History)
    rescue_attributes: History = field(default_factory=History)
    rescue: History = field(default_factory=History)
    disk_states: History = field(default_factory=History)
    disks: dict[str, Disk] = field(default_factory=dict)
    stay: Stay | None = None
    stays: int = 0
    image_ref: str | None = None
    flavor: str | None = None
    hypervisor_id: str | None = None
    authoritative_by: str | None = None
    metadata_known: bool = False
    rebuild: Rebuild | None = None
    booted_at: datetime | None = None
    boot_told_at: datetime | None = None
    deleted_at: datetime | None = None


NOTHING_KNOWN = InstanceState()


class Turn:
    """One event's work on one instance: where it starts, what it edits, what it finds."""

    __slots__ = (
        "_anomalies",
        "_instance_uuid",
        "attributes",
        "authoritative",
        "fact",
        "metadata",
        "origin",
        "rescue",
        "rescue_attributes",
        "stays",
        "was",
    )

    def __init__(self, state: InstanceState | None, fact: Fact, instance_uuid: str) -> None:
        self._instance_uuid = instance_uuid
        self._anomalies: list[Put] = []
        self.was = was = state or NOTHING_KNOWN
        self.fact = fact
        self.origin = origin_of(fact)
        owner = ("instance_uuid", instance_uuid)
        self.metadata = Edit("instance_metadata_history", owner, was.metadata, fact)
        self.attributes = attribute_edit(instance_uuid, was.attributes, fact)
        self.authoritative = attribute_edit(instance_uuid, was.authoritative, fact)
        self.rescue_attributes = attribute_edit(instance_uuid, was.rescue_attributes, fact)
        self.rescue = attribute_edit(instance_uuid, was.rescue, fact)
        self.stays = Stays(instance_uuid, was.stay, was.stays, fact)

    @property
    def event_id(self) -> str:
        """The event's id."""
        return self.fact.event.meta.event_id

    @property
    def was_seen(self) -> bool:
        """Whether anybody saw it happen, or only what it left."""
        return self.origin is not Origin.RECONCILED

    def become(self, edit: Edit, values: Values, *, via: SetVia) -> None:
        """Makes these the live values: what is left out was removed."""
        if self.was_seen:
            edit.become(values, via=via, replaced="overwritten", left_out=_removed)
        else:
            edit.become(values, via="unseen", replaced="unseen")

    def found(self, kind: str, severity: str, details: Mapping[str, Any]) -> None:
        """Raises an anomaly."""
        self._anomalies.append(anomaly(self.fact, kind, severity, details))

    def missed(self, reasons: Sequence[str], gap: Difference | None) -> None:
        """Raises the event's history_gap, one for all reasons, if there is any."""
        if reasons and self.origin is Origin.OBSERVED:
            self.found("history_gap", "warning", {"reasons": list(reasons), **shown(gap)})

    def revived(self) -> list[str]:
        """The reason for a gap that an event of a deleted instance is."""
        return [] if self.was.deleted_at is None else ["was_deleted"]

    def altered(self, named: Sequence[str]) -> None:
        """Raises value_altered for the named keys whose values this event brought."""
        edits = (self.metadata, self.authoritative, self.rescue)
        fresh = {put.row["key"] for edit in edits for put in edit.rows if put.is_new}
        if brought := fresh & set(named):
            self.found("value_altered", "warning", {"keys": sorted(brought)})

    def step(self, **changes: Any) -> Step[InstanceState]:  # noqa: ANN401 (of any field)
        """The step to the state with those fields, with all rows that changed."""
        state = replace(
            self.was,
            is_told=True,
            attributes=self.attributes.history,
            authoritative=self.authoritative.history,
            metadata=self.metadata.history,
            rescue_attributes=self.rescue_attributes.history,
            rescue=self.rescue.history,
            stay=self.stays.stay,
            stays=self.stays.count,
            **changes,
        )
        return Step(
            state,
            (
                *instance_put(self._instance_uuid, self.was, state, self.fact),
                *of_kind("attribute", self.attributes.rows),
                *of_kind("attribute", self.rescue_attributes.rows),
                *of_kind("authoritative", self.authoritative.rows),
                *of_kind("rescue", self.rescue.rows),
                *self.metadata.rows,
                *self.stays.rows,
                *self._anomalies,
            ),
        )


def attribute_edit(instance_uuid: str, history: History, fact: Fact) -> Edit:
    """An edit of one kind of instance_attribute_history."""
    return Edit("instance_attribute_history", ("instance_uuid", instance_uuid), history, fact)


def of_kind(kind: str, rows: Sequence[Put]) -> Sequence[Put]:
    """The rows of such an edit, each with its kind."""
    for put in rows:
        put.row["kind"] = kind
    return rows


def instance_put(
    instance_uuid: str, was: InstanceState, now: InstanceState, fact: Fact
) -> Sequence[Put]:
    """The row of `instances`, where it changed; and the mark, where that is to be judged anew."""
    marks = [mark(fact, f"instance:{instance_uuid}")] if _judged(was) != _judged(now) else []
    row = _row(instance_uuid, now)
    if was.is_told and row == _row(instance_uuid, was):
        return marks
    return (Put("instances", row, is_new=not was.is_told), *marks)


BASE = "image_base_image_ref"


def _judged(state: InstanceState) -> tuple[object, ...]:
    """What of an instance is judged with what is known of images and hypervisors."""
    base, image = state.metadata.live.get(BASE), state.attributes.live.get("image_ref")
    booted = (state.booted_at, state.boot_told_at)
    return (state.is_told, *booted, state.deleted_at, base, image, state.stay)


def shown(gap: Difference | None) -> dict[str, Any]:
    """A difference as details tell it."""
    return {} if gap is None else {"expected": dict(gap.expected), "found": dict(gap.found)}


def _removed(_key: str) -> EndReason:
    return "removed"


def _row(instance_uuid: str, state: InstanceState) -> Row:
    rescue = state.rescue_attributes.live.get("rescue_image_ref")
    is_there = state.deleted_at is None
    return {
        "instance_uuid": instance_uuid,
        "image_ref": state.image_ref,
        "flavor": state.flavor,
        "hypervisor_id": state.hypervisor_id,
        "booted_at": state.booted_at,
        "boot_told_at": state.boot_told_at,
        "rescue_image_ref": rescue.value if rescue and is_there else None,
        "deleted_at": state.deleted_at,
        "authoritative_by_event": state.authoritative_by,
    }

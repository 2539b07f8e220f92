"""What is wrong between aggregates: the judged anomalies (EVENTS.md, "Anomalies"). Pure.

Each function says all that is wrong with one subject as things stand, and nothing of how it came to
that: so the answer is the same whichever side was heard of first. What is no longer said of a
subject is withdrawn by whoever asked. Decided here, where the contract leaves it open:

- An anomaly names the event that made its subject so: of an image the upload, the declaration or
  the event that made its edge; of an instance the later one of its stored value and its image, or
  the first event that was told of it, or the one that told where it is; of a hypervisor the one
  that set its host name.
- A deleted instance has no stored value that could be stale; one that runs from a volume has no
  image that it could be held against.
- What a snapshot had when it was deleted is what it has.
- A hypervisor is known when anybody told a host name of it: that it was removed tells nothing of
  who it was. Whom a host name alone leads to is no matter of this (`hypervisor unmapped`).
- A hypervisor goes back to a host name that it had since it was last registered. Whoever shares a
  host name is a subject of its own, so the anomaly of each goes when it moves on or is removed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from metaledger.projector.lineage import Lineage, Upload

JUDGED = (
    "base_image_ref_stale",
    "base_image_ref_missing",
    "base_image_ref_contradicted",
    "lineage_cycle",
    "instance_never_booted",
    "instance_hypervisor_unknown",
    "hypervisor_duplicate",
)


# Enough to see where a path leads; all of it stands in image_ancestors.
_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """An anomaly as things stand; `aggregate` is its subject."""

    kind: str
    severity: str
    aggregate: str
    event_id: str
    details: dict[str, Any]
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A value with the event that set it. `order` puts two of one aggregate in order."""

    value: str
    event_id: str
    order: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What is judged of an instance. `base` is what its service stored as its base image, and
    `ancestors` are those of the image that it runs. `first_event_id` is of one of whose boot nobody
    told, seen or not; None: somebody did. `stranger` is the hypervisor that it is on, by its id,
    where nobody told who that is.
    """

    instance_uuid: str
    base: Told | None
    running: Told | None
    ancestors: Collection[str]
    first_event_id: str | None
    stranger: Told | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervisor:
    """A hypervisor that was not removed, and is not one of MANY_ON_A_HOST; `hosts` since its last
    registration, the latest last.
    """

    hypervisor_id: str
    hosts: Sequence[Told]

    @property
    def host(self) -> str:
        """The host name that it has."""
        return self.hosts[-1].value


def of_image(lineage: Lineage, upload: Upload | None, *, booted: bool) -> Iterator[Judgement]:
    """What is wrong with an image; `booted`: its instance was seen to boot."""
    aggregate = f"image:{lineage.image_id}"
    declared, snapshot = lineage.declared, lineage.snapshot
    has_base = declared is not None and not declared.lost
    if upload is not None and snapshot is not None and booted and not has_base:
        yield Judgement(
            kind="base_image_ref_missing",
            severity="warning",
            aggregate=aggregate,
            event_id=upload.event_id,
            details={
                "instance_uuid": snapshot.instance_uuid,
                "parent_image_id": snapshot.parent_image_id,
            },
        )
    if declared is not None and lineage.evidence == "contradicted":
        yield Judgement(
            kind="base_image_ref_contradicted",
            severity="warning",
            aggregate=aggregate,
            event_id=declared.event_id,
            details={
                "declared_base_image_ref": declared.image_id,
                "parent_image_id": lineage.parent_image_id,
            },
        )
    if lineage.path.is_endless and lineage.edge_event_id is not None:
        yield Judgement(
            kind="lineage_cycle",
            severity="error",
            aggregate=aggregate,
            event_id=lineage.edge_event_id,
            details={"path": [lineage.image_id, *lineage.path.ancestors[:_SHOWN_MAX]]},
        )


def of_instance(instance: Instance) -> Iterator[Judgement]:
    """What is wrong with an instance."""
    aggregate = f"instance:{instance.instance_uuid}"
    base, running = instance.base, instance.running
    if base and running and base.value not in (running.value, *instance.ancestors):
        yield Judgement(
            kind="base_image_ref_stale",
            severity="warning",
            aggregate=aggregate,
            event_id=max(base, running, key=lambda told: told.order).event_id,
            details={"image_base_image_ref": base.value, "image_ref": running.value},
        )
    if instance.first_event_id is not None:
        yield Judgement(
            kind="instance_never_booted",
            severity="warning",
            aggregate=aggregate,
            event_id=instance.first_event_id,
            details={},
        )
    if instance.stranger is not None:
        yield Judgement(
            kind="instance_hypervisor_unknown",
            severity="warning",
            aggregate=aggregate,
            event_id=instance.stranger.event_id,
            details={"hypervisor_id": instance.stranger.value},
        )


def of_hypervisor(it: Hypervisor, others: Collection[Hypervisor]) -> Iterator[Judgement]:
    """What is wrong with a hypervisor, among all others that are there."""
    reasons = ["returned"] if _returned(it) else []
    sharing = sorted(
        other.hypervisor_id
        for other in others
        if other.host == it.host and other.hypervisor_id != it.hypervisor_id
    )
    reasons += ["shared"] if sharing else []
    if reasons:
        yield Judgement(
            kind="hypervisor_duplicate",
            severity="error",
            aggregate=f"hypervisor:{it.hypervisor_id}",
            event_id=it.hosts[-1].event_id,
            details={"host": it.host, "reasons": reasons, "sharing": sharing},
        )


def _returned(it: Hypervisor) -> bool:
    """A, B, A: two machines with one id file tell in turn."""
    earlier = [told.value for told in it.hosts[:-1]]
    return it.host in earlier and any(host != it.host for host in earlier)

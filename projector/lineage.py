"""Lineage: which image a snapshot descends from, and where that ends (EVENTS.md, "Lineage"). Pure.

A snapshot's parent is the image that its instance was running when it was taken, and needs no
property of the image. What an image declares (`base_image_ref`) is held against that. An edge goes
to the parent, else to what is declared. Decided here, where the contract leaves it open:

- Of several SnapshotTaken of one image the first one counts. An image whose upload names an
  instance, and that nobody told to be taken, was taken when somebody saw it registered, else
  uploaded.
- Where the image that ran is not told, it is what the instance ran then, by the times at which its
  events happened. Before all that the ledger knows of it, it ran what somebody saw it boot with; of
  an instance that was there before the ledger, nothing is known of that time.
- What nobody saw happen (IMPORTED, RECONCILED) has no time: it says of which instance a snapshot
  is, and not what that ran then.
- A path ends where it would come to an image a second time, and at DEPTH_MAX.
- What an id cannot be is none: an empty text, or one of more than ID_CHARS_MAX characters. A
  property is whatever a user wrote.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

# Far beyond a snapshot of a snapshot a night; a hostile chain costs a row for each two images.
DEPTH_MAX = 1_000
# What the services' own columns hold, and an index of any database takes.
ID_CHARS_MAX = 255
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A SnapshotTaken; `image_ref` is None where it did not say what ran, `occurred_at` where
    nobody saw it.
    """

    event_id: str
    occurred_at: datetime | None
    instance_uuid: str
    image_ref: str | None
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The last upload of a snapshot's data, `occurred_at` None where nobody saw it; `begun_at` is
    the image's registration, None where nobody saw that.
    """

    event_id: str
    occurred_at: datetime | None
    instance_uuid: str | None
    begun_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The last `base_image_ref` of an image; `lost`: it is gone, and the image is not."""

    event_id: str
    image_id: str
    lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An image that an instance ran; `until` None: it does. `is_boot`: somebody saw it boot so."""

    image_ref: str | None
    since: datetime
    until: datetime | None
    is_boot: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An image that is a snapshot, as far as events say of what; `event_id` is the one that does.
    `purpose` None: only its upload is known; `taken_at` None: nobody saw it taken or uploaded.
    """

    event_id: str
    instance_uuid: str
    parent_image_id: str | None
    purpose: str | None
    taken_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The ancestors of an image, its edge's end first. `is_endless`: the path leads back to the
    image, or goes on beyond DEPTH_MAX.
    """

    ancestors: tuple[str, ...]
    is_endless: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What is said of one image."""

    image_id: str
    snapshot: Snapshot | None
    declared: Declared | None
    path: Path

    @property
    def parent_image_id(self) -> str | None:
        """The image that its instance ran."""
        return self.snapshot.parent_image_id if self.snapshot else None

    @property
    def edge_event_id(self) -> str | None:
        """The event that made its edge."""
        if self.snapshot is not None and self.snapshot.parent_image_id is not None:
            return self.snapshot.event_id
        return self.declared.event_id if self.declared else None

    @property
    def base_image_ref(self) -> str | None:
        """What it declares if that is consistent, else the parent, else what it declares."""
        declared = self.declared.image_id if self.declared else None
        if self.parent_image_id is None or declared in self.path.ancestors:
            return declared
        return self.parent_image_id

    @property
    def root_image_id(self) -> str:
        """The end of its path."""
        return self.path.ancestors[-1] if self.path.ancestors else self.image_id

    @property
    def evidence(self) -> str:
        """How what is declared and what is derived stand to each other."""
        if self.parent_image_id is None:
            return "declared" if self.declared else "none"
        if self.declared is None:
            return "derived"
        return "agreed" if self.declared.image_id in self.path.ancestors else "contradicted"


def snapshot_of(
    taken: Sequence[Taken], upload: Upload | None, runs: Callable[[str], Sequence[Run]]
) -> Snapshot | None:
    """The snapshot that the events tell of. `runs` are an instance's, the earliest first."""
    first = min(taken, key=_seen_first, default=None)
    if first is not None:
        parent = first.image_ref
        if parent is None:
            parent = running_at(runs(first.instance_uuid), first.occurred_at)
        return Snapshot(
            event_id=first.event_id,
            instance_uuid=first.instance_uuid,
            parent_image_id=parent,
            purpose=first.purpose,
            taken_at=first.occurred_at,
        )
    if upload is None or upload.instance_uuid is None:
        return None
    at = upload.occurred_at and (upload.begun_at or upload.occurred_at)
    return Snapshot(
        event_id=upload.event_id,
        instance_uuid=upload.instance_uuid,
        parent_image_id=running_at(runs(upload.instance_uuid), at),
        purpose=None,
        taken_at=at,
    )


def _seen_first(one: Taken) -> tuple[datetime, str]:
    return (one.occurred_at or _NEVER, one.event_id)


def running_at(runs: Sequence[Run], at: datetime | None) -> str | None:
    """The image that ran then; where nothing is known so early, the one that it booted with."""
    if at is None:
        return None
    before = [run for run in runs if run.since <= at]
    if not before:
        return runs[0].image_ref if runs and runs[0].is_boot else None
    last = before[-1]
    return last.image_ref if last.until is None or at < last.until else None


def possible_id(text: str | None) -> str | None:
    """The text, where it can be an id."""
    return text if text and len(text) <= ID_CHARS_MAX else None


def edge_of(snapshot: Snapshot | None, declared: Declared | None) -> str | None:
    """Where the image's edge goes."""
    parent = snapshot.parent_image_id if snapshot else None
    return parent if parent is not None or declared is None else declared.image_id


def path_of(image_id: str, edge: Callable[[str], str | None]) -> Path:
    """The image's ancestors along the edges."""
    # In their order, and quick to look into.
    ancestors: dict[str, None] = {}
    at = edge(image_id)
    while at is not None and at != image_id and at not in ancestors:
        if len(ancestors) == DEPTH_MAX:
            return Path(ancestors=tuple(ancestors), is_endless=True)
        ancestors[at] = None
        at = edge(at)
    return Path(ancestors=tuple(ancestors), is_endless=at == image_id)

"""Single promises about disks that a random history may miss, each told as a story."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from metaledger.projector.folds.instance import fold_instance
from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskLayout,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
    DiskSource,
    SourceKind,
)
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.meta import Origin

from .histories import START, event, fact
from .rows import Folding

QCOW2 = DiskLayout(
    version="1.0",
    backend="qcow2",
    format="qcow2",
    size_bytes=1 << 40,
    source=DiskSource(kind=SourceKind.IMAGE, image_id="i-1"),
    location="disk",
    extra={"cluster_size": "65536"},
)
FLAT = replace(QCOW2, backend="flat", format="raw")
DIFFERS = {
    "disk": "disk",
    "expected": {"backend": "qcow2", "format": "qcow2"},
    "found": {"backend": "flat", "format": "raw"},
}
MISMATCH = {"disk_layout_mismatch": ("warning", DIFFERS)}


class Story:
    """Events of one disk, a minute apart, and what is known after them."""

    def __init__(self) -> None:
        self.folding = Folding()
        self.count = 0

    def _tell(self, of: type[Any], origin: Origin = Origin.OBSERVED, **data: Any) -> str:
        at = START + timedelta(minutes=self.count)
        self.count += 1
        told = event(
            of(instance_uuid="it", disk="disk", **data), number=self.count, at=at, origin=origin
        )
        self.folding.take([told])
        self.folding.sleep()
        return told.meta.event_id

    def started(self, layout: DiskLayout = QCOW2) -> str:
        return self._tell(DiskCreationStarted, layout=layout)

    def created(self, layout: DiskLayout | None = None, origin: Origin = Origin.OBSERVED) -> str:
        return self._tell(DiskCreated, origin, layout=layout)

    def failed(self) -> str:
        return self._tell(DiskCreationFailed, error="no space left on device")

    def met(self, layout: DiskLayout = QCOW2) -> str:
        return self._tell(DiskLayoutBackfilled, layout=layout)

    def changed(self, layout: DiskLayout = QCOW2) -> str:
        return self._tell(DiskLayoutChanged, layout=layout, reason="resize")

    def deleted(self) -> str:
        return self._tell(DiskDeleted)

    @property
    def disk(self) -> dict[str, Any]:
        (row,) = self.folding.tables.rows("disks")
        return row

    @property
    def is_(self) -> tuple[Any, ...]:
        return self.disk["state"], self.disk["backend"], self.disk["recorded_by"]

    @property
    def layouts(self) -> list[tuple[Any, ...]]:
        return [
            (row["backend"], row["recorded_by"], row["end_reason"])
            for row in self.folding.tables.rows("disk_layout_history")
        ]

    def anomalies(self, event_id: str) -> dict[str, Any]:
        return {
            row["kind"]: (row["severity"], row["details"])
            for row in self.folding.tables.rows("anomalies")
            if row["event_id"] == event_id
        }


@pytest.fixture
def story() -> Story:
    return Story()


def test_an_intent_is_a_layout_and_says_what_users_read(story: Story) -> None:
    told = story.started()
    assert story.disk == {
        "instance_uuid": "it",
        "disk": "disk",
        "state": "intended",
        "backend": "qcow2",
        "format": "qcow2",
        "size_bytes": 1 << 40,
        "source_kind": "IMAGE",
        "source_image_id": "i-1",
        "source_function": None,
        "location": "disk",
        "layout_version": "1.0",
        "extra": {"cluster_size": "65536"},
        "driver_info": {
            "libvirt_disk_metadata": {
                "version": "1.0",
                "backend": "qcow2",
                "format": "qcow2",
                "size": 1 << 40,
            }
        },
        "recorded_by": "intent",
        "last_error": None,
    }
    [row] = story.folding.tables.rows("disk_layout_history")
    assert (row["valid_from"], row["valid_to"], row["set_by_event"]) == (START, None, told)
    [instance] = story.folding.tables.rows("instances")
    assert instance["booted_at"] is None
    created = story.created()
    assert story.is_ == ("created", "qcow2", "intent")
    assert story.layouts == [("qcow2", "intent", None)]
    assert not story.anomalies(created)


def test_what_was_created_is_the_fact(story: Story) -> None:
    story.started()
    created = story.created(FLAT)
    assert story.anomalies(created) == MISMATCH
    assert story.is_ == ("created", "flat", "outcome")
    assert story.layouts == [("qcow2", "intent", "overwritten"), ("flat", "outcome", None)]


def test_a_later_backfill_never_replaces_what_was_recorded(story: Story) -> None:
    story.started()
    story.created()
    assert not story.anomalies(story.met())
    assert story.anomalies(story.met(FLAT)) == MISMATCH
    assert story.is_ == ("created", "qcow2", "intent")


def test_a_disk_that_is_met_is_there_as_it_was_described(story: Story) -> None:
    story.met()
    assert story.is_ == ("created", "qcow2", "backfill")
    assert story.anomalies(story.met(FLAT)) == MISMATCH
    assert story.is_ == ("created", "qcow2", "backfill")


def test_a_meant_change_is_no_mismatch(story: Story) -> None:
    story.started()
    changed = story.changed(FLAT)
    # As it was intended is as it was changed.
    created = story.created()
    assert story.is_ == ("created", "flat", "change")
    assert not story.anomalies(changed)
    assert not story.anomalies(created)
    assert story.layouts == [("qcow2", "intent", "overwritten"), ("flat", "change", None)]


def test_a_creation_that_failed_keeps_its_layout_until_the_next_intent(story: Story) -> None:
    story.started()
    story.failed()
    assert story.is_ == ("failed", "qcow2", "intent")
    assert story.disk["last_error"] == "no space left on device"
    again = story.started(FLAT)
    assert not story.anomalies(again)
    assert story.is_ == ("intended", "flat", "intent")
    assert story.disk["last_error"] is None
    assert story.layouts == [("qcow2", "intent", "overwritten"), ("flat", "intent", None)]


def test_an_intent_for_a_disk_that_is_there_waits_for_its_creation(story: Story) -> None:
    story.met()
    again = story.started(FLAT)
    assert story.anomalies(again) == MISMATCH
    assert story.is_ == ("intended", "qcow2", "backfill")
    created = story.created()
    assert not story.anomalies(created)
    assert story.is_ == ("created", "flat", "intent")


@pytest.mark.parametrize("again", [QCOW2, FLAT])
def test_a_creation_that_failed_again_leaves_the_disk_that_is_there(
    story: Story, again: DiskLayout
) -> None:
    story.started()
    story.created()
    story.started(again)
    story.failed()
    assert story.is_ == ("failed", "qcow2", "intent")
    intent = story.started(FLAT)
    assert story.anomalies(intent) == MISMATCH
    assert story.is_ == ("intended", "qcow2", "intent")
    assert story.layouts == [("qcow2", "intent", None)]
    # Once it is deleted, there is none to differ from.
    story.deleted()
    story.started()
    story.failed()
    assert not story.anomalies(story.started(FLAT))
    assert story.is_ == ("intended", "flat", "intent")


@pytest.mark.parametrize("seen", ["met", "changed"])
def test_a_disk_that_was_met_or_changed_is_there_when_a_creation_fails(
    story: Story, seen: str
) -> None:
    getattr(story, seen)()
    story.failed()
    assert story.anomalies(story.started(FLAT)) == MISMATCH
    assert story.disk["backend"] == "qcow2"


def test_a_disk_that_is_created_with_no_intent_is_named(story: Story) -> None:
    created = story.created(QCOW2)
    assert story.anomalies(created) == {"disk_created_unrecorded": ("error", {"disk": "disk"})}
    assert story.is_ == ("created", "qcow2", "outcome")
    assert not story.anomalies(story.created(origin=Origin.IMPORTED))


def test_a_disk_of_which_only_the_creation_is_known_has_no_layout(story: Story) -> None:
    story.created()
    assert story.is_ == ("created", None, None)
    assert story.disk["driver_info"] is None
    assert story.layouts == []


def test_a_deletion_ends_the_layout_and_what_comes_then_is_another_disk(story: Story) -> None:
    story.started()
    story.created()
    story.deleted()
    assert story.is_ == ("deleted", "qcow2", "intent")
    assert story.layouts == [("qcow2", "intent", "disk_deleted")]
    created = story.created(FLAT)
    assert story.anomalies(created).keys() == {"disk_created_unrecorded"}
    assert story.layouts == [("qcow2", "intent", "disk_deleted"), ("flat", "outcome", None)]


@pytest.mark.parametrize("state", ["created", "failed"])
def test_another_disk_shows_no_layout_until_one_is_told(story: Story, state: str) -> None:
    story.started()
    story.created()
    story.deleted()
    getattr(story, state)()
    assert story.is_ == (state, None, None)
    assert story.disk["driver_info"] is None
    assert story.layouts == [("qcow2", "intent", "disk_deleted")]
    story.met(FLAT)
    assert story.is_ == ("created", "flat", "backfill")
    assert story.layouts[-1] == ("flat", "backfill", None)


@pytest.mark.parametrize("met", [False, True])
def test_a_disk_that_was_changed_is_there(story: Story, *, met: bool) -> None:
    story.started()
    if met:
        story.met()
    story.changed(FLAT)
    assert story.is_ == ("created", "flat", "change")


def test_the_states_of_a_disk_are_a_history(story: Story) -> None:
    for tell in (story.started, story.created, story.deleted):
        tell()
    told = [
        (row["kind"], row["key"], row["value"], row["end_reason"])
        for row in story.folding.tables.rows("instance_attribute_history")
    ]
    assert told == [
        ("disk", "disk", "intended", "overwritten"),
        ("disk", "disk", "created", "overwritten"),
        ("disk", "disk", "deleted", None),
    ]


def test_a_source_of_tomorrow_cannot_be_folded() -> None:
    layout = replace(QCOW2, source=DiskSource(kind=SourceKind.UNKNOWN))
    data = DiskCreationStarted(instance_uuid="it", disk="disk", layout=layout)
    with pytest.raises(Unfoldable):
        fold_instance(None, fact(event(data, number=1, at=START)))

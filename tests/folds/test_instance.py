"""Single promises about instances that a random history may miss, each told as a story."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from metaledger.projector.folds.instance import fold_instance
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.events import Event
from metaledger.schemas.image import ImageDeleted
from metaledger.schemas.instance import (
    DestroyJudged,
    InstanceBooted,
    InstanceDeleted,
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

from .histories import START, event, fact
from .rows import Folding

THIS = "5c0c7a31-2f4e-4f0a-8f0e-61c1a3f70b21"
BASE = "image_base_image_ref"
WRITTEN = (
    "instances",
    "instance_attribute_history",
    "instance_metadata_history",
    "instance_locations",
    "anomalies",
)
BOOTED = {BASE: "i-1", "image_bus": "virtio", "owner": "u"}


class Story:
    """Events one after the other, a minute apart, and what is known after them."""

    def __init__(self) -> None:
        self.folding = Folding()
        self.count = 0

    def tell(self, data: Any, origin: Origin = Origin.OBSERVED, request: str | None = None) -> str:
        """Folds the event; gives its id."""
        at = START + timedelta(minutes=self.count)
        self.count += 1
        told = event(data, number=self.count, at=at, origin=origin)
        self.folding.take([Event(replace(told.meta, request_id=request), told.data)])
        self.folding.sleep()
        return told.meta.event_id

    def booted(self, origin: Origin = Origin.OBSERVED, **data: Any) -> str:
        given = {"image_ref": "i-1", "system_metadata": BOOTED, **data}
        return self.tell(InstanceBooted(instance_uuid=THIS, **given), origin)

    def saved(
        self,
        after: Any,
        operation: str = "attach_interface",
        origin: Origin = Origin.OBSERVED,
        request: str | None = None,
        **data: Any,
    ) -> str:
        save = InstanceSystemMetadataSaved(
            instance_uuid=THIS, operation=operation, after=after, **data
        )
        return self.tell(save, origin, request)

    def rebuilt(self, image_ref: str, request: str | None = None, **data: Any) -> str:
        rebuild = InstanceRebuilt(instance_uuid=THIS, image_ref=image_ref, **data)
        return self.tell(rebuild, request=request)

    def rolled_back(self, request: str | None = None, **data: Any) -> str:
        rollback = InstanceRebuildRolledBack(instance_uuid=THIS, **data)
        return self.tell(rollback, request=request)

    def relocated(self, cause: RelocationCause = RelocationCause.SCHEDULED, **data: Any) -> str:
        return self.tell(InstanceRelocated(instance_uuid=THIS, cause=cause, **data))

    def deleted(self) -> str:
        return self.tell(InstanceDeleted(instance_uuid=THIS, deleted_at=START))

    def history(self, key: str, kind: str | None = None) -> list[tuple[Any, ...]]:
        """The intervals of stored metadata, or of one kind of attribute."""
        table = "instance_metadata_history" if kind is None else "instance_attribute_history"
        return [
            (row["value"], row["set_via"], row["end_reason"])
            for row in self.folding.tables.rows(table)
            if row["key"] == key and row.get("kind") == kind
        ]

    def live(self, kind: str | None = None) -> dict[str, str | None]:
        table = "instance_metadata_history" if kind is None else "instance_attribute_history"
        return {
            row["key"]: row["value"]
            for row in self.folding.tables.rows(table)
            if row["valid_to"] is None and row.get("kind") == kind
        }

    @property
    def stays(self) -> list[tuple[Any, ...]]:
        return [
            (row["hypervisor_id"], row["host"], row["cause"], row["valid_to"] is None)
            for row in self.folding.tables.rows("instance_locations")
        ]

    @property
    def instance(self) -> dict[str, Any]:
        (row,) = self.folding.tables.rows("instances")
        return row

    def anomalies(self, event_id: str) -> dict[str, Any]:
        """The event's anomalies by kind, with severity and details."""
        return {
            row["kind"]: (row["severity"], row["details"])
            for row in self.folding.tables.rows("anomalies")
            if row["event_id"] == event_id
        }


@pytest.fixture
def story() -> Story:
    return Story()


# --- what it booted with, and what was stored later


def test_a_boot_tells_image_metadata_and_place(story: Story) -> None:
    boot = story.booted(flavor="m1", hypervisor_id="hv-1", host="a")
    assert story.live() == BOOTED
    assert story.live("authoritative") == {BASE: "i-1", "image_bus": "virtio"}
    assert story.live("attribute") == {"image_ref": "i-1", "flavor": "m1"}
    assert story.stays == [("hv-1", "a", "BOOTED", True)]
    assert story.instance == {
        "instance_uuid": THIS,
        "image_ref": "i-1",
        "flavor": "m1",
        "hypervisor_id": "hv-1",
        "booted_at": START,
        "boot_told_at": START,
        "rescue_image_ref": None,
        "deleted_at": None,
        "authoritative_by_event": boot,
    }
    assert not story.anomalies(boot)


def test_a_save_that_overwrites_what_it_booted_with_is_named_once(story: Story) -> None:
    story.booted()
    after = {BASE: "i-1", "image_bus": "scsi", "image_new": "x", "owner": "v"}
    first = story.saved(after, before=BOOTED)
    details = {
        "operation": "attach_interface",
        "expected": {"image_bus": "virtio"},
        "found": {"image_bus": "scsi"},
    }
    assert story.anomalies(first) == {"boot_metadata_overwritten": ("error", details)}
    assert story.history("image_bus") == [
        ("virtio", "booted", "overwritten"),
        ("scsi", "saved", None),
    ]
    assert story.history("image_bus", "authoritative") == [("virtio", "booted", None)]
    assert not story.anomalies(story.saved(after, before=after))
    # What is dropped is overwritten too, and what is put back is not.
    dropped = story.saved({"image_bus": "virtio"})
    found = story.anomalies(dropped)["boot_metadata_overwritten"][1]
    assert (found["expected"], found["found"]) == ({BASE: "i-1"}, {})
    assert not story.anomalies(story.saved(BOOTED))


@pytest.mark.parametrize(
    ("operation", "value", "kinds"),
    [
        ("resize", "i-1", set()),
        ("shelve", "i-1", set()),
        ("resize", "i-9", {"boot_metadata_overwritten"}),
        ("attach_interface", "i-1", {"boot_metadata_overwritten"}),
    ],
)
def test_resize_and_shelve_may_set_the_base_to_the_running_image(
    story: Story, operation: str, value: str, kinds: set[str]
) -> None:
    booted = {BASE: "i-0", "image_bus": "virtio"}
    story.booted(system_metadata=booted)
    save = story.saved({**booted, BASE: value}, operation)
    assert story.anomalies(save).keys() == kinds
    assert story.history(BASE, "authoritative") == [("i-0", "booted", None)]


@pytest.mark.parametrize("operation", ["resize", "shelve"])
def test_a_base_that_a_volume_backed_instance_loses_is_named(story: Story, operation: str) -> None:
    story.booted(image_ref=None)
    save = story.saved({"image_bus": "virtio", "owner": "u"}, operation)
    [(kind, (_, details))] = story.anomalies(save).items()
    assert kind == "boot_metadata_overwritten"
    assert (details["expected"], details["found"]) == ({BASE: "i-1"}, {})


def test_what_a_save_leaves_out_was_removed(story: Story) -> None:
    story.booted()
    story.saved({BASE: "i-1", "image_bus": "virtio"})
    assert story.history("owner") == [("u", "booted", "removed")]


def test_what_the_ledger_missed_is_unseen_before_the_save_counts(story: Story) -> None:
    story.booted()
    before = {BASE: "i-1", "image_bus": "scsi"}
    save = story.saved({**before, "owner": "v"}, before=before)
    gap = {"expected": {"image_bus": "virtio", "owner": "u"}, "found": {"image_bus": "scsi"}}
    assert story.anomalies(save) == {
        "history_gap": ("warning", {"reasons": ["before_differs"], **gap})
    }
    assert story.history("image_bus") == [("virtio", "booted", "unseen"), ("scsi", "unseen", None)]
    assert story.history("owner") == [("u", "booted", "unseen"), ("v", "saved", None)]


def test_what_a_reconciled_save_finds_nobody_saw(story: Story) -> None:
    story.booted()
    save = story.saved({"image_bus": "scsi"}, origin=Origin.RECONCILED)
    assert story.history("image_bus") == [("virtio", "booted", "unseen"), ("scsi", "unseen", None)]
    assert story.history("owner") == [("u", "booted", "unseen")]
    assert not story.anomalies(save)


# --- booted late, twice, never


def test_an_instance_that_nobody_saw_boot_is_there_without_an_anomaly(story: Story) -> None:
    save = story.saved({"image_bus": "scsi"}, before={"image_bus": "virtio"})
    assert story.instance["booted_at"] is None
    assert story.instance["authoritative_by_event"] is None
    assert story.history("image_bus") == [
        ("virtio", "unseen", "overwritten"),
        ("scsi", "saved", None),
    ]
    boot = story.booted()
    assert not story.anomalies(save)
    assert not story.anomalies(boot)
    assert story.instance["booted_at"] == START + timedelta(minutes=1)
    assert story.live() == BOOTED
    assert story.history("image_bus")[-1] == ("virtio", "booted", None)


def test_what_was_before_an_instance_was_known_is_no_gap(story: Story) -> None:
    told = [
        story.relocated(from_host="a", to_host="b"),
        story.rebuilt("i-2", previous_image_ref="i-1", before={"image_bus": "ide"}),
        story.rolled_back(),
    ]
    assert [stay[1:3] for stay in story.stays] == [("a", "UNSEEN"), ("b", "SCHEDULED")]
    assert story.history("image_ref", "attribute") == [
        ("i-1", "unseen", "overwritten"),
        ("i-2", "rebuilt", "overwritten"),
        ("i-1", "rolled_back", None),
    ]
    assert story.live() == {"image_bus": "ide"}
    assert not any(map(story.anomalies, told))


def test_a_second_boot_says_what_the_instance_has(story: Story) -> None:
    story.booted()
    second = story.booted(image_ref="i-2", system_metadata={"image_bus": "scsi"})
    gap = {
        "expected": {BASE: "i-1", "image_bus": "virtio", "owner": "u"},
        "found": {"image_bus": "scsi"},
    }
    assert story.anomalies(second) == {
        "history_gap": ("warning", {"reasons": ["booted_again"], **gap})
    }
    assert story.history("image_ref", "attribute") == [
        ("i-1", "booted", "unseen"),
        ("i-2", "booted", None),
    ]
    assert story.live("authoritative") == {"image_bus": "scsi"}
    assert story.instance["booted_at"] == START


@pytest.mark.parametrize("origin", [Origin.IMPORTED, Origin.RECONCILED])
@pytest.mark.parametrize(
    "known", ["booted", "saved", "rebuilt", "rebuilt alone", "open", "deleted"]
)
def test_a_boot_that_nobody_observed_overrules_nothing(
    story: Story, origin: Origin, known: str
) -> None:
    if known not in ("rebuilt alone", "open"):
        story.booted(flavor="m1", hypervisor_id="hv-1")
    if known == "saved":
        story.saved({**BOOTED, "image_bus": "scsi"})
    elif known.startswith("rebuilt"):
        story.rebuilt("i-2", after={BASE: "i-2", "image_bus": "scsi"})
    elif known == "open":
        story.rebuilt("i-2")
    elif known == "deleted":
        story.deleted()
    told = story.folding.tables
    before = {table: told.rows(table) for table in WRITTEN}
    boot = {"image_ref": "i-1", "system_metadata": {"image_bus": "ide"}, "hypervisor_id": "hv-2"}
    story.booted(origin, flavor="m2", **boot)
    assert {table: told.rows(table) for table in WRITTEN} == before
    if known == "rebuilt":
        story.rolled_back(image_ref="i-1")
        assert story.live("authoritative") == {BASE: "i-1", "image_bus": "virtio"}


@pytest.mark.parametrize("origin", [Origin.IMPORTED, Origin.RECONCILED])
def test_the_boot_of_an_instance_that_nobody_saw_boot_may_be_found_later(
    story: Story, origin: Origin
) -> None:
    story.saved({"image_bus": "scsi"})
    boot = story.booted(origin)
    assert story.live() == BOOTED
    assert story.live("authoritative") == {BASE: "i-1", "image_bus": "virtio"}
    assert story.instance["authoritative_by_event"] == boot
    assert story.instance["booted_at"] is None
    assert story.instance["boot_told_at"] == START + timedelta(minutes=1)


@pytest.mark.parametrize("origin", [Origin.IMPORTED, Origin.RECONCILED])
def test_an_instance_from_before_is_known_as_one_that_was_seen_to_boot(
    story: Story, origin: Origin
) -> None:
    """What then differs from it is a gap, but for the time of its boot."""
    story.booted(origin, hypervisor_id="hv-1", host="a")
    assert story.instance["booted_at"] is None
    told = {
        "place_differs": story.relocated(from_host="b", to_host="c"),
        "never_rebuilt": story.rolled_back(image_ref="i-1"),
        "image_ref_differs": story.rebuilt("i-3", previous_image_ref="i-2"),
        "booted_again": story.booted(),
    }
    for reason, event_id in told.items():
        assert story.anomalies(event_id)["history_gap"][1]["reasons"] == [reason]
    assert story.instance["boot_told_at"] == START
    assert story.instance["booted_at"] == START + timedelta(minutes=4)


# --- rebuilds


def test_a_rebuild_replaces_image_and_metadata(story: Story) -> None:
    story.booted()
    after = {BASE: "i-2", "image_bus": "scsi"}
    rebuild = story.rebuilt("i-2", previous_image_ref="i-1", before=BOOTED, after=after)
    assert not story.anomalies(rebuild)
    assert story.live() == story.live("authoritative") == after
    assert story.history("image_bus") == [
        ("virtio", "booted", "overwritten"),
        ("scsi", "rebuilt", None),
    ]
    assert story.history("owner") == [("u", "booted", "removed")]
    assert story.instance["image_ref"] == "i-2"
    assert story.instance["authoritative_by_event"] == rebuild


def test_a_rebuild_that_loses_the_base_is_named(story: Story) -> None:
    story.booted()
    rebuild = story.rebuilt("i-2", after={"image_bus": "scsi"})
    details = {"base_image_ref": "i-1", "image_ref": "i-2"}
    assert story.anomalies(rebuild) == {"base_image_ref_dropped": ("error", details)}
    assert not story.anomalies(story.rebuilt("i-1", after={"image_bus": "virtio"}))


def test_the_save_of_the_same_request_completes_a_rebuild(story: Story) -> None:
    story.booted()
    story.rebuilt("i-2", request="req-1")
    assert story.instance["image_ref"] == "i-2"
    assert story.live("authoritative") == {BASE: "i-1", "image_bus": "virtio"}
    other = story.saved({**BOOTED, "image_bus": "ide"}, "rebuild", request="req-2")
    assert story.anomalies(other).keys() == {"boot_metadata_overwritten"}
    save = story.saved({"image_bus": "scsi"}, "rebuild", request="req-1")
    assert story.anomalies(save).keys() == {"base_image_ref_dropped"}
    assert story.live("authoritative") == {"image_bus": "scsi"}
    assert story.history("image_bus")[-1] == ("scsi", "rebuilt", None)
    assert story.instance["authoritative_by_event"] == save
    # It is complete: the next one is a save like any other.
    third = story.saved({"image_bus": "ide"}, "rebuild", request="req-1")
    assert story.anomalies(third).keys() == {"boot_metadata_overwritten"}


@pytest.mark.parametrize("complete", [False, True])
def test_a_rollback_restores_what_was_before(story: Story, *, complete: bool) -> None:
    boot = story.booted()
    story.rebuilt("i-2", after={"image_bus": "scsi"} if complete else None)
    back = story.rolled_back(image_ref="i-1")
    assert not story.anomalies(back)
    assert story.instance["image_ref"] == "i-1"
    assert story.instance["authoritative_by_event"] == boot
    assert story.live("authoritative") == {BASE: "i-1", "image_bus": "virtio"}
    assert story.history("image_ref", "attribute")[-1] == ("i-1", "rolled_back", None)
    # The stored one is as the service left it.
    assert story.live() == ({"image_bus": "scsi"} if complete else BOOTED)
    # What is rolled back can neither be completed nor rolled back again.
    late = story.saved({"image_bus": "late"}, "rebuild")
    assert story.anomalies(late).keys() == {"boot_metadata_overwritten"}
    again = story.rolled_back(image_ref="i-1")
    assert story.anomalies(again) == {"history_gap": ("warning", {"reasons": ["never_rebuilt"]})}


@pytest.mark.parametrize("put_back", ["i-2", None])
def test_a_rollback_of_a_rebuild_that_was_missed_undoes_no_other(
    story: Story, put_back: str | None
) -> None:
    story.booted()
    after = {BASE: "i-2", "image_bus": "scsi"}
    rebuild = story.rebuilt("i-2", request="req-1", after=after)
    back = story.rolled_back(request="req-2", image_ref=put_back)
    assert story.anomalies(back) == {"history_gap": ("warning", {"reasons": ["never_rebuilt"]})}
    assert story.live("authoritative") == after
    assert story.instance["image_ref"] == "i-2"
    assert story.instance["authoritative_by_event"] == rebuild


@pytest.mark.parametrize("requests", [("req-1", None), (None, "req-1"), ("req-1", "req-1")])
def test_a_rollback_is_of_the_last_rebuild_unless_the_requests_differ(
    story: Story, requests: tuple[str | None, str | None]
) -> None:
    story.booted()
    story.rebuilt("i-2", request=requests[0], after={BASE: "i-2", "image_bus": "scsi"})
    assert not story.anomalies(story.rolled_back(request=requests[1], image_ref="i-1"))
    assert story.live("authoritative") == {BASE: "i-1", "image_bus": "virtio"}


def test_a_rollback_to_another_image_is_right_and_named(story: Story) -> None:
    story.booted()
    story.rebuilt("i-2", after=BOOTED)
    back = story.rolled_back(image_ref="i-3", after={"image_bus": "ide"})
    details = {"expected": {"image_ref": "i-1"}, "found": {"image_ref": "i-3"}}
    assert story.anomalies(back) == {"semantics_divergence": ("warning", details)}
    assert story.instance["image_ref"] == "i-3"
    assert story.live() == {"image_bus": "ide"}


def test_a_rebuild_from_another_image_than_was_known_is_a_gap(story: Story) -> None:
    story.booted()
    rebuild = story.rebuilt("i-3", previous_image_ref="i-2", after=BOOTED)
    gap = {"expected": {"image_ref": "i-1"}, "found": {"image_ref": "i-2"}}
    assert story.anomalies(rebuild) == {
        "history_gap": ("warning", {"reasons": ["image_ref_differs"], **gap})
    }
    assert story.history("image_ref", "attribute") == [
        ("i-1", "booted", "unseen"),
        ("i-2", "unseen", "overwritten"),
        ("i-3", "rebuilt", None),
    ]
    story.rolled_back()
    assert story.instance["image_ref"] == "i-2"


def test_a_volume_has_no_image_to_go_back_to(story: Story) -> None:
    story.booted(image_ref=None)
    story.rebuilt("i-2", after=BOOTED)
    story.rolled_back()
    assert story.instance["image_ref"] is None
    assert story.live("attribute") == {}


# --- rescue, snapshots, judgements


def test_a_rescue_has_metadata_of_its_own_and_changes_no_other(story: Story) -> None:
    story.booted()
    rescue = InstanceRescued(
        instance_uuid=THIS, rescue_image_ref="i-9", rescue_metadata={"image_bus": "ide"}
    )
    story.tell(rescue)
    assert story.instance["rescue_image_ref"] == "i-9"
    assert story.live("rescue") == {"image_bus": "ide"}
    assert story.live("authoritative") == {BASE: "i-1", "image_bus": "virtio"}
    story.tell(InstanceUnrescued(instance_uuid=THIS))
    assert story.instance["rescue_image_ref"] is None
    assert story.history("rescue_image_ref", "attribute") == [("i-9", "rescued", "removed")]
    assert story.history("image_bus", "rescue") == [("ide", "rescued", "removed")]
    assert not story.folding.tables.rows("anomalies")


def test_a_snapshot_changes_nothing_and_makes_the_instance_known(story: Story) -> None:
    taken = SnapshotTaken(
        instance_uuid=THIS,
        snapshot_image_id="i-3",
        image_ref="i-1",
        purpose=SnapshotPurpose.SNAPSHOT,
    )
    story.tell(taken)
    assert story.instance["image_ref"] is None
    altered = replace(taken, properties={"a": "\ufffd"}, altered=("a",))
    last = story.tell(altered)
    assert story.anomalies(last) == {"value_altered": ("warning", {"keys": ["a"]})}


@pytest.mark.parametrize("verdict", Verdict)
def test_a_judgement_creates_no_instance_and_is_named_unless_it_allows(
    story: Story, verdict: Verdict
) -> None:
    judged = DestroyJudged(
        instance_uuid=THIS, hypervisor_id="hv-1", host="a", verdict=verdict, reason="r"
    )
    told = story.tell(judged)
    assert not story.folding.tables.rows("instances")
    details = {"hypervisor_id": "hv-1", "host": "a", "verdict": verdict.value, "reason": "r"}
    denied = {} if verdict is Verdict.ALLOW else {"destroy_denied": ("warning", details)}
    assert story.anomalies(told) == denied
    story.booted()
    assert story.instance["booted_at"] is not None


# --- where it is


def test_an_instance_moves_from_hypervisor_to_hypervisor(story: Story) -> None:
    story.booted()
    story.relocated(to_hypervisor_id="hv-1", to_host="a")
    moved = story.relocated(
        RelocationCause.EVACUATION, from_hypervisor_id="hv-1", to_hypervisor_id="hv-2", to_host="b"
    )
    assert story.stays == [("hv-1", "a", "SCHEDULED", False), ("hv-2", "b", "EVACUATION", True)]
    assert story.instance["hypervisor_id"] == "hv-2"
    assert not story.anomalies(moved)


@pytest.mark.parametrize(
    ("to", "stays"),
    [
        # Another host name of the same hypervisor is no move.
        ({"to_hypervisor_id": "hv-1", "to_host": "renamed"}, [("hv-1", "a")]),
        ({"to_host": "a"}, [("hv-1", "a")]),
        ({"to_host": "b"}, [("hv-1", "a"), (None, "b")]),
        ({}, [("hv-1", "a")]),
    ],
)
def test_a_place_is_its_hypervisor(story: Story, to: Any, stays: list[Any]) -> None:
    story.booted(hypervisor_id="hv-1", host="a")
    story.relocated(RelocationCause.RESIZE, **to)
    assert [stay[:2] for stay in story.stays] == stays


def test_a_hypervisor_that_had_only_a_host_name_is_learned(story: Story) -> None:
    story.booted(host="a")
    story.relocated(to_hypervisor_id="hv-1", to_host="a")
    assert [stay[:2] for stay in story.stays] == [(None, "a"), ("hv-1", "a")]


def test_a_hypervisor_is_learned_from_what_is_left(story: Story) -> None:
    story.booted(host="a")
    moved = story.relocated(
        RelocationCause.EVACUATION,
        from_hypervisor_id="hv-1",
        from_host="a",
        to_hypervisor_id="hv-2",
        to_host="b",
    )
    assert story.stays == [
        (None, "a", "BOOTED", False),
        ("hv-1", "a", "UNSEEN", False),
        ("hv-2", "b", "EVACUATION", True),
    ]
    assert not story.anomalies(moved)


def test_leaving_another_place_than_was_known_is_a_gap(story: Story) -> None:
    story.booted(hypervisor_id="hv-1", host="a")
    moved = story.relocated(
        RelocationCause.EVACUATION,
        from_hypervisor_id="hv-2",
        from_host="b",
        to_hypervisor_id="hv-3",
    )
    gap = {
        "expected": {"hypervisor_id": "hv-1", "host": "a"},
        "found": {"hypervisor_id": "hv-2", "host": "b"},
    }
    assert story.anomalies(moved) == {
        "history_gap": ("warning", {"reasons": ["place_differs"], **gap})
    }
    assert [stay[0::2] for stay in story.stays] == [
        ("hv-1", "BOOTED"),
        ("hv-2", "UNSEEN"),
        ("hv-3", "EVACUATION"),
    ]


# --- deleted


def test_a_deleted_instance_is_remembered_and_deleted_once(story: Story) -> None:
    story.booted(flavor="m1", hypervisor_id="hv-1")
    story.tell(InstanceRescued(instance_uuid=THIS, rescue_image_ref="i-9"))
    story.deleted()
    last = story.instance
    assert (last["image_ref"], last["flavor"], last["hypervisor_id"]) == ("i-1", "m1", "hv-1")
    assert (last["deleted_at"], last["rescue_image_ref"]) == (START, None)
    assert story.history("image_bus") == [("virtio", "booted", "instance_deleted")]
    assert story.history("image_bus", "authoritative") == [("virtio", "booted", "instance_deleted")]
    assert story.history("image_ref", "attribute") == [("i-1", "booted", "instance_deleted")]
    assert story.stays == [("hv-1", None, "BOOTED", False)]
    story.deleted()
    assert story.instance == last
    assert not story.folding.tables.rows("anomalies")


def test_a_save_of_a_deleted_instance_brings_it_back(story: Story) -> None:
    story.booted()
    story.deleted()
    save = story.saved({"image_bus": "scsi"})
    assert story.anomalies(save) == {"history_gap": ("warning", {"reasons": ["was_deleted"]})}
    assert story.instance["deleted_at"] is None
    assert story.live() == {"image_bus": "scsi"}


def test_a_boot_after_a_deletion_brings_it_back(story: Story) -> None:
    story.deleted()
    first = story.booted()
    assert story.anomalies(first) == {"history_gap": ("warning", {"reasons": ["was_deleted"]})}
    assert story.instance["deleted_at"] is None
    story.deleted()
    second = story.anomalies(story.booted())
    assert second["history_gap"][1]["reasons"] == ["was_deleted", "booted_again"]


def test_an_id_that_boots_after_its_deletion_is_another_instance(story: Story) -> None:
    story.booted(flavor="m1", hypervisor_id="hv-1")
    story.deleted()
    story.booted(image_ref=None, system_metadata={})
    found = story.instance
    assert (found["image_ref"], found["flavor"], found["hypervisor_id"]) == (None, None, None)
    assert found["booted_at"] == found["boot_told_at"] == START + timedelta(minutes=2)


# --- what cannot be understood


def test_an_altered_value_is_named_by_the_event_that_brings_it(story: Story) -> None:
    story.booted()
    after = {**BOOTED, "owner": "\ufffd"}
    first = story.saved(after, altered=("owner",))
    assert story.anomalies(first) == {"value_altered": ("warning", {"keys": ["owner"]})}
    assert not story.anomalies(story.saved(after, altered=("owner",)))


@pytest.mark.parametrize(
    "data",
    [
        InstanceRelocated(instance_uuid=THIS, cause=RelocationCause.UNKNOWN),
        SnapshotTaken(instance_uuid=THIS, snapshot_image_id="i", purpose=SnapshotPurpose.UNKNOWN),
    ],
)
def test_a_symbol_of_tomorrow_cannot_be_folded(data: Any) -> None:
    with pytest.raises(Unfoldable):
        fold_instance(None, fact(event(data, number=1, at=START)))


def test_only_events_of_instances_are_folded() -> None:
    image = event(ImageDeleted(image_id="i", deleted_at=START), number=1, at=START)
    with pytest.raises(Unfoldable):
        fold_instance(None, fact(image))
    boot = event(InstanceBooted(instance_uuid=THIS), number=1, at=START, origin=Origin.UNKNOWN)
    with pytest.raises(Unfoldable):
        fold_instance(None, fact(boot))

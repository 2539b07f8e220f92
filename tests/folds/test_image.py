"""Single promises about images that a random history may miss, each told as a story."""

from datetime import timedelta
from typing import Any

import pytest

from metaledger.projector.folds.image import fold_image
from metaledger.schemas.digest import properties_digest, text_digest
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.events import Event
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.ledger import GapAccepted
from metaledger.schemas.meta import Meta, Origin

from .histories import IMAGE, START, event, fact
from .rows import Folding

OTHERS = pytest.mark.parametrize("origin", [Origin.IMPORTED, Origin.RECONCILED])
BIG = "a value beyond the cap"


class Story:
    """Events one after the other, a minute apart, and what is known after them."""

    def __init__(self) -> None:
        self.folding = Folding()
        self.count = 0

    def tell(self, data: Any, origin: Origin = Origin.OBSERVED) -> str:
        """Folds the event; gives its id."""
        at = START + timedelta(minutes=self.count)
        self.count += 1
        told = event(data, number=self.count, at=at, origin=origin)
        self.folding.take([told])
        self.folding.sleep()
        return told.meta.event_id

    def registered(self, origin: Origin = Origin.OBSERVED, **properties: str | None) -> str:
        data = ImageRegistered(image_id=IMAGE, status="queued", properties=properties)
        return self.tell(data, origin)

    def updated(self, mode: Mode, origin: Origin = Origin.OBSERVED, **change: Any) -> str:
        data = ImageUpdated(image_id=IMAGE, change=PropertyChange(mode=mode, **change))
        return self.tell(data, origin)

    def told(self, **attributes: str | None) -> str:
        change = PropertyChange(mode=Mode.MERGE)
        return self.tell(ImageUpdated(image_id=IMAGE, attributes=attributes, change=change))

    def deleted(self) -> str:
        return self.tell(ImageDeleted(image_id=IMAGE, deleted_at=START))

    def history(self, key: str, table: str = "image_property_history") -> list[tuple[Any, ...]]:
        return [
            (row["version"], row["value"], row["set_via"], row["end_reason"])
            for row in self.folding.tables.rows(table)
            if row["key"] == key
        ]

    def attribute(self, name: str) -> list[tuple[Any, ...]]:
        return self.history(name, "image_attribute_history")

    @property
    def times(self) -> tuple[int | None, int | None]:
        """When it was seen registered and since when it is known, in minutes."""
        told = (self.image["registered_at"], self.image["registration_told_at"])
        minute = timedelta(minutes=1)
        seen, known = (None if at is None else (at - START) // minute for at in told)
        return seen, known

    @property
    def image(self) -> dict[str, Any]:
        (row,) = self.folding.tables.rows("images")
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


# --- before and after


def test_what_the_ledger_missed_is_unseen_before_the_change_counts(story: Story) -> None:
    story.registered(a="1", b="1", c="1")
    last = story.updated(Mode.MERGE, set={"a": "3"}, before={"a": "2", "b": "1", "d": "4"})
    assert story.history("a") == [
        (1, "1", "registered", "unseen"),
        (2, "2", "unseen", "overwritten"),
        (3, "3", "merge", None),
    ]
    assert story.history("b") == [(1, "1", "registered", None)]
    assert story.history("c") == [(1, "1", "registered", "unseen")]
    assert story.history("d") == [(1, "4", "unseen", None)]
    gap = {"expected": {"a": "1", "c": "1"}, "found": {"a": "2", "d": "4"}}
    assert story.anomalies(last) == {
        "history_gap": ("warning", {"reasons": ["before_differs"], **gap})
    }


def test_after_wins_before_any_interval_is_closed(story: Story) -> None:
    story.registered(a="1", b="1")
    last = story.updated(Mode.MERGE, set={"a": "2"}, after={"a": "3"})
    assert story.history("a") == [(1, "1", "registered", "overwritten"), (2, "3", "merge", None)]
    assert story.history("b") == [(1, "1", "registered", "unseen")]
    details = {"mode": "MERGE", "expected": {"a": "2", "b": "1"}, "found": {"a": "3"}}
    assert story.anomalies(last) == {"semantics_divergence": ("warning", details)}


def test_a_purge_that_after_takes_back_ends_nothing(story: Story) -> None:
    story.registered(a="1")
    last = story.updated(Mode.PURGE, after={"a": "1"})
    assert story.history("a") == [(1, "1", "registered", None)]
    assert story.anomalies(last).keys() == {"semantics_divergence"}


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ({"a": "1"}, {"a": "2"}, set()),
        ({"a": "0"}, {"a": "2"}, {"history_gap"}),
        ({"a": "1"}, {"a": "0"}, {"semantics_divergence"}),
        # A service that the ledger lost track of is not to blame for what comes after.
        ({"a": "0"}, {"a": "0"}, {"history_gap"}),
    ],
)
def test_digests_stand_for_maps_that_were_too_large(
    story: Story, before: Any, after: Any, kinds: set[str]
) -> None:
    story.registered(a="1")
    digests = {"before_digest": properties_digest(before), "after_digest": properties_digest(after)}
    last = story.updated(Mode.MERGE, set={"a": "2"}, **digests)
    assert story.anomalies(last).keys() == kinds
    assert story.history("a") == [(1, "1", "registered", "overwritten"), (2, "2", "merge", None)]


# --- why a property is gone


@pytest.mark.parametrize(
    ("known", "reason", "severity"),
    [
        ({"removed": ["a"]}, "removed", None),
        ({"removed": []}, "purged", "error"),
        ({"removed": [], "seen": ["a"]}, "purged", "error"),
        ({"seen": ["a", "b"]}, "removed", None),
        ({"seen": ["b"]}, "purged", "error"),
        ({"seen": []}, "purged", "error"),
        ({}, "purged", "warning"),
    ],
)
def test_a_purge_is_a_decision_or_a_loss(
    story: Story, known: Any, reason: str, severity: str | None
) -> None:
    story.registered(a="1", b="1", os_glance_task="x")
    last = story.updated(Mode.PURGE, set={"b": "1"}, exempt=["os_glance_task"], **known)
    assert story.history("a") == [(1, "1", "registered", reason)]
    assert story.history("b") == [(1, "1", "registered", None)]
    assert story.history("os_glance_task") == [(1, "x", "registered", None)]
    details = {"mode": "PURGE", "properties": {"a": "1"}}
    lost = {"properties_lost_to_purge": (severity, details)} if severity else {}
    assert story.anomalies(last) == lost


def test_what_glance_itself_keeps_raises_nothing_when_it_is_purged(story: Story) -> None:
    story.registered(os_glance_task="x")
    last = story.updated(Mode.PURGE)
    assert story.history("os_glance_task") == [(1, "x", "registered", "purged")]
    assert not story.anomalies(last)


def test_a_key_that_comes_back_is_a_new_version(story: Story) -> None:
    story.registered(a=None)
    story.updated(Mode.MERGE, removed=["a"])
    story.updated(Mode.MERGE, set={"a": None})
    assert story.history("a") == [(1, None, "registered", "removed"), (2, None, "merge", None)]


# --- registered twice, never, deleted


@pytest.mark.parametrize("origin", [Origin.OBSERVED, Origin.IMPORTED])
def test_a_second_registration_says_what_the_image_has(story: Story, origin: Origin) -> None:
    story.registered(a="1", b="1", c="1")
    last = story.registered(origin, a="1", b="2")
    assert story.history("a") == [(1, "1", "registered", None)]
    assert story.history("b") == [(1, "1", "registered", "unseen"), (2, "2", "registered", None)]
    assert story.history("c") == [(1, "1", "registered", "unseen")]
    observed = origin is Origin.OBSERVED
    assert story.anomalies(last).keys() == ({"history_gap"} if observed else set())
    assert story.times == (0, 0)


@OTHERS
def test_a_registration_that_was_found_has_no_time_until_one_is_seen(
    story: Story, origin: Origin
) -> None:
    """The first one that is seen is a second one all the same: its image was there."""
    story.registered(origin, a="1")
    assert story.times == (None, 0)
    story.registered(origin, a="1")
    assert story.times == (None, 0)
    last = story.registered(a="1")
    reasons = {"reasons": ["registered_again"]}
    assert story.anomalies(last) == {"history_gap": ("warning", reasons)}
    assert story.times == (2, 0)
    story.registered(origin, a="2")
    story.updated(Mode.MERGE, set={"b": "1"})
    assert story.times == (2, 0)
    story.deleted()
    assert story.times == (2, 0)


@OTHERS
def test_what_was_seen_of_a_deleted_image_is_not_the_next_ones(
    story: Story, origin: Origin
) -> None:
    story.registered()
    story.deleted()
    story.registered(origin)
    assert story.times == (None, 2)


@pytest.mark.parametrize("origin", [Origin.OBSERVED, Origin.IMPORTED, Origin.RECONCILED])
@pytest.mark.parametrize("deletion", [False, True])
def test_an_image_that_nobody_saw_registered_is_there_all_the_same(
    story: Story, origin: Origin, *, deletion: bool
) -> None:
    change = PropertyChange(mode=Mode.MERGE, set={"a": "1"}, before={"b": "1"})
    data = ImageDeleted(image_id=IMAGE, deleted_at=START) if deletion else None
    last = story.tell(data or ImageUpdated(image_id=IMAGE, change=change), origin)
    assert story.times == (None, None)
    reasons = ["never_registered"] if deletion else ["never_registered", "before_differs"]
    found = story.anomalies(last)
    assert found.keys() == ({"history_gap"} if origin is Origin.OBSERVED else set())
    assert [details["reasons"] for _, details in found.values()] in ([], [reasons])


def test_a_registration_that_comes_late_is_the_first(story: Story) -> None:
    story.updated(Mode.MERGE, set={"a": "1"})
    last = story.registered(b="1")
    assert story.history("a") == [(1, "1", "merge", "unseen")]
    assert not story.anomalies(last)


def test_a_deleted_image_is_remembered_and_deleted_once(story: Story) -> None:
    story.registered(a="1")
    story.told(name="one")
    deletion = story.deleted()
    story.deleted()
    assert story.history("a") == [(1, "1", "registered", "image_deleted")]
    assert story.attribute("name") == [(1, "one", "merge", "image_deleted")]
    assert story.attribute("status") == [(1, "queued", "registered", "image_deleted")]
    assert (story.image["name"], story.image["status"]) == ("one", "deleted")
    assert (story.image["deleted_at"], story.image["last_event_id"]) == (START, deletion)
    assert not story.folding.tables.rows("anomalies")


def test_an_update_of_a_deleted_image_is_applied_and_it_can_be_deleted_again(story: Story) -> None:
    story.registered(a="1")
    story.deleted()
    update = story.updated(Mode.MERGE, set={"a": "2"})
    assert story.anomalies(update) == {"history_gap": ("warning", {"reasons": ["was_deleted"]})}
    assert (story.image["deleted_at"], story.image["status"]) == (None, None)
    assert not story.anomalies(story.updated(Mode.MERGE, set={"b": "1"}))
    story.deleted()
    assert story.history("a") == [
        (1, "1", "registered", "image_deleted"),
        (2, "2", "merge", "image_deleted"),
    ]


def test_an_id_that_is_registered_after_its_deletion_is_another_image(story: Story) -> None:
    story.registered(a="1", image_type="snapshot")
    story.told(name="one", size="17")
    story.deleted()
    last = story.registered(a="1")
    assert story.history("a")[1:] == [(2, "1", "registered", None)]
    assert (story.image["name"], story.image["size"], story.image["image_type"]) == (
        None,
        None,
        "image",
    )
    assert story.times == (3, 3)
    assert story.anomalies(last).keys() == {"history_gap"}


def test_what_a_reconciled_event_finds_nobody_saw(story: Story) -> None:
    story.registered(a="1", b="1", c="1")
    held = {"a": "1", "b": "2", "d": "4"}
    last = story.updated(Mode.PURGE, Origin.RECONCILED, set=held, after=held)
    assert story.history("a") == [(1, "1", "registered", None)]
    assert story.history("b") == [(1, "1", "registered", "unseen"), (2, "2", "unseen", None)]
    assert story.history("c") == [(1, "1", "registered", "unseen")]
    assert story.history("d") == [(1, "4", "unseen", None)]
    assert not story.anomalies(last)


# --- values that could not be represented


def test_an_altered_value_is_named_once_and_never_taken_for_a_change(story: Story) -> None:
    story.registered(b="1")
    digest = text_digest(BIG)
    first = story.updated(Mode.MERGE, set={"a": digest}, altered=["a"])
    assert story.anomalies(first) == {"value_altered": ("warning", {"keys": ["a"]})}
    # The service holds the value itself: in digests, in maps, and in what is sent back.
    held = {"a": BIG, "b": "1"}
    digests = {"before_digest": properties_digest(held), "after_digest": properties_digest(held)}
    assert not story.anomalies(story.updated(Mode.MERGE, **digests))
    assert not story.anomalies(story.updated(Mode.PURGE, set=held, before=held, after=held))
    assert not story.anomalies(story.updated(Mode.MERGE, altered=["a"], before=held))
    assert story.history("a") == [(1, digest, "merge", None)]
    # Another value is a change, and then the comparison is exact again.
    story.updated(Mode.MERGE, set={"a": "2"}, before=held)
    assert story.history("a")[1:] == [(2, "2", "merge", None)]
    last = story.updated(Mode.MERGE, before_digest=properties_digest(held))
    assert story.anomalies(last).keys() == {"history_gap"}


def test_an_altered_attribute_is_named(story: Story) -> None:
    change = PropertyChange(mode=Mode.MERGE, altered=["name"])
    data = ImageUpdated(image_id=IMAGE, attributes={"name": "\ufffd"}, change=change)
    story.registered()
    assert story.anomalies(story.tell(data)) == {"value_altered": ("warning", {"keys": ["name"]})}
    assert not story.anomalies(story.tell(data))


# --- attributes, and what `images` shows


def test_attributes_are_text_in_intervals_of_their_own(story: Story) -> None:
    story.tell(
        ImageRegistered(
            image_id=IMAGE, status="queued", min_disk=3, protected=True, tags=["ü", "b", "b"]
        )
    )
    story.told(status="active", min_disk=None, location_count="1")
    change = PropertyChange(mode=Mode.MERGE)
    story.tell(ImageUpdated(image_id=IMAGE, tags=(), change=change))
    reconciled = ImageUpdated(image_id=IMAGE, attributes={"status": "killed"}, change=change)
    story.tell(reconciled, Origin.RECONCILED)
    assert story.attribute("status") == [
        (1, "queued", "registered", "overwritten"),
        (2, "active", "merge", "unseen"),
        (3, "killed", "unseen", None),
    ]
    assert story.attribute("min_disk") == [
        (1, "3", "registered", "overwritten"),
        (2, None, "merge", None),
    ]
    assert story.attribute("protected") == [(1, "true", "registered", None)]
    assert story.attribute("tags") == [
        (1, '["b","ü"]', "registered", "overwritten"),
        (2, "[]", "merge", None),
    ]
    assert story.attribute("location_count") == [(1, "1", "merge", None)]
    assert story.attribute("name") == []


def test_a_registration_tells_the_attributes_that_it_has_no_field_for(story: Story) -> None:
    attributes = {"size": "17", "location_count": "1", "virtual_size": None, "min_disk": "9"}
    registered = ImageRegistered(
        image_id=IMAGE, status="queued", min_disk=3, attributes=attributes, altered=("size",)
    )
    event_id = story.tell(registered)
    assert story.image["size"] == 17
    assert story.attribute("size") == [(1, "17", "registered", None)]
    assert story.attribute("location_count") == [(1, "1", "registered", None)]
    assert story.attribute("virtual_size") == []
    assert story.attribute("min_disk") == [(1, "3", "registered", None)]
    assert story.anomalies(event_id) == {"value_altered": ("warning", {"keys": ["size"]})}


def test_an_upload_tells_size_and_checksums(story: Story) -> None:
    story.registered()
    change = PropertyChange(mode=Mode.MERGE)
    story.tell(
        ImageDataUploaded(image_id=IMAGE, size=17, checksum="c", status="active", change=change)
    )
    assert (story.image["size"], story.image["checksum"]) == (17, "c")
    assert story.image["data_uploaded_at"] == START + timedelta(minutes=1)
    assert story.image["image_type"] == "image"
    assert story.attribute("size") == [(1, "17", "merge", None)]


@pytest.mark.parametrize("size", ["", "-1", "9" * 19, "seventeen", None])
def test_a_size_that_is_none_is_shown_as_none(story: Story, size: str | None) -> None:
    story.registered()
    story.told(size=size)
    assert story.image["size"] is None
    assert story.attribute("size") == ([] if size is None else [(1, size, "merge", None)])


def test_what_was_a_snapshot_once_is_one(story: Story) -> None:
    story.registered(image_type="snapshot")
    story.updated(Mode.PURGE)
    assert story.image["image_type"] == "snapshot"


@pytest.mark.parametrize(
    "change",
    [
        PropertyChange(mode=Mode.MERGE, set={"image_type": "snapshot"}),
        PropertyChange(mode=Mode.PURGE, before={"image_type": "snapshot"}),
    ],
)
def test_a_property_makes_a_snapshot(story: Story, change: PropertyChange) -> None:
    story.registered()
    story.tell(ImageUpdated(image_id=IMAGE, change=change))
    assert story.image["image_type"] == "snapshot"


@OTHERS
def test_an_upload_that_nobody_saw_has_no_time_and_overrules_none(
    story: Story, origin: Origin
) -> None:
    change = PropertyChange(mode=Mode.MERGE)
    upload = SnapshotUploaded(
        image_id=IMAGE, instance_uuid="u", size=1, status="active", change=change
    )
    story.tell(upload, origin)
    assert story.image["data_uploaded_at"] is None
    assert [row["occurred_at"] for row in story.folding.tables.rows("snapshot_uploads")] == [None]
    seen = story.tell(upload)
    told = story.folding.tables.rows("snapshot_uploads")
    assert (told[0]["event_id"], told[0]["occurred_at"]) == (seen, START + timedelta(minutes=1))
    story.tell(upload, origin)
    assert story.folding.tables.rows("snapshot_uploads") == told
    assert story.image["data_uploaded_at"] == START + timedelta(minutes=1)


def test_an_upload_makes_a_snapshot(story: Story) -> None:
    change = PropertyChange(mode=Mode.MERGE)
    story.tell(SnapshotUploaded(image_id=IMAGE, size=1, status="active", change=change))
    assert story.image["image_type"] == "snapshot"


# --- what has no meaning


def test_a_symbol_of_tomorrow_is_unfoldable() -> None:
    unknown_mode = ImageUpdated(image_id=IMAGE, change=PropertyChange(mode=Mode.UNKNOWN))
    with pytest.raises(Unfoldable, match="mode"):
        fold_image(None, fact(event(unknown_mode, number=1, at=START)))
    registered = ImageRegistered(image_id=IMAGE, status="queued")
    with pytest.raises(Unfoldable, match="origin"):
        fold_image(None, fact(event(registered, number=1, at=START, origin=Origin.UNKNOWN)))


def test_an_event_of_something_else_is_unfoldable() -> None:
    registered = event(ImageRegistered(image_id=IMAGE, status="queued"), number=1, at=START)
    meta: Meta = registered.meta
    other = GapAccepted(gap_stream_id="s", gap_epoch=1, from_seq=1, to_seq=1, reason="lost")
    with pytest.raises(Unfoldable, match="GapAccepted"):
        fold_image(None, fact(Event(meta, other)))

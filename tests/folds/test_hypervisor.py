"""Promises about hypervisors: single ones told as stories, and what holds of every history."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaledger.projector.folds.hypervisor import fold_hypervisor
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.events import Event
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.image import ImageDeleted
from metaledger.schemas.meta import Origin

from .histories import START, event, fact
from .hypervisor_histories import HYPERVISOR, realistic, wild
from .rows import Folding

OTHERS = pytest.mark.parametrize("origin", [Origin.IMPORTED, Origin.RECONCILED])
MINUTE = timedelta(minutes=1)
some = settings(max_examples=60, deadline=None)


class Story:
    """Events one after the other, a minute apart, and what is known after them."""

    def __init__(self) -> None:
        self.folding = Folding()
        self.count = 0

    def tell(self, data: Any, origin: Origin = Origin.OBSERVED) -> str:
        """Folds the event; gives its id."""
        at = START + self.count * MINUTE
        self.count += 1
        told = event(data, number=self.count, at=at, origin=origin)
        self.folding.take([told])
        self.folding.sleep()
        return told.meta.event_id

    def registered(self, host: str, origin: Origin = Origin.OBSERVED, **told: str) -> str:
        data = HypervisorRegistered(
            hypervisor_id=HYPERVISOR, id_source=IdSource.FILE, host=host, **told
        )
        return self.tell(data, origin)

    def changed(self, before: str, after: str, origin: Origin = Origin.OBSERVED) -> str:
        data = HypervisorHostChanged(hypervisor_id=HYPERVISOR, from_host=before, to_host=after)
        return self.tell(data, origin)

    def removed(self, origin: Origin = Origin.OBSERVED) -> str:
        return self.tell(HypervisorRemoved(hypervisor_id=HYPERVISOR), origin)

    @property
    def hosts(self) -> list[tuple[Any, ...]]:
        """Its host names, with the minutes from when to when, and why."""
        return [
            (
                row["host"],
                (row["valid_from"] - START) // MINUTE,
                None if row["valid_to"] is None else (row["valid_to"] - START) // MINUTE,
                row["set_via"],
                row["end_reason"],
            )
            for row in self.folding.tables.rows("hypervisor_hosts")
        ]

    @property
    def times(self) -> tuple[int | None, int | None]:
        """When it was seen registered and since when it is known, in minutes."""
        told = (self.row["registered_at"], self.row["registration_told_at"])
        seen, known = (None if at is None else (at - START) // MINUTE for at in told)
        return seen, known

    @property
    def row(self) -> dict[str, Any]:
        (row,) = self.folding.tables.rows("hypervisors")
        return row

    def anomalies(self, event_id: str) -> dict[str, Any]:
        """The event's anomalies by kind, with their details."""
        return {
            row["kind"]: row["details"]
            for row in self.folding.tables.rows("anomalies")
            if row["event_id"] == event_id
        }


@pytest.fixture
def story() -> Story:
    return Story()


def renaming(before: str, after: str) -> dict[str, Any]:
    return {"hypervisor_host_changed": {"from_host": before, "to_host": after}}


def gap(*reasons: str, **hosts: Any) -> dict[str, Any]:
    return {"history_gap": {"reasons": list(reasons), **hosts}}


def test_a_registration_says_who_it_is(story: Story) -> None:
    first = story.registered("a", hypervisor_hostname="a.example.org", hypervisor_type="QEMU")
    assert story.row == {
        "hypervisor_id": HYPERVISOR,
        "host": "a",
        "id_source": "FILE",
        "hypervisor_hostname": "a.example.org",
        "hypervisor_type": "QEMU",
        "registered_at": START,
        "registration_told_at": START,
        "removed_at": None,
        "last_event_id": first,
    }
    assert story.hosts == [("a", 0, None, "registered", None)]
    assert story.anomalies(first) == {}


def test_a_changed_host_name_is_told_and_moves_nothing(story: Story) -> None:
    story.registered("a", hypervisor_hostname="a.example.org")
    last = story.changed("a", "renamed")
    assert story.hosts == [
        ("a", 0, 1, "registered", "changed"),
        ("renamed", 1, None, "changed", None),
    ]
    assert (story.row["host"], story.row["hypervisor_hostname"]) == ("renamed", "a.example.org")
    assert story.anomalies(last) == renaming("a", "renamed")
    (row,) = story.folding.tables.rows("anomalies")
    assert (row["severity"], row["aggregate_kind"], row["aggregate_id"]) == (
        "warning",
        "hypervisor",
        HYPERVISOR,
    )


def test_to_the_host_that_it_has_it_does_not_change(story: Story) -> None:
    story.registered("a")
    last = story.changed("a", "a")
    assert story.hosts == [("a", 0, None, "registered", None)]
    assert story.anomalies(last) == {}
    assert story.row["last_event_id"] == last


# --- what the ledger missed


def test_what_it_was_before_the_change_is_what_the_change_says(story: Story) -> None:
    story.registered("a")
    last = story.changed("b", "c")
    assert story.hosts == [
        ("a", 0, 1, "registered", "unseen"),
        ("b", 1, 1, "unseen", "changed"),
        ("c", 1, None, "changed", None),
    ]
    hosts = {"expected": {"host": "a"}, "found": {"host": "b"}}
    assert story.anomalies(last) == {**gap("before_differs", **hosts), **renaming("b", "c")}


def test_a_change_that_nobody_saw_is_told_by_the_next_one(story: Story) -> None:
    story.registered("a")
    last = story.changed("b", "b")
    hosts = {"expected": {"host": "a"}, "found": {"host": "b"}}
    assert story.anomalies(last) == {**gap("before_differs", **hosts), **renaming("a", "b")}
    assert story.hosts[1] == ("b", 1, None, "unseen", None)


def test_a_hypervisor_that_nobody_saw_registered_is_there_all_the_same(story: Story) -> None:
    last = story.changed("a", "b")
    assert story.hosts == [("a", 0, 0, "unseen", "changed"), ("b", 0, None, "changed", None)]
    assert story.anomalies(last) == {**gap("never_registered"), **renaming("a", "b")}
    assert story.times == (None, None)
    assert story.row["id_source"] is None
    assert story.anomalies(story.changed("b", "c")) == renaming("b", "c")
    late = story.registered("c")
    assert story.anomalies(late) == {}
    assert story.times == (2, 2)


def test_a_removal_of_what_was_never_registered_is_remembered(story: Story) -> None:
    last = story.removed()
    assert story.anomalies(last) == gap("never_registered")
    assert (story.row["host"], story.row["removed_at"]) == (None, START)
    assert story.hosts == []


def test_a_second_registration_says_where_it_is(story: Story) -> None:
    story.registered("a", hypervisor_type="QEMU", hypervisor_hostname="a.example.org")
    same = story.registered("a", hypervisor_hostname="")
    assert story.anomalies(same) == gap("registered_again")
    assert story.hosts == [("a", 0, None, "registered", None)]
    assert (story.row["hypervisor_type"], story.row["hypervisor_hostname"]) == ("QEMU", "")
    other = story.registered("b")
    hosts = {"expected": {"host": "a"}, "found": {"host": "b"}}
    assert story.anomalies(other) == {**gap("registered_again", **hosts), **renaming("a", "b")}
    assert story.hosts == [
        ("a", 0, 2, "registered", "unseen"),
        ("b", 2, None, "registered", None),
    ]
    assert story.row["registered_at"] == START


@OTHERS
def test_what_mends_a_gap_raises_none(story: Story, origin: Origin) -> None:
    assert story.anomalies(story.changed("a", "b", origin)) == renaming("a", "b")
    assert story.anomalies(story.registered("b", origin)) == {}
    assert story.anomalies(story.registered("b", origin)) == {}
    mended = story.anomalies(story.registered("c", origin))
    assert mended == (renaming("b", "c") if origin is Origin.RECONCILED else {})
    assert story.anomalies(story.changed("d", "e", origin)) == renaming("d", "e")
    assert story.anomalies(story.removed(origin)) == {}
    assert story.anomalies(story.changed("e", "f", origin)) == renaming("e", "f")


@OTHERS
def test_what_is_seen_first_after_one_was_found_is_no_second_registration(
    story: Story, origin: Origin
) -> None:
    story.registered("a", origin)
    assert story.times == (None, 0)
    assert story.anomalies(story.registered("a")) == {}
    assert story.times == (1, 0)
    assert story.anomalies(story.registered("a")) == gap("registered_again")
    assert story.times == (1, 0)
    assert story.hosts == [("a", 0, None, "registered", None)]


@OTHERS
def test_a_registration_that_was_seen_keeps_its_time(story: Story, origin: Origin) -> None:
    story.registered("a")
    story.registered("b", origin)
    assert story.times == (0, 0)
    story.removed()
    story.registered("b", origin)
    assert story.times == (None, 3)


def test_an_import_overrules_no_registration(story: Story) -> None:
    story.registered("a", hypervisor_type="QEMU")
    seen = story.row
    story.registered("b", Origin.IMPORTED, hypervisor_type="other")
    assert story.row == seen
    assert story.hosts == [("a", 0, None, "registered", None)]
    assert story.anomalies(story.registered("a")) == gap("registered_again")


def test_what_a_reconciled_change_does_nobody_saw(story: Story) -> None:
    story.registered("a")
    story.changed("a", "b", Origin.RECONCILED)
    assert story.hosts == [("a", 0, 1, "registered", "unseen"), ("b", 1, None, "unseen", None)]


# --- removed


def test_a_removed_hypervisor_is_remembered_and_removed_once(story: Story) -> None:
    story.registered("a")
    removal = story.removed()
    row = story.row
    story.removed()
    assert story.row == row
    assert (row["host"], row["id_source"], row["registered_at"]) == ("a", "FILE", START)
    assert (row["removed_at"], row["last_event_id"]) == (START + MINUTE, removal)
    assert story.hosts == [("a", 0, 1, "registered", "removed")]
    assert not story.folding.tables.rows("anomalies")


def test_a_change_of_a_removed_hypervisor_is_applied_and_a_gap(story: Story) -> None:
    story.registered("a")
    story.removed()
    last = story.changed("a", "b")
    assert story.anomalies(last) == {**gap("was_removed"), **renaming("a", "b")}
    assert (story.row["removed_at"], story.row["host"]) == (None, "b")
    assert story.row["registered_at"] == START
    assert [row[:3] for row in story.hosts] == [("a", 0, 1), ("a", 2, 2), ("b", 2, None)]
    story.removed()
    assert story.row["removed_at"] == START + 3 * MINUTE


def test_an_id_outlives_its_removal_and_begins_anew(story: Story) -> None:
    story.registered("a", hypervisor_type="QEMU")
    story.removed()
    last = story.registered("b")
    assert story.anomalies(last) == {}
    assert story.hosts == [("a", 0, 1, "registered", "removed"), ("b", 2, None, "registered", None)]
    assert (story.row["registered_at"], story.row["removed_at"]) == (START + 2 * MINUTE, None)
    assert story.row["hypervisor_type"] is None


# --- what has no meaning


def test_a_symbol_of_tomorrow_is_unfoldable() -> None:
    unknown = HypervisorRegistered(hypervisor_id="h", id_source=IdSource.UNKNOWN, host="a")
    with pytest.raises(Unfoldable, match="source"):
        fold_hypervisor(None, fact(event(unknown, number=1, at=START)))
    removed = event(HypervisorRemoved(hypervisor_id="h"), number=1, at=START, origin=Origin.UNKNOWN)
    with pytest.raises(Unfoldable, match="origin"):
        fold_hypervisor(None, fact(removed))


def test_an_event_of_something_else_is_unfoldable() -> None:
    other = event(ImageDeleted(image_id="i", deleted_at=START), number=1, at=START)
    with pytest.raises(Unfoldable, match="ImageDeleted"):
        fold_hypervisor(None, fact(other))


# --- every history


@some
@given(wild() | realistic())
def test_host_names_follow_each_other_in_versions_from_1(events: list[Event]) -> None:
    times = {each.meta.event_id: each.meta.occurred_at for each in events}
    tables = Folding().take(events).tables
    intervals = tables.rows("hypervisor_hosts")
    assert [row["version"] for row in intervals] == list(range(1, len(intervals) + 1))
    for row, following in pairwise(intervals):
        assert row["valid_from"] <= row["valid_to"] <= following["valid_from"]
    for row in intervals:
        assert row["valid_from"] == times[row["set_by_event"]]
        assert row["valid_to"] == times.get(row["ended_by_event"])
        assert (row["valid_to"] is None) == (row["end_reason"] is None)
    for row in tables.rows("hypervisors"):
        live = [each["host"] for each in intervals if each["valid_to"] is None]
        assert live == ([row["host"]] if row["removed_at"] is None else [])


@some
@given(realistic(faults=False))
def test_a_cloud_that_records_all_shows_each_change_of_host_and_no_gap(
    events: list[Event],
) -> None:
    changes = [each.meta.event_id for each in events if each.type == "HypervisorHostChanged"]
    anomalies = Folding().take(events).tables.rows("anomalies")
    assert {row["kind"] for row in anomalies} <= {"hypervisor_host_changed"}
    assert sorted(row["event_id"] for row in anomalies) == sorted(changes)


@some
@given(wild(), st.sampled_from(["a", "b"]))
def test_whatever_was_missed_a_registration_tells_where_it_is(
    events: list[Event], host: str
) -> None:
    data = HypervisorRegistered(hypervisor_id=HYPERVISOR, id_source=IdSource.NATIVE, host=host)
    at = events[-1].meta.occurred_at
    folding = Folding().take([*events, event(data, number=len(events) + 1, at=at)])
    (row,) = folding.tables.rows("hypervisors")
    assert (row["host"], row["removed_at"], row["id_source"]) == (host, None, "NATIVE")

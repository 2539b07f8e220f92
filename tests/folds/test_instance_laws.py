"""What holds of every instance: of owners without an order, of intervals and of metadata."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaledger.schemas.disk import DiskCreationStarted
from metaledger.schemas.events import Event, EventData
from metaledger.schemas.instance import InstanceDeleted, InstanceSystemMetadataSaved
from metaledger.schemas.meta import Origin

from ..contract.instance_samples import DATA, LAYOUT, THIS
from .histories import START, event
from .instance_histories import INSTANCE, MAPS, owner, realistic, wild
from .rows import Folding

ANY = wild() | realistic()
HISTORIES = ("instance_attribute_history", "instance_metadata_history")
some = settings(max_examples=60, deadline=None)


@some
@given(ANY, st.randoms(use_true_random=False))
def test_what_owners_tell_may_come_in_any_order_between_them(
    events: list[Event], source: Any
) -> None:
    streams: dict[str, list[Event]] = {}
    for each in events:
        streams.setdefault(owner(each), []).append(each)
    waiting = list(streams.values())
    mixed = []
    while any(waiting):
        mixed.append(source.choice([stream for stream in waiting if stream]).pop(0))
    assert Folding().take(mixed).tables == Folding().take(events).tables


BEFORE: tuple[tuple[EventData, ...], ...] = (
    (),
    (DATA[0],),
    (DATA[0], DATA[5], DiskCreationStarted(instance_uuid=THIS, disk="disk", layout=LAYOUT)),
)


@pytest.mark.parametrize("before", BEFORE, ids=["unknown", "booted", "rescued with a disk"])
def test_each_two_events_of_two_owners_may_change_places(before: tuple[EventData, ...]) -> None:
    first = [event(data, number=n, at=START) for n, data in enumerate(before, 1)]
    for one, other in product(DATA, DATA):
        pair = [
            event(data, number=len(first) + n, at=START + timedelta(minutes=n))
            for n, data in enumerate((one, other), 1)
        ]
        if owner(pair[0]) != owner(pair[1]):
            in_turn = Folding().take([*first, *pair])
            swapped = Folding().take([*first, *reversed(pair)])
            assert swapped.tables == in_turn.tables, (one, other)


def keyed(folding: Folding) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    by_key: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for table in HISTORIES:
        for row in folding.tables.rows(table):
            by_key.setdefault((table, row.get("kind"), row["key"]), []).append(row)
    for row in folding.tables.rows("instance_locations"):
        by_key.setdefault(("instance_locations",), []).append(row)
    for row in folding.tables.rows("disk_layout_history"):
        by_key.setdefault(("disk_layout_history", row["disk"]), []).append(row)
    return by_key


@some
@given(ANY)
def test_intervals_follow_each_other_in_versions_from_1_and_end_by_an_event(
    events: list[Event],
) -> None:
    times = {each.meta.event_id: each.meta.occurred_at for each in events}
    for intervals in keyed(Folding().take(events)).values():
        assert [row["version"] for row in intervals] == list(range(1, len(intervals) + 1))
        assert all(row["valid_to"] is not None for row in intervals[:-1])
        for row in intervals:
            assert row["valid_from"] == times[row["set_by_event"]]
            assert row["valid_to"] == times.get(row["ended_by_event"])
            assert (row["valid_to"] is None) == (row.get("end_reason", row["valid_to"]) is None)
        for row, following in pairwise(intervals):
            assert row["valid_from"] <= row["valid_to"] <= following["valid_from"]


def end_of(events: list[Event]) -> datetime:
    return events[-1].meta.occurred_at if events else START


def live(folding: Folding, table: str, kind: str | None = None) -> dict[str, str | None]:
    return {
        row["key"]: row["value"]
        for row in folding.tables.rows(table)
        if row["valid_to"] is None and row.get("kind") == kind
    }


@some
@given(ANY, MAPS)
def test_a_save_stores_its_map_and_touches_nothing_that_is_authoritative(
    events: list[Event], after: Any
) -> None:
    folding = Folding().take(events)
    before = live(folding, "instance_attribute_history", "authoritative")
    data = InstanceSystemMetadataSaved(instance_uuid=INSTANCE, operation="attach", after=after)
    save = event(data, number=len(events) + 1, at=end_of(events))
    folding.take([save])
    assert live(folding, "instance_metadata_history") == after
    assert live(folding, "instance_attribute_history", "authoritative") == before
    assert overwritten(folding, save).keys() <= {
        key for key, value in before.items() if after.get(key, ...) != value
    }
    again = event(data, number=len(events) + 2, at=save.meta.occurred_at)
    assert overwritten(folding.take([again]), again) == {}


def overwritten(folding: Folding, save: Event) -> dict[str, str | None]:
    """What the save overwrote or dropped, with the authoritative values."""
    return {
        key: value
        for row in folding.tables.rows("anomalies")
        if row["kind"] == "boot_metadata_overwritten" and row["event_id"] == save.meta.event_id
        for key, value in row["details"]["expected"].items()
    }


@some
@given(ANY, MAPS)
def test_a_reconciled_save_mends_whatever_was_missed(events: list[Event], held: Any) -> None:
    folding = Folding().take(events)
    before = len(folding.tables.rows("anomalies"))
    data = InstanceSystemMetadataSaved(instance_uuid=INSTANCE, operation="reconcile", after=held)
    at = end_of(events)
    folding.take([event(data, number=len(events) + 1, at=at, origin=Origin.RECONCILED)])
    assert live(folding, "instance_metadata_history") == held
    assert len(folding.tables.rows("anomalies")) == before


@some
@given(ANY)
def test_a_deletion_ends_all_that_the_database_told(events: list[Event]) -> None:
    folding = Folding().take(events)
    at = end_of(events)
    data = InstanceDeleted(instance_uuid=INSTANCE, deleted_at=at)
    folding.take([event(data, number=len(events) + 1, at=at)])
    assert not live(folding, "instance_metadata_history")
    assert not live(folding, "instance_attribute_history", "authoritative")
    assert live(folding, "instance_attribute_history", "attribute").keys() <= {"rescue_image_ref"}
    [row] = folding.tables.rows("instances")
    assert row["deleted_at"] is not None
    assert row["rescue_image_ref"] is None
    assert all(row["valid_to"] for row in folding.tables.rows("instance_locations"))
    told = len(folding.tables.rows("anomalies"))
    again = replace(data, deleted_at=at + timedelta(days=1))
    folding.take([event(again, number=len(events) + 2, at=at)])
    assert folding.tables.rows("instances") == [row]
    assert len(folding.tables.rows("anomalies")) == told


@some
@given(realistic(faults=False))
def test_a_cloud_that_records_all_shows_no_gap(events: list[Event]) -> None:
    kinds = {row["kind"] for row in Folding().take(events).tables.rows("anomalies")}
    assert kinds <= {
        "boot_metadata_overwritten",
        "base_image_ref_dropped",
        "disk_layout_mismatch",
    }

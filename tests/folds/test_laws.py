"""What holds of every history of an image: of intervals, modes and anomalies."""

from datetime import datetime
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from metaledger.projector.folds.image import fold_image
from metaledger.schemas.events import Event
from metaledger.schemas.image import (
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
)
from metaledger.schemas.meta import Origin

from .histories import (
    IMAGE,
    KEY_LISTS,
    KEYS,
    MAPS,
    START,
    VALUES,
    event,
    fact,
    realistic,
    wild,
)
from .rows import Folding, RowTables

HISTORIES = ("image_property_history", "image_attribute_history")
FULL = st.dictionaries(KEYS, VALUES, min_size=4)
ANY = wild(events_max=6) | realistic()
some = settings(max_examples=60, deadline=None)


class Ends:
    """Sees every row as it is put, so that an end that is put twice or changed is seen."""

    def __init__(self) -> None:
        self.tables = RowTables()
        self.ended: dict[Any, dict[str, Any]] = {}

    def fold(self, events: list[Event]) -> None:
        state = None
        for each in events:
            step = fold_image(state, fact(each))
            state = step.state
            self.tables.put(step.changes)
            for put in step.changes:
                if put.table in HISTORIES:
                    self._see(put.table, put.row)

    def _see(self, table: str, row: dict[str, Any]) -> None:
        key = (table, row["image_id"], row["key"], row["version"])
        assert key not in self.ended, "what has ended is never put again"
        if row["valid_to"] is not None:
            self.ended[key] = row


@some
@given(ANY)
def test_every_interval_ends_once_with_one_reason(events: list[Event]) -> None:
    seen = Ends()
    seen.fold(events)
    for table in HISTORIES:
        for row in seen.tables.rows(table):
            ends = [row["valid_to"], row["ended_by_event"], row["end_reason"]]
            assert all(end is None for end in ends) or all(end is not None for end in ends)
            assert row["set_via"] in {"registered", "merge", "purge", "unseen"}
            assert row["end_reason"] in {
                None,
                "overwritten",
                "removed",
                "purged",
                "image_deleted",
                "unseen",
            }


@some
@given(ANY)
def test_an_interval_lasts_from_the_time_of_one_event_to_that_of_another(
    events: list[Event],
) -> None:
    times = {each.meta.event_id: each.meta.occurred_at for each in events}
    tables = Folding().take(events).tables
    for row in tables.rows(HISTORIES[0]) + tables.rows(HISTORIES[1]):
        assert row["valid_from"] == times[row["set_by_event"]]
        assert row["valid_to"] == times.get(row["ended_by_event"])


@some
@given(ANY)
def test_intervals_of_a_key_follow_each_other_in_versions_from_1(events: list[Event]) -> None:
    tables = Folding().take(events).tables
    for table in HISTORIES:
        by_key: dict[str, list[dict[str, Any]]] = {}
        for row in tables.rows(table):
            by_key.setdefault(row["key"], []).append(row)
        for intervals in by_key.values():
            assert [row["version"] for row in intervals] == list(range(1, len(intervals) + 1))
            for row, following in pairwise(intervals):
                assert row["valid_from"] <= row["valid_to"] <= following["valid_from"]


@some
@given(realistic(faults=False))
def test_a_service_that_keeps_its_rules_and_records_all_shows_no_gap(events: list[Event]) -> None:
    folding = Folding().take(events)
    kinds = {row["kind"] for row in folding.tables.rows("anomalies")}
    assert kinds <= {"properties_lost_to_purge"}


@some
@given(realistic(), MAPS)
def test_a_reconciled_event_mends_whatever_was_missed(events: list[Event], held: Any) -> None:
    folding = Folding().take(events)
    before = len(folding.tables.rows("anomalies"))
    change = PropertyChange(mode=Mode.PURGE, set=held, after=held)
    at = events[-1].meta.occurred_at if events else START
    data = ImageUpdated(image_id=IMAGE, change=change)
    mend = event(data, number=len(events) + 1, at=at, origin=Origin.RECONCILED)
    folding.take([mend])
    assert live(folding) == held
    assert len(folding.tables.rows("anomalies")) == before
    for row in folding.tables.rows("image_property_history"):
        if row["set_by_event"] == mend.meta.event_id:
            assert row["set_via"] == "unseen"
        if row["ended_by_event"] == mend.meta.event_id:
            assert row["end_reason"] == "unseen"


# --- MERGE, PURGE and removal, by their definitions


def live(folding: Folding, at: datetime | None = None) -> dict[str, str | None]:
    """What the history says that the image has: now, or at a time."""
    return {
        row["key"]: row["value"]
        for row in folding.tables.rows("image_property_history")
        if (row["valid_to"] is None or (at is not None and at < row["valid_to"]))
        and (at is None or row["valid_from"] <= at)
    }


def changed(held: dict[str, str | None], change: PropertyChange) -> Folding:
    registered = ImageRegistered(image_id=IMAGE, status="active", properties=held)
    updated = ImageUpdated(image_id=IMAGE, change=change)
    return Folding().take(
        [event(registered, number=1, at=START), event(updated, number=2, at=START)]
    )


def untouched(held: dict[str, str | None], folding: Folding) -> bool:
    """Whether what still has its value was never ended, as nothing ended it."""
    now = live(folding)
    kept = {key for key, value in held.items() if now.get(key, ...) == value}
    return not kept & ended(folding).keys()


def ended(folding: Folding) -> dict[str, str]:
    return {
        row["key"]: row["end_reason"]
        for row in folding.tables.rows("image_property_history")
        if row["valid_to"] is not None
    }


@some
@given(FULL, MAPS, KEY_LISTS)
def test_a_merge_overlays_what_is_set_and_takes_what_is_removed(
    held: Any, given_set: Any, removed: Any
) -> None:
    folding = changed(held, PropertyChange(mode=Mode.MERGE, set=given_set, removed=removed))
    expected = {key: v for key, v in {**held, **given_set}.items() if key not in removed}
    assert live(folding) == expected
    assert untouched(held, folding)
    assert set(ended(folding).values()) <= {"overwritten", "removed"}
    assert not folding.tables.rows("anomalies")


@some
@given(FULL, MAPS, KEY_LISTS)
def test_a_purge_leaves_what_is_set_and_what_is_exempt(
    held: Any, given_set: Any, exempt: Any
) -> None:
    folding = changed(held, PropertyChange(mode=Mode.PURGE, set=given_set, exempt=exempt))
    assert live(folding) == {**{k: v for k, v in held.items() if k in exempt}, **given_set}
    assert untouched(held, folding)
    gone = held.keys() - given_set.keys() - set(exempt)
    assert {key for key, why in ended(folding).items() if why == "purged"} == gone


@some
@given(FULL, MAPS, KEY_LISTS, st.sampled_from(["removed", "seen"]))
def test_a_decision_is_told_from_a_loss(held: Any, given_set: Any, known: Any, how: str) -> None:
    folding = changed(held, PropertyChange(mode=Mode.PURGE, set=given_set, **{how: known}))
    for key, why in ended(folding).items():
        if key in given_set:
            assert why == "overwritten"
        else:
            assert why == ("removed" if key in known else "purged")
    lost = {
        key: held[key]
        for key, why in ended(folding).items()
        if why == "purged" and not key.startswith("os_glance_")
    }
    anomalies = folding.tables.rows("anomalies")
    assert [row["details"]["properties"] for row in anomalies] == ([lost] if lost else [])
    assert {row["severity"] for row in anomalies} <= {"error"}


@some
@given(FULL, MAPS, MAPS, KEY_LISTS)
def test_a_change_starts_from_what_the_service_held(
    known: Any, before: Any, given_set: Any, removed: Any
) -> None:
    change = PropertyChange(mode=Mode.MERGE, set=given_set, removed=removed, before=before)
    folding = changed(known, change)
    expected = {key: v for key, v in {**before, **given_set}.items() if key not in removed}
    assert live(folding) == expected
    kinds = [row["kind"] for row in folding.tables.rows("anomalies")]
    assert kinds == ([] if known == before else ["history_gap"])


@some
@given(FULL, MAPS, MAPS, st.sampled_from([Mode.MERGE, Mode.PURGE]))
def test_a_change_ends_in_what_the_service_held(
    held: Any, given_set: Any, after: Any, mode: Mode
) -> None:
    folding = changed(held, PropertyChange(mode=mode, set=given_set, after=after))
    assert live(folding) == after
    assert untouched(held, folding)


@some
@given(MAPS, st.sampled_from([Mode.MERGE, Mode.PURGE]))
def test_setting_what_is_there_changes_nothing(held: Any, mode: Mode) -> None:
    folding = changed(held, PropertyChange(mode=mode, set=held, before=held, after=held))
    assert live(folding) == held
    assert not ended(folding)
    assert not folding.tables.rows("anomalies")


@some
@given(realistic())
def test_a_deletion_ends_everything(events: list[Event]) -> None:
    folding = Folding().take(events)
    at = events[-1].meta.occurred_at if events else START
    deletion = ImageDeleted(image_id=IMAGE, deleted_at=at)
    folding.take([event(deletion, number=len(events) + 1, at=at)])
    for table in HISTORIES:
        assert all(row["valid_to"] is not None for row in folding.tables.rows(table))
    once = folding.tables.rows("images")
    folding.take([event(deletion, number=len(events) + 2, at=at)])
    assert folding.tables.rows("images") == once

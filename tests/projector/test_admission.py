"""What is admitted, what waits and what is put aside, on a real log and both databases."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from metaledger.projector.folds import Fact
from metaledger.projector.folds.image import IMAGE_PROJECTION
from metaledger.projector.intake import Rules
from metaledger.projector.project import Settings, bring_up_to_end
from metaledger.projector.quarantine import accept_gap, release, skip
from metaledger.projector.store import Store
from metaledger.schemas.errors import TooMuchPoison, UnknownSchema, UsageError
from metaledger.schemas.events import Event, EventData, StreamNumber
from metaledger.schemas.identity import derived_id
from metaledger.schemas.image import ImageDeleted, Mode
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.ledger import GapAccepted, RecordSkipped, SourceProgressed
from metaledger.schemas.log import NewRecord, Position
from metaledger.schemas.meta import Meta, Origin

from ..store.readmodels import (
    Dump,
    Place,
    dump,
    engine_of,
    store_of,
)
from .ledgers import (
    AT,
    CODEC,
    CONTEXT,
    RECORDED_AT,
    TOLERANT,
    Hooked,
    Ledger,
    damaged,
    event,
    garbage,
    record,
    registered,
    updated,
)


def with_nul(of: Event) -> NewRecord:
    """What the encoder refuses to write: `nul?` with a NUL."""
    return garbage(of, CODEC.encode(of).value.replace(b"nul?", b"nul\0"))


RULES = Rules(topic_id="the-log")
# An unknown fingerprint: the schema of a build to come.
OF_TOMORROW = b"\xc3\x01" + b"tomorrow"


def values(found: Dump, key: str = "k") -> list[str]:
    """The values that a property had, one after the other."""
    history = [row for row in found["image_property_history"] if row["key"] == key]
    return [row["value"] for row in sorted(history, key=lambda row: row["version"])]


def kinds(found: Dump) -> list[str]:
    return sorted(row["kind"] for row in found["anomalies"])


def offsets(found: Dump, table: str) -> list[int]:
    return [row["log_offset"] for row in found[table]]


def parked(found: Dump) -> dict[str, str | None]:
    return {row["aggregate"]: row["parked_reason"] for row in found["aggregate_states"]}


def decision(data: EventData, seq: int = 1, aggregate: str = "image:a") -> Any:
    return event(data, seq, stream="operator", aggregate=aggregate)


def skipped(position: Position, seq: int = 1, **more: str) -> Any:
    data = RecordSkipped(
        topic_id="the-log",
        log_partition=position.partition,
        log_offset=position.offset,
        reason="hopeless",
    )
    return decision(data, seq, **more)


def accepted(from_seq: int, to_seq: int, seq: int = 1, **more: str) -> Any:
    data = GapAccepted(
        gap_stream_id="glance-1", gap_epoch=1, from_seq=from_seq, to_seq=to_seq, reason="gone"
    )
    return decision(data, seq, **more)


def test_an_events_row_tells_all_that_it_carries(url: str, ledger: Ledger) -> None:
    data = ImageDeleted(image_id="a", deleted_at=AT)
    meta = Meta(
        event_id=derived_id("test"),
        aggregate="image:a",
        stream_id="stream",
        epoch=2,
        stream_seq=1,
        occurred_at=AT,
        service="service",
        host="host",
        origin=Origin.RECONCILED,
        missed=7,
        request_id="request",
        global_request_id="global",
        user_id="user",
        project_id="project",
        causation_id="cause",
    )
    ledger.append(Event(meta, data))
    ledger.project(url)
    (row,) = dump(url)["ledger_events"]
    carried = {name: getattr(meta, name) for name in row if hasattr(meta, name)}
    assert len(carried) == 15
    assert row == {
        **carried,
        "log_partition": 0,
        "log_offset": 0,
        "event_type": "ImageDeleted",
        "aggregate_kind": "image",
        "aggregate_id": "a",
        "valid_at": AT,
        "recorded_at": RECORDED_AT,
        "data": to_json(Event(meta, data))["data"],
    }


def test_a_record_delivered_twice_changes_nothing(place: Place, ledger: Ledger) -> None:
    once, twice = place(), place()
    ledger.append(event(registered(k="1"), 1), event(updated(k="2"), 2))
    ledger.project(once)
    ledger.append(event(registered(k="1"), 1), event(updated(k="2"), 2))
    ledger.project(once)
    ledger.project(twice)
    found = dump(once)
    assert found == dump(twice)
    assert offsets(found, "ledger_events") == [0, 1]
    assert values(found) == ["1", "2"]
    assert not found["anomalies"]
    assert not found["quarantine"]


def test_a_repeat_under_a_new_number_counts_as_that_number(url: str, ledger: Ledger) -> None:
    first = event(registered(k="1"), 1)
    again = event(registered(k="1"), 2, event_id=first.meta.event_id, at=first.meta.occurred_at)
    ledger.append(first, again, event(updated(k="3"), 3))
    ledger.project(url)
    found = dump(url)
    assert offsets(found, "ledger_events") == [0, 2]
    assert parked(found) == {"image:a": None}


def test_a_gap_parks_its_aggregate_and_no_other(url: str, ledger: Ledger) -> None:
    ledger.append(
        event(registered(k="1"), 1),
        event(updated(k="3"), 3),
        event(updated(k="x"), 1, stream="other"),
        event(registered("b"), 1),
    )
    ledger.project(url)
    found = dump(url)
    assert offsets(found, "ledger_events") == [0, 3]
    assert offsets(found, "parked_events") == [1, 2]
    assert parked(found) == {"image:a": "gap", "image:b": None}
    assert kinds(found) == ["aggregate_gap"]
    details = found["anomalies"][0]["details"]
    assert (details["expected_seq"], details["got_seq"]) == (2, 3)


def test_who_waits_and_what_for_can_be_asked(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(), 1), event(updated(k="4"), 4), event(updated(k="5"), 5))
    ledger.append(event(registered("b"), 1), damaged(event(updated("b"), 2)))
    ledger.append(event(registered("c"), 1))
    ledger.project(url)
    with engine_of(url) as engine, engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT aggregate, reason, log_offset, awaited_stream_id, awaited_seq"
                " FROM parked_aggregates ORDER BY aggregate"
            )
        ).all()
    assert [tuple(row) for row in found] == [
        ("image:a", "gap", 1, "glance-1", 2),
        ("image:b", "poison", 4, None, None),
    ]


def test_the_missing_number_frees_what_waits_in_the_logs_order(url: str, ledger: Ledger) -> None:
    ledger.append(
        event(registered(k="1"), 1),
        event(updated(k="4"), 4),
        event(updated(k="other"), 1, stream="other"),
        event(updated(k="2"), 2),
    )
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "2"]
    assert parked(found) == {"image:a": "gap"}
    ledger.append(event(updated(k="3"), 3), event(updated(k="5"), 5))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "2", "3", "4", "other", "5"]
    assert parked(found) == {"image:a": None}
    assert not found["parked_events"]
    assert kinds(found) == ["aggregate_gap"]


def test_two_gaps_behind_each_other_are_both_told(url: str, ledger: Ledger) -> None:
    numbers = [1, 3, 5, 2, 4]
    ledger.append(event(registered(k="1"), 1))
    ledger.append(*(event(updated(k=str(number)), number) for number in numbers[1:]))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "2", "3", "4", "5"]
    assert kinds(found) == ["aggregate_gap"] * 2


def test_a_known_number_with_another_event_is_quarantined(url: str, ledger: Ledger) -> None:
    other = event(updated(k="restored"), 2, event_id=derived_id("test", "another"))
    ledger.append(event(registered(k="1"), 1), event(updated(k="2"), 2), other)
    ledger.append(event(updated(k="3"), 3), other)
    ledger.project(url)
    found = dump(url)
    assert kinds(found) == ["sequence_conflict"]
    assert values(found) == ["1", "2", "3"]
    assert offsets(found, "quarantined_bytes") == [2]
    assert [row["reason"] for row in found["quarantine"]] == ["sequence_conflict"]
    assert parked(found) == {"image:a": None}


@pytest.mark.parametrize("seq", [1, 2])
def test_a_known_id_with_another_content_is_quarantined(url: str, ledger: Ledger, seq: int) -> None:
    first = event(registered(k="1"), 1)
    other = event(registered(k="2"), seq, event_id=first.meta.event_id, at=first.meta.occurred_at)
    ledger.append(first, other, event(updated(k="3"), seq + 1))
    ledger.project(url)
    found = dump(url)
    assert kinds(found) == ["event_id_conflict"]
    assert offsets(found, "quarantine") == [1]
    assert values(found) == ["1", "3"]


def test_a_known_id_at_another_time_is_a_conflict(url: str, ledger: Ledger) -> None:
    first = event(registered(k="1"), 1)
    ledger.append(first, event(registered(k="1"), 1, at=AT + timedelta(hours=1)))
    ledger.project(url)
    assert kinds(dump(url)) == ["event_id_conflict"]


def test_another_deployments_event_is_quarantined_alone(url: str, ledger: Ledger) -> None:
    ledger.append(
        event(registered(k="1"), 1),
        event(updated(k="2"), 7, deployment_id="elsewhere"),
        event(updated(k="2"), 2),
    )
    ledger.project(url)
    found = dump(url)
    assert [row["reason"] for row in found["quarantine"]] == ["foreign_deployment"]
    assert values(found) == ["1", "2"]


def test_a_time_after_its_append_is_replaced_and_kept_raw(url: str, ledger: Ledger) -> None:
    late = RECORDED_AT + timedelta(seconds=61)
    ledger.append(event(registered(k="1"), 1, at=late))
    ledger.append(event(registered("b"), 1, at=RECORDED_AT + timedelta(seconds=60)))
    ledger.project(url)
    found = dump(url)
    assert found["ledger_events"][0]["occurred_at"] == late
    assert found["ledger_events"][0]["valid_at"] == RECORDED_AT
    assert found["image_property_history"][0]["valid_from"] == RECORDED_AT
    assert kinds(found) == ["clock_skew"]


def test_valid_time_never_goes_back_within_an_aggregate(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(k="1"), 1, at=AT))
    ledger.project(url)
    ledger.append(event(updated(k="2"), 2, at=AT - timedelta(hours=1)))
    ledger.append(event(registered("b", k="1"), 1, at=AT - timedelta(hours=1)))
    ledger.project(url)
    valid = [row["valid_at"] for row in dump(url)["ledger_events"]]
    assert valid == [AT, AT, AT - timedelta(hours=1)]


def test_what_a_process_missed_is_told(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(), 1, missed=3))
    ledger.project(url)
    found = dump(url)
    assert [(row["kind"], row["details"]) for row in found["anomalies"]] == [
        ("changes_missed", {"missed": 3})
    ]


def test_a_sources_report_is_its_row(url: str, ledger: Ledger) -> None:
    reports = [
        SourceProgressed(rows_waiting=waiting, rows_max=10, unrecorded_aggregates=0)
        for waiting in (5, 2)
    ]
    ledger.append(
        *(
            event(report, seq, aggregate="stream:glance-1/3")
            for seq, report in enumerate(reports, 1)
        )
    )
    ledger.project(url)
    (row,) = dump(url)["streams"]
    assert (row["stream_id"], row["log_partition"], row["rows_waiting"]) == ("glance-1", 3, 2)
    assert row["reported_at"] == AT + timedelta(minutes=2)


@pytest.mark.parametrize("spoil", [damaged, garbage])
def test_poison_is_kept_with_its_bytes_and_parks_its_aggregate(
    url: str, ledger: Ledger, spoil: Any
) -> None:
    bad = spoil(event(updated(k="2"), 2))
    ledger.append(event(registered(k="1"), 1), bad, event(updated(k="3"), 3))
    ledger.append(event(registered("b", k="1"), 1))
    ledger.project(url)
    found = dump(url)
    (row,) = found["quarantine"]
    assert (row["aggregate_id"], row["stream_seq"], row["parks"]) == ("a", 2, True)
    assert row["error"]
    assert [row["value"] for row in found["quarantined_bytes"]] == [bad.value]
    assert offsets(found, "ledger_events") == [0, 3]
    assert offsets(found, "parked_events") == [2]
    assert parked(found) == {"image:a": "poison", "image:b": None}


def test_poison_delivered_twice_is_one_poison(url: str, ledger: Ledger) -> None:
    bad = damaged(event(updated(k="2"), 2))
    positions = ledger.append(event(registered(k="1"), 1), bad, bad)
    ledger.append(skipped(positions[1]), event(updated(k="3"), 3))
    ledger.project(url)
    found = dump(url)
    assert offsets(found, "quarantine") == [1]
    assert values(found) == ["1", "3"]
    assert parked(found) == {"image:a": None}


def test_an_event_without_a_meaning_is_poison(url: str, ledger: Ledger) -> None:
    unknown = updated(k="2")
    unknown = replace(unknown, change=replace(unknown.change, mode=Mode.UNKNOWN))
    ledger.append(event(registered(k="1"), 1), event(unknown, 2))
    ledger.project(url)
    found = dump(url)
    assert [row["reason"] for row in found["quarantine"]] == ["unfoldable"]
    assert parked(found) == {"image:a": "poison"}


def test_what_waited_and_then_has_no_meaning_is_poison(url: str, ledger: Ledger) -> None:
    unknown = updated(k="3")
    unknown = replace(unknown, change=replace(unknown.change, mode=Mode.UNKNOWN))
    positions = ledger.append(event(registered(k="1"), 1), event(unknown, 3))
    ledger.project(url)
    assert offsets(dump(url), "parked_events") == [1]
    ledger.append(event(updated(k="2"), 2), event(updated(k="4"), 4))
    ledger.project(url)
    found = dump(url)
    assert offsets(found, "quarantine") == [1]
    assert offsets(found, "parked_events") == [3]
    assert parked(found) == {"image:a": "poison"}
    ledger.append(skipped(positions[1]))
    ledger.project(url)
    assert values(dump(url)) == ["1", "2", "4"]


@pytest.mark.parametrize(
    "wrong",
    [
        replace(record(event(registered("b"), 1)), key="image:a"),
        with_nul(event(registered(k="nul?"), 1)),
        record(
            event(
                SourceProgressed(rows_waiting=1, rows_max=1, unrecorded_aggregates=0),
                1,
                aggregate="image:a",
            )
        ),
    ],
)
def test_what_no_database_can_hold_or_nobody_means_is_poison(
    url: str, ledger: Ledger, wrong: Any
) -> None:
    number = StreamNumber(stream_id="s", epoch=1, stream_seq=1)
    ledger.append(replace(wrong, event_id="named", number=number), event(registered("c"), 1))
    ledger.project(url)
    found = dump(url)
    assert offsets(found, "quarantine") == [0]
    assert offsets(found, "ledger_events") == [1]
    assert parked(found)["image:a"] == "poison"


def test_text_that_only_looks_like_a_nul_is_no_poison(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(k="\\u0000"), 1))
    ledger.project(url)
    assert values(dump(url)) == ["\\u0000"]


@pytest.mark.parametrize(
    "key", [None, "no-kind", "image:", ":a", "image:nul\0", "image:" + "a" * 999]
)
def test_a_record_without_a_usable_key_is_quarantined_alone(
    url: str, ledger: Ledger, key: str | None
) -> None:
    ledger.append(event(registered(k="1"), 1), event(updated(k="2"), 2))
    log = Hooked(
        ledger.log,
        hook=lambda records: [
            replace(found, key=key) if found.position.offset == 0 else found for found in records
        ],
    )
    ledger.project(url, log=log)
    found = dump(url)
    (row,) = found["quarantine"]
    assert (row["reason"], row["aggregate_id"], row["parks"]) == ("no_key", None, False)
    assert parked(found) == {"image:a": "gap"}


def test_hostile_words_beside_the_value_do_no_harm(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(k="1"), 1), garbage(event(updated(k="2"), 2)))
    number = StreamNumber(stream_id="nul\0", epoch=2**40, stream_seq=2**80)
    log = Hooked(
        ledger.log,
        hook=lambda records: [replace(found, event_id="nul\0", number=number) for found in records],
    )
    ledger.project(url, log=log)
    (row,) = dump(url)["quarantine"]
    assert (row["event_id"], row["stream_seq"]) == (None, None)


def test_a_schema_of_tomorrow_stops_the_projector_and_parks_nothing(
    url: str, ledger: Ledger
) -> None:
    ledger.append(event(registered(k="1"), 1))
    ledger.append(garbage(event(updated(k="2"), 2), OF_TOMORROW), event(updated(k="3"), 3))
    with pytest.raises(UnknownSchema, match="upgrade"):
        ledger.project(url)
    found = dump(url)
    assert offsets(found, "ledger_events") == [0]
    assert not found["quarantine"]
    assert [row["next_offset"] for row in found["checkpoints"]] == [1]


def test_too_much_poison_stops_the_projector_and_parks_nothing(url: str, ledger: Ledger) -> None:
    bad = [damaged(event(registered(str(number)), 1)) for number in range(11)]
    good = [event(registered(f"good-{number}"), 1) for number in range(9)]
    ledger.append(*good, *bad)
    with pytest.raises(TooMuchPoison):
        ledger.project(url, Settings())
    found = dump(url)
    assert not found["quarantine"]
    assert not found["ledger_events"]
    ledger.project(url, Settings(poison_share_max=0.6))
    assert len(dump(url)["quarantine"]) == len(bad)


def test_what_waits_behind_poison_counts_as_no_sound_record(url: str, ledger: Ledger) -> None:
    report = SourceProgressed(rows_waiting=1, rows_max=1, unrecorded_aggregates=0)
    unfoldable = [
        event(report, seq, aggregate=f"image:{number}")
        for number in range(20)
        for seq in range(1, 6)
    ]
    ledger.append(*unfoldable)
    with pytest.raises(TooMuchPoison):
        ledger.project(url, Settings())
    assert not dump(url)["quarantine"]


def test_what_waited_and_had_its_turn_in_the_batch_counts(url: str, ledger: Ledger) -> None:
    late = [event(updated(k=str(seq)), seq) for seq in range(2, 40)]
    bad = [damaged(event(registered(str(number)), 1)) for number in range(11)]
    good = [event(registered(f"good-{number}"), 1) for number in range(9)]
    ledger.append(*late, *bad, *good, event(registered(k="1"), 1))
    ledger.project(url, Settings())
    assert len(dump(url)["quarantine"]) == len(bad)


def test_a_wrong_deployment_stops_the_projector(url: str, ledger: Ledger) -> None:
    ledger.append(*(event(registered(str(number)), 1) for number in range(20)))
    with pytest.raises(TooMuchPoison, match="deployment_id"):
        ledger.project(url, Settings(deployment_id="elsewhere"))


def test_what_this_build_can_read_is_released_in_order(place: Place, ledger: Ledger) -> None:
    url, anew = place(), place()
    ledger.append(event(registered(k="1"), 1), event(updated(k="2"), 2), event(updated(k="3"), 3))
    # The old build could not read the second.
    broken = Hooked(
        ledger.log,
        hook=lambda records: [
            replace(found, value=b"\xc3\x01") if found.position.offset == 1 else found
            for found in records
        ],
    )
    ledger.project(url, log=broken)
    found = dump(url)
    assert offsets(found, "quarantine") == [1]
    with store_of(url) as store:
        still = release(store, CODEC, RULES, "image:a")
        assert not still.is_free
    assert dump(url) == found
    whole = ledger.log.read(1, records_max=1)[0].value
    _mend(url, whole)
    with store_of(url) as store:
        assert release(store, CODEC, RULES, "image:a").is_free
        with pytest.raises(UsageError, match="not parked"):
            release(store, CODEC, RULES, "image:a")
    ledger.project(anew)
    assert dump(url) == dump(anew)


def _mend(url: str, value: bytes) -> None:
    """Puts the whole bytes where the damaged ones were kept, as if this build could read them."""
    with engine_of(url) as engine, engine.begin() as connection:
        connection.execute(
            text("UPDATE quarantined_bytes SET value = :value WHERE log_offset = 1"),
            {"value": value},
        )


def test_a_release_stops_at_its_bound_and_goes_on(place: Place, ledger: Ledger) -> None:
    url, anew = place(), place()
    ledger.append(event(registered(k="1"), 1))
    ledger.append(*(event(updated(k=str(number)), number) for number in range(2, 9)))
    broken = Hooked(
        ledger.log,
        hook=lambda records: [
            replace(found, value=b"\xc3\x01") if found.position.offset == 1 else found
            for found in records
        ],
    )
    ledger.project(url, log=broken)
    _mend(url, ledger.log.read(1, records_max=1)[0].value)
    with store_of(url) as store:
        calls = []

        class Killed(BaseException):
            pass

        transaction = store.transaction

        def killed_at_the_third() -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise Killed
            return transaction()

        store.transaction = killed_at_the_third  # type: ignore[method-assign]
        with pytest.raises(Killed):
            release(store, CODEC, RULES, "image:a", records_max=2)
    found = dump(url)
    assert parked(found) == {"image:a": "release"}
    assert values(found) == ["1", "2", "3", "4", "5"]
    ledger.append(event(updated(k="9"), 9))
    ledger.project(url)
    assert values(dump(url)) == ["1", "2", "3", "4", "5"]
    with store_of(url) as store:
        assert release(store, CODEC, RULES, "image:a", records_max=2).turns == 4
    ledger.project(anew)
    assert dump(url) == dump(anew)


def test_a_skipped_record_frees_what_waits_behind_it(place: Place, ledger: Ledger) -> None:
    url, anew = place(), place()
    ledger.append(event(registered(k="1"), 1), damaged(event(updated(k="2"), 2)))
    ledger.append(event(updated(k="3"), 3))
    ledger.project(url)
    with store_of(url) as store:
        draft = skip(store, Position(0, 1), reason="hopeless", context=CONTEXT)
    assert draft.aggregate == "image:a"
    ledger.append(decision(draft.data))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "3"]
    assert parked(found) == {"image:a": None}
    assert found["quarantine"][0]["skipped_by_event"]
    with store_of(url) as store, pytest.raises(UsageError, match="was skipped"):
        skip(store, Position(0, 1), reason="again", context=CONTEXT)
    ledger.project(anew)
    assert dump(anew) == found


def test_an_accepted_gap_frees_what_waits_behind_it(place: Place, ledger: Ledger) -> None:
    url, anew = place(), place()
    ledger.append(event(registered(k="1"), 1), event(updated(k="4"), 4))
    ledger.append(event(updated(k="6"), 6))
    ledger.project(url)
    with store_of(url) as store:
        draft = accept_gap(store, "image:a", reason="gone", context=CONTEXT)
    assert isinstance(draft.data, GapAccepted)
    assert (draft.data.from_seq, draft.data.to_seq) == (2, 3)
    ledger.append(decision(draft.data))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "4"]
    assert parked(found) == {"image:a": "gap"}
    assert kinds(found) == ["aggregate_gap"] * 2
    ledger.append(accepted(5, 5, seq=2), event(updated(k="7"), 7))
    ledger.project(url)
    assert values(dump(url)) == ["1", "4", "6", "7"]
    ledger.project(anew)
    assert dump(anew) == dump(url)


def test_a_number_that_comes_after_its_gap_was_accepted_is_kept(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(k="1"), 1), event(updated(k="3"), 3), accepted(2, 2))
    ledger.append(event(updated(k="2"), 2))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "3"]
    assert [row["reason"] for row in found["quarantine"]] == ["sequence_conflict"]


def test_decisions_about_what_is_not_there_change_nothing(url: str, ledger: Ledger) -> None:
    ledger.append(
        event(registered(k="1"), 1),
        accepted(7, 9),
        skipped(Position(0, 0), 2),
        replace(record(skipped(Position(0, 99), 3))),
        event(updated(k="2"), 2),
    )
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "2"]
    assert parked(found) == {"image:a": None}
    assert len(found["ledger_events"]) == 5


def test_a_decision_about_another_log_changes_nothing(url: str, ledger: Ledger) -> None:
    positions = ledger.append(event(registered(), 1), damaged(event(updated(k="2"), 2)))
    data = RecordSkipped(
        topic_id="another", log_partition=0, log_offset=positions[1].offset, reason="r"
    )
    ledger.append(decision(data))
    ledger.project(url)
    assert parked(dump(url)) == {"image:a": "poison"}


def test_a_sound_copy_counts_in_the_place_of_skipped_poison(url: str, ledger: Ledger) -> None:
    whole = event(updated(k="2"), 2)
    positions = ledger.append(event(registered(k="1"), 1), damaged(whole), whole)
    ledger.append(event(updated(k="3"), 3), skipped(positions[1]))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "2", "3"]
    assert parked(found) == {"image:a": None}


def test_poison_that_is_skipped_before_its_turn_waits_for_it(url: str, ledger: Ledger) -> None:
    positions = ledger.append(event(registered(k="1"), 1), damaged(event(updated(k="3"), 3)))
    ledger.append(event(updated(k="4"), 4), skipped(positions[1]))
    ledger.project(url)
    assert parked(dump(url)) == {"image:a": "gap"}
    ledger.append(event(updated(k="2"), 2))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "2", "4"]
    assert parked(found) == {"image:a": None}


def test_a_fold_that_fails_makes_poison_of_one_event(url: str, ledger: Ledger) -> None:
    def fails(state: Any, fact: Fact) -> Any:
        if fact.event.meta.stream_seq == 2:
            raise KeyError("k")
        return IMAGE_PROJECTION.fold(state, fact)

    ledger.append(event(registered(k="1"), 1), event(updated(k="2"), 2))
    ledger.append(event(registered("b"), 1))
    with store_of(url), engine_of(url) as engine:
        store = Store(engine, (replace(IMAGE_PROJECTION, fold=fails),))
        bring_up_to_end(ledger.log, store, CODEC, settings=TOLERANT)
    found = dump(url)
    assert [(row["reason"], row["stream_seq"]) for row in found["quarantine"]] == [
        ("unfoldable", 2)
    ]
    assert "KeyError" in found["quarantine"][0]["error"]
    assert offsets(found, "ledger_events") == [0, 2]


@pytest.mark.parametrize(
    "aggregate",
    ["stream:s", "stream:/1", "stream:s/01", "stream:s/-1", "stream:s/" + "1" * 10, "instance:a"],
)
def test_a_report_of_no_streams_partition_is_poison(
    url: str, ledger: Ledger, aggregate: str
) -> None:
    report = SourceProgressed(rows_waiting=1, rows_max=1, unrecorded_aggregates=0)
    ledger.append(event(report, 1, aggregate=aggregate))
    ledger.project(url)
    assert [row["reason"] for row in dump(url)["quarantine"]] == ["unfoldable"]


def test_poison_is_judged_by_the_latest_records(url: str, ledger: Ledger) -> None:
    settings = Settings(poison_records_min=4, batch_records_max=2)
    ledger.append(*(event(registered(f"good-{number}"), 1) for number in range(20)))
    ledger.append(damaged(event(registered("bad-0"), 1)), event(registered("good"), 1))
    ledger.project(url, settings)
    assert len(dump(url)["quarantine"]) == 1
    ledger.append(*(damaged(event(registered(f"bad-{number}"), 1)) for number in range(1, 9)))
    with pytest.raises(TooMuchPoison):
        ledger.project(url, settings)
    assert len(dump(url)["quarantine"]) < 6


def test_a_batch_ends_at_its_bytes(url: str, ledger: Ledger) -> None:
    ledger.append(*(event(registered(str(number), k="v" * 1_000), 1) for number in range(1_200)))
    sizes = []
    with store_of(url) as store:
        bring_up_to_end(
            ledger.log,
            store,
            CODEC,
            settings=replace(TOLERANT, batch_bytes_max=500_000, batch_time_max_s=60.0),
            on_progress=lambda progress: sizes.append(progress.done),
        )
    assert sizes == [500, 1_000, 1_200]


def test_a_gap_that_poison_fills_is_freed_by_its_skip(url: str, ledger: Ledger) -> None:
    positions = ledger.append(
        event(registered(k="1"), 1), event(updated(k="3"), 3), damaged(event(updated(k="2"), 2))
    )
    ledger.project(url)
    with store_of(url) as store, pytest.raises(UsageError, match="quarantine"):
        accept_gap(store, "image:a", reason="gone", context=CONTEXT)
    ledger.append(skipped(positions[2]))
    ledger.project(url)
    found = dump(url)
    assert values(found) == ["1", "3"]
    assert parked(found) == {"image:a": None}


def test_only_a_gap_can_be_accepted(url: str, ledger: Ledger) -> None:
    ledger.append(event(registered(), 1), damaged(event(updated(k="2"), 2)))
    ledger.append(event(registered("b"), 1))
    ledger.project(url)
    with store_of(url) as store:
        for aggregate in ("image:a", "image:b", "image:none"):
            with pytest.raises(UsageError):
                accept_gap(store, aggregate, reason="gone", context=CONTEXT)
        with pytest.raises(UsageError):
            skip(store, Position(0, 0), reason="not there", context=CONTEXT)

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from metaledger.producers.administration import Lacking, OutboxStatus
from metaledger.services import health
from metaledger.services.health import Partition

from .samples import SCENARIO, file_of, registered, updated

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=5)
JUST_NOW = NOW - timedelta(seconds=5)
STREAM = {
    "stream_id": "s",
    "oldest_unsent_at": None,
    "rows_waiting": 0,
    "rows_max": 100,
    "unrecorded_aggregates": 0,
    "last_error": None,
    "relay_host": "host-1",
    "reported_at": JUST_NOW,
}
HELD = Lacking(aggregate="image:a", at=NOW, reason="too large")
OUTBOX = OutboxStatus(
    stream_id="s",
    epoch=1,
    rows_waiting=0,
    rows_max=100,
    oldest_row_at=None,
    unrecorded_aggregates=0,
    unrecorded=[],
    held_aggregates=0,
    held=[],
    lease_owner="relay",
    lease_expires_at=NOW + timedelta(seconds=9),
    last_error=None,
    last_error_at=None,
    progress_at=None,
)


def told(problems):
    return [(one.what, one.help) for one in problems]


def test_what_is_well_is_not_red():
    assert told(health.of_streams([STREAM], NOW)) == []
    partition = Partition(partition=0, next_offset=5, end=5, last_recorded_at=LONG_AGO)
    catching_up = Partition(partition=0, next_offset=4, end=5, last_recorded_at=JUST_NOW)
    away = Partition(partition=0, next_offset=4, end=None, last_recorded_at=LONG_AGO)
    unread = Partition(partition=0, next_offset=None, end=5, last_recorded_at=None)
    assert told(health.of_partitions([partition, catching_up, away, unread], NOW)) == []
    assert told(health.of_outbox(OUTBOX, NOW)) == []


@pytest.mark.parametrize(
    ("changed", "what", "command"),
    [
        (
            {"reported_at": LONG_AGO},
            "of a relay on host-1: not reported for 5 h",
            "metaledger relay",
        ),
        ({"oldest_unsent_at": LONG_AGO}, "oldest unsent event is 5 h old", "metaledger relay"),
        ({"rows_waiting": 80}, "80 of at most 100 events wait", "metaledger relay"),
        (
            {"unrecorded_aggregates": 3},
            "until their next one mends it: 3",
            "metaledger reconcile glance|nova URL --mend",
        ),
        ({"last_error": "too large"}, "too large", "metaledger outbox status"),
    ],
)
def test_what_ails_a_stream_is_red_and_has_its_command(changed, what, command):
    [(said, helps)] = told(health.of_streams([{**STREAM, **changed}], NOW))
    assert what in said
    assert helps == command


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"lease_owner": None, "lease_expires_at": None}, "no relay holds its lease"),
        ({"lease_expires_at": LONG_AGO}, "no relay holds its lease"),
        ({"oldest_row_at": LONG_AGO}, "5 h old"),
        ({"last_error": "no broker"}, "no broker"),
        (
            {"held_aggregates": 1, "held": [HELD]},
            "image:a is held: too large",
        ),
        ({"rows_waiting": 99}, "99 of at most 100"),
        ({"unrecorded_aggregates": 1}, "until their next one mends it: 1"),
    ],
)
def test_what_ails_an_outbox_is_red(changed, what):
    fields = {name: getattr(OUTBOX, name) for name in OutboxStatus.__slots__}
    [(said, helps)] = told(health.of_outbox(OutboxStatus(**{**fields, **changed}), NOW))
    assert what in said
    assert helps.startswith("metaledger ")


def test_a_second_relay_is_no_help_for_one_that_does_not_come_on():
    full = replace(OUTBOX, rows_waiting=99, oldest_row_at=LONG_AGO)
    assert {helps for _, helps in told(health.of_outbox(full, NOW))} == {"metaledger doctor"}
    alone = replace(full, lease_owner=None)
    assert {helps for _, helps in told(health.of_outbox(alone, NOW))} == {"metaledger relay"}


def test_a_projection_that_does_not_come_on_is_red():
    late = Partition(partition=0, next_offset=4, end=9, last_recorded_at=LONG_AGO)
    never = Partition(partition=1, next_offset=0, end=2, last_recorded_at=None)
    [(said, helps)] = told(health.of_partitions([late, never], NOW))
    assert (said, helps) == (
        "7 records of 2 partitions are not projected",
        "metaledger project --follow",
    )


def test_what_nobody_derives_is_red_and_what_waits_for_reports_is_not():
    idle = {"due": 0, "waiting": 9, "put_aside": 0, "due_since": None}
    assert told(health.of_unjudged(idle, NOW)) == []
    late = {**idle, "due": 1_200, "due_since": LONG_AGO}
    [(said, helps)] = told(health.of_unjudged(late, NOW))
    assert said.startswith(
        "lineages and anomalies that wait to be derived: 1,200, of events up to "
    )
    assert helps == "metaledger project --follow"
    refused = {**idle, "put_aside": 2}
    [(said, _)] = told(health.of_unjudged(refused, NOW))
    assert said.startswith("marks that the database refused to have derived: 2;")


def test_many_of_a_kind_are_a_number():
    parked = [
        {"aggregate_kind": "image", "aggregate_id": str(n), "events": 2, "since": LONG_AGO}
        for n in range(9)
    ]
    said = told(health.of_parked(parked, [], NOW))
    assert len(said) == health.NAMED_MAX + 1
    assert said[-1][0] == "4 more aggregates are parked"


def test_status_is_green_where_all_is_well(metaledger):
    metaledger("emit", SCENARIO)
    metaledger("project")
    result = metaledger("--json", "status")
    assert result.status == 0
    assert result.document["problems"] == []
    assert result.document["partitions"][0]["lag"] == 0
    assert result.document["unjudged"] == {
        "due": 0,
        "waiting": 0,
        "put_aside": 0,
        "due_since": None,
    }
    assert "All is well." in metaledger("status").out


def test_status_names_what_is_parked_and_the_command(metaledger, home):
    gap = updated(second=3, meta={"stream_id": "s", "epoch": 1, "stream_seq": 3})
    metaledger("emit", file_of(home / "f.jsonl", registered(), gap))
    metaledger("project")
    result = metaledger("status")
    assert result.status == 1
    assert "! image:i-1 is parked" in result.out
    assert "metaledger quarantine list" in result.out


def test_status_shows_what_it_can_reach(metaledger):
    metaledger("emit", SCENARIO)
    model = ("--read-model", "postgresql://u@127.0.0.1:1/d")
    result = metaledger("--json", *model, "status")
    assert result.status == 3
    assert result.document["partitions"][0]["end"] == 2
    # Of the projection it says nothing, and nothing is to be made where only nobody answers.
    [problem] = result.document["problems"]
    assert "the read model" in problem["what"]
    assert problem["help"] == "metaledger doctor"
    assert result.document["partitions"][0]["lag"] is None


@pytest.mark.parametrize("url", ["sqlite:///none.db", "nonsense"])
def test_for_a_ledger_that_is_not_there_another_one_can_be_named(metaledger, url):
    problems = metaledger("--json", "status", "--ledger", url).document["problems"]
    [helps] = [one["help"] for one in problems if one["what"].startswith("the ledger: ")]
    assert helps == "metaledger status --ledger sqlite:///FILE|kafka://…"


def test_a_read_model_that_cannot_be_one_is_not_to_be_migrated(metaledger, home):
    """The command would be refused for the same reason."""
    (home / "text.db").write_text("no database")
    for url in ("mysql://u:secret@h/d", "sqlite:///text.db"):
        result = metaledger("--json", "status", "--read-model", url)
        [helps] = [
            one["help"]
            for one in result.document["problems"]
            if one["what"].startswith("the read model: ")
        ]
        assert helps == "metaledger status --read-model sqlite:///FILE|postgresql://…"
        assert metaledger("migrate", "--read-model", url).status == 2


@pytest.mark.parametrize(("build", "help_"), [(0, "metaledger migrate"), (99, "metaledger doctor")])
def test_a_read_model_of_a_newer_build_is_not_to_be_migrated(metaledger, home, build, help_):
    metaledger("emit", SCENARIO)
    metaledger("migrate")
    with sqlite3.connect(home / "metaledger-read.db") as file:
        file.execute("UPDATE read_model SET format = ?", [build])
    problems = metaledger("--json", "status").document["problems"]
    assert help_ in [one["help"] for one in problems if one["what"].startswith("the read model: ")]

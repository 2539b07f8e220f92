"""`guard` through the command line, on both kinds of installation; its rules: tests/guard."""

import io
import itertools
import json
import os
import re
import sqlite3
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from kafka import KafkaProducer
from sqlalchemy import Engine, event, text

from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.producers.verdicts import judge
from metaledger.projector.database import connect
from metaledger.schemas.jsonform import parse_line
from metaledger.schemas.ledger import record_aggregate
from metaledger.schemas.log.topic import partition_of

from .samples import HOSTNAME_CHANGE, SCENARIO_HYPERVISOR, file_of, line, registered, updated
from .waiting import wait_for

EXPECTED = json.loads(HOSTNAME_CHANGE.with_suffix(".expect.json").read_text())["guard"]
HERE, EVACUATED, NOBODY = EXPECTED["verdicts"]
OTHER = "7d2c9b44-51c0-4d0e-8a6b-9a4b7f1c2e33"
ASK = ("--json", "guard", "--hypervisor", SCENARIO_HYPERVISOR, "--host", EXPECTED["host"])
LIVE = ("--instance", HERE, "--instance", EVACUATED)
INSTALLATIONS = [
    "embedded",
    pytest.param("servers", marks=[pytest.mark.kafka, pytest.mark.postgres]),
]


@pytest.fixture
def config(home):
    """Of an operator who waits for nothing: what is behind stays behind in these tests."""
    file = home / ".config" / "metaledger" / "metaledger.toml"
    file.parent.mkdir(parents=True)
    file.write_text("guard_wait_s = 0.0\n")
    return file


@pytest.fixture(params=INSTALLATIONS)
def installation(request, metaledger, monkeypatch, config):  # noqa: ARG001 (read by the commands)
    """The scenario of the changed host name, projected; gives the topic's URL, if there is one."""
    if request.param == "embedded":
        return request.getfixturevalue("embedded")
    broker = request.getfixturevalue("broker")
    model = request.getfixturevalue("postgres_url").replace("postgresql+psycopg2:", "postgresql:")
    url = f"kafka://{broker.bootstrap}/g-{uuid.uuid4()}"
    monkeypatch.setenv("METALEDGER_LEDGER_URL", url)
    monkeypatch.setenv("METALEDGER_READ_MODEL_URL", model)
    created = metaledger("topic", "create", "--partitions", 2, "--replication", 1)
    assert created.status == 0
    taken(metaledger, HOSTNAME_CHANGE)
    return url


@pytest.fixture
def embedded(metaledger, config):  # noqa: ARG001 (as above)
    """The same, embedded."""
    taken(metaledger, HOSTNAME_CHANGE)


def taken(metaledger, file):
    assert metaledger("emit", file).status == 0
    assert metaledger("project").status == 0


def told(metaledger, home, *events):
    """Events of a file, projected."""
    taken(metaledger, file_of(home / "more.jsonl", *events))


def verdicts(result):
    found = {one["instance_uuid"]: one["verdict"] for one in result.document["verdicts"]}
    assert all(one["reason"] for one in result.document["verdicts"])
    assert result.status == (0 if set(found.values()) == {"ALLOW"} else 1)
    return found


def offline(metaledger, instance=EVACUATED, *options):
    return verdicts(metaledger(*ASK, "--offline", "--instance", instance, *options))[instance]


def online(metaledger):
    return verdicts(metaledger(*ASK, "--instance", EVACUATED))[EVACUATED]


def moved(cause="LIVE_MIGRATION", **places):
    return line("InstanceRelocated", 1, instance_uuid=EVACUATED, cause=cause, **places)


def report(stream, *, age_s=0, **data):
    """What the relay of a source says of it."""
    head = {
        "aggregate": f"stream:{stream}/0",
        "occurred_at": (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(),
    }
    counts = {"rows_waiting": 0, "rows_max": 9, "unrecorded_aggregates": 0, **data}
    return line("SourceProgressed", 0, meta=head, **counts)


def judged(metaledger):
    events = metaledger("--json", "events").document
    return {
        event["data"]["instance_uuid"]: event["data"]
        for event in events
        if event["type"] == "DestroyJudged"
    }


@pytest.mark.usefixtures("installation")
def test_the_scenario_is_judged_as_expected_and_each_judgement_is_in_the_ledger(metaledger):
    assert EXPECTED["hypervisor"] == SCENARIO_HYPERVISOR
    named = [word for each in EXPECTED["verdicts"] for word in ("--instance", each)]
    result = metaledger(*ASK, "--offline", *named)
    assert verdicts(result) == EXPECTED["verdicts"]
    answers = {one["instance_uuid"]: one for one in result.document["verdicts"]}
    asked = {"hypervisor_id": SCENARIO_HYPERVISOR, "host": "renamed"}
    assert judged(metaledger) == {each: {**answers[each], **asked} for each in answers}
    assert metaledger("project").status == 0
    denied = metaledger("--json", "anomalies", "--kind", "destroy_denied").document
    assert {one["aggregate_id"] for one in denied} == {HERE, NOBODY}
    # A judgement creates no instance, and changes none.
    assert metaledger("instance", "show", NOBODY).status == 1
    assert offline(metaledger) == "ALLOW"


@pytest.mark.usefixtures("embedded")
def test_people_get_a_table_and_are_told_that_no_source_was_waited_for(metaledger):
    words = [word for word in ASK if word != "--json"]
    result = metaledger(*words, "--offline", *LIVE)
    assert (result.status, result.err) == (1, "")
    assert "DENY" in result.out
    assert "it is on this hypervisor, since 2015-02-27T09:00:00Z" in result.out
    assert "no source was waited for" in result.out


@pytest.mark.usefixtures("installation")
def test_a_read_model_behind_the_log_allows_nothing(metaledger, home):
    metaledger("emit", file_of(home / "more.jsonl", registered()))
    result = metaledger(*ASK, "--offline", *LIVE)
    assert verdicts(result) == {HERE: "DENY", EVACUATED: "UNKNOWN"}
    assert "1 of the log's records are not projected" in result.document["verdicts"][1]["reason"]
    # They are events of the log too.
    assert set(judged(metaledger)) == {HERE, EVACUATED}
    metaledger("project")
    assert offline(metaledger) == "ALLOW"


@pytest.mark.usefixtures("embedded")
def test_a_projector_that_is_just_behind_is_waited_for(metaledger, home, config, start):
    config.write_text("guard_wait_s = 60.0\n")
    start("project", "--follow")
    metaledger("emit", file_of(home / "more.jsonl", registered()))
    assert offline(metaledger) == "ALLOW"


@pytest.mark.usefixtures("embedded")
def test_a_source_has_to_be_fresh_with_nothing_unsent(metaledger, home):
    stream = metaledger("--json", "events").document[0]["meta"]["stream_id"]

    def progress(name=stream, **data):
        told(metaledger, home, report(name, **data))

    assert online(metaledger) == "UNKNOWN"
    progress(age_s=70)
    assert online(metaledger) == "UNKNOWN"
    progress()
    assert online(metaledger) == "ALLOW"
    for trouble in ({"rows_waiting": 1}, {"unrecorded_aggregates": 1}):
        progress(**trouble)
        assert online(metaledger) == "UNKNOWN"
    progress()
    # A source that reports refutes that the ledger is fed by files alone.
    metaledger("project")
    assert offline(metaledger) == "UNKNOWN"
    metaledger("project")
    assert online(metaledger) == "ALLOW"
    progress("another", age_s=70)
    assert online(metaledger) == "UNKNOWN"


@pytest.mark.usefixtures("embedded")
def test_the_settings_name_the_sources_that_place_instances(metaledger, home, config):
    stream = metaledger("--json", "events").document[0]["meta"]["stream_id"]
    told(metaledger, home, report(stream), report("spool", age_s=3600))
    assert online(metaledger) == "UNKNOWN"
    config.write_text(f'guard_wait_s = 0.0\nguard_streams = ["{stream}"]\n')
    metaledger("project")
    assert online(metaledger) == "ALLOW"
    config.write_text("guard_streams = [1]\n")
    refused = metaledger(*ASK, "--instance", EVACUATED)
    assert (refused.status, refused.out) == (2, "")
    assert "guard_streams: expected a list of strings" in refused.err


@pytest.mark.usefixtures("embedded")
def test_a_service_asks_the_command_line(metaledger, home):
    stream = metaledger("--json", "events").document[0]["meta"]["stream_id"]
    told(metaledger, home, report(stream))
    command = (sys.executable, "-m", "metaledger.services")
    answers = judge(SCENARIO_HYPERVISOR, "renamed", [*EXPECTED["verdicts"]], command=command)
    found = {uuid: answer.verdict.value for uuid, answer in answers.items()}
    assert found == EXPECTED["verdicts"]


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.parametrize("installation", INSTALLATIONS[1:], indirect=True)
@pytest.mark.usefixtures("installation")
def test_a_relay_that_reports_is_enough(metaledger, home, start):
    producer = ProducerSettings(service="nova", host="controller")
    back = moved(to_hypervisor_id=SCENARIO_HYPERVISOR, to_host="renamed")
    evacuated = moved(
        "EVACUATION",
        from_hypervisor_id=SCENARIO_HYPERVISOR,
        to_hypervisor_id=OTHER,
        to_host="compute-b",
    )
    spool = Spool(home / "nova.db", producer)
    spool.emit([parse_line(json.dumps(each), producer.context()) for each in (back, evacuated)])
    spool.engine.dispose()
    start("relay", "--spool", home / "nova.db")
    start("project", "--follow")
    wait_for(lambda: online(metaledger) == "ALLOW")
    assert offline(metaledger) == "UNKNOWN"


@pytest.mark.usefixtures("installation")
def test_what_came_back_after_its_evacuation_is_denied(metaledger, home):
    back = {"to_hypervisor_id": SCENARIO_HYPERVISOR, "to_host": "renamed"}
    told(metaledger, home, moved(from_hypervisor_id=OTHER, from_host="compute-b", **back))
    assert offline(metaledger) == "DENY"
    told(metaledger, home, moved(from_hypervisor_id=SCENARIO_HYPERVISOR, to_hypervisor_id=OTHER))
    assert offline(metaledger) == "UNKNOWN"


@pytest.mark.usefixtures("embedded")
def test_a_deleted_instance_is_nowhere(metaledger, home):
    deleted = {"instance_uuid": EVACUATED, "deleted_at": "2026-01-01T00:00:01Z"}
    told(metaledger, home, line("InstanceDeleted", 1, **deleted))
    result = metaledger(*ASK, "--offline", "--instance", EVACUATED)
    assert verdicts(result) == {EVACUATED: "UNKNOWN"}
    assert "it was deleted at 2026-01-01T00:00:01Z" in result.document["verdicts"][0]["reason"]


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize(
    ("hypervisor", "host", "expected"),
    [
        (SCENARIO_HYPERVISOR, "compute-a", {HERE: "DENY", EVACUATED: "UNKNOWN"}),
        (SCENARIO_HYPERVISOR, "compute-b", {HERE: "DENY", EVACUATED: "UNKNOWN"}),
        (OTHER, "compute-b", {HERE: "UNKNOWN", EVACUATED: "DENY"}),
        ("nope", "renamed", {HERE: "UNKNOWN", EVACUATED: "UNKNOWN"}),
    ],
    ids=["its old name", "the other's name", "the other", "an unknown one"],
)
def test_who_asks_has_to_be_who_the_ledger_knows(metaledger, hypervisor, host, expected):
    asked = ("--json", "guard", "--hypervisor", hypervisor, "--host", host, "--offline", *LIVE)
    assert verdicts(metaledger(*asked)) == expected


@pytest.mark.usefixtures("installation")
def test_an_id_that_may_be_two_machines_gets_nothing(metaledger, home):
    host = {"id_source": "FILE", "host": "compute-b"}
    told(metaledger, home, line("HypervisorRegistered", 1, hypervisor_id="third", **host))
    result = metaledger(*ASK, "--offline", "--instance", EVACUATED)
    assert verdicts(result) == {EVACUATED: "UNKNOWN"}
    assert "hypervisor_duplicate" in result.document["verdicts"][0]["reason"]
    moves_on = {"hypervisor_id": "third", "from_host": "compute-b", "to_host": "compute-c"}
    told(metaledger, home, line("HypervisorHostChanged", 2, **moves_on))
    assert offline(metaledger) == "ALLOW"
    # Back to a name that it had: who asks is one machine or another.
    back = {"hypervisor_id": SCENARIO_HYPERVISOR, "from_host": "renamed", "to_host": "compute-a"}
    told(metaledger, home, line("HypervisorHostChanged", 3, **back))
    assert offline(metaledger, EVACUATED, "--host", "compute-a") == "UNKNOWN"


@pytest.mark.usefixtures("installation")
def test_where_nobody_registered_a_hypervisor_may_be_here(metaledger, home):
    """A machine that lost its id runs under another one what it ran before."""
    instance = "e2000000-0000-4000-8000-000000000000"
    there = {"to_hypervisor_id": "second-id", "to_host": "compute-d"}
    told(metaledger, home, *evacuated_to(instance, **there))
    result = metaledger(*ASK, "--offline", "--instance", instance)
    assert verdicts(result) == {instance: "UNKNOWN"}
    [reason] = [one["reason"] for one in result.document["verdicts"]]
    assert reason.startswith("nobody registered the hypervisor where it is (second-id)")
    assert ";" not in reason
    kind = ("--kind", "instance_hypervisor_unknown")
    [anomaly] = metaledger("--json", "anomalies", *kind).document
    assert (anomaly["aggregate_id"], anomaly["withdrawn_by_event"]) == (instance, None)
    second = {"hypervisor_id": "second-id", "id_source": "FILE", "host": "compute-d"}
    told(metaledger, home, line("HypervisorRegistered", 3, **second))
    assert offline(metaledger, instance) == "ALLOW"
    [anomaly] = metaledger("--json", "anomalies", *kind).document
    assert anomaly["withdrawn_by_event"] is not None


@pytest.mark.usefixtures("installation")
def test_what_is_not_judged_yet_may_be_two_machines(metaledger):
    columns = "event_id, aggregate_kind, aggregate_id"
    in_model(f"INSERT INTO {{}}marks ({columns}) VALUES ('e', 'hypervisor', :id)", id=OTHER)
    assert offline(metaledger) == "UNKNOWN"
    metaledger("project")
    assert offline(metaledger) == "ALLOW"


def in_model(statement, **values):
    """Writes into the read model, as its owner does."""
    engine = connect(os.environ.get("METALEDGER_READ_MODEL_URL", "sqlite:///metaledger-read.db"))
    place = "" if engine.dialect.name == "sqlite" else "ml_g1."
    with engine.execution_options(metaledger_writes=True).begin() as connection:
        connection.execute(text(statement.format(place)), values)
    engine.dispose()


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    "waiting",
    [
        {"type": "InstanceUnrescued", "data": {"instance_uuid": EVACUATED}},
        {
            "type": "HypervisorHostChanged",
            "data": {"hypervisor_id": OTHER, "from_host": "compute-b", "to_host": "c"},
        },
        {"type": "HypervisorRemoved", "data": {"hypervisor_id": SCENARIO_HYPERVISOR}},
    ],
    ids=["the instance", "the other hypervisor", "the asking hypervisor"],
)
def test_nothing_of_it_may_wait(metaledger, home, waiting):
    # Of a number that is not due: what comes before it may tell anything.
    head = {"occurred_at": "2026-01-01T00:00:00Z", "stream_id": "s", "epoch": 1, "stream_seq": 2}
    told(metaledger, home, {**waiting, "meta": head})
    result = metaledger(*ASK, "--offline", "--instance", EVACUATED)
    assert verdicts(result) == {EVACUATED: "UNKNOWN"}
    assert "metaledger quarantine list" in result.document["verdicts"][0]["reason"]


@pytest.mark.usefixtures("embedded")
def test_a_way_back_that_was_told_by_host_name_alone_is_no_allow(metaledger, home):
    back = moved(from_hypervisor_id=OTHER, to_hypervisor_id=SCENARIO_HYPERVISOR, to_host="renamed")
    away = moved("EVACUATION", from_hypervisor_id=SCENARIO_HYPERVISOR, to_hypervisor_id=OTHER)
    told(metaledger, home, back, away, moved(to_host="renamed"))
    result = metaledger(*ASK, "--offline", "--instance", EVACUATED)
    assert verdicts(result) == {EVACUATED: "UNKNOWN"}
    assert "without its host name" in result.document["verdicts"][0]["reason"]


@pytest.mark.usefixtures("embedded")
def test_no_hypervisor_may_be_waiting_to_be_judged(metaledger, home):
    told(metaledger, home)
    with sqlite3.connect(home / "metaledger-read.db") as model:
        model.execute("INSERT INTO marks VALUES ('e', 'hypervisor', 'somebody', NULL)")
    model.close()
    assert offline(metaledger) == "UNKNOWN"


@pytest.mark.usefixtures("embedded")
def test_a_list_that_is_too_long_is_refused_as_a_whole(metaledger, home):
    file = home / "uuids"
    file.write_text(EVACUATED + "\n" * 1_300_000 + HERE + "\n")
    result = metaledger(*ASK, "--offline", "--instances-from", file)
    assert (result.status, result.out) == (2, "")
    assert "too large" in result.err


@pytest.mark.usefixtures("embedded")
def test_a_record_without_a_readable_key_may_be_about_it(metaledger, home):
    keyless(metaledger, home, None)
    metaledger("project")
    assert len(metaledger("--json", "quarantine", "list").document["quarantine"]) == 1
    assert offline(metaledger) == "UNKNOWN"
    # One from before the evacuation is not about what came after it.
    there = {"from_hypervisor_id": OTHER, "to_hypervisor_id": SCENARIO_HYPERVISOR}
    again = {
        "from_hypervisor_id": SCENARIO_HYPERVISOR,
        "to_hypervisor_id": OTHER,
        "to_host": "compute-b",
    }
    told(metaledger, home, moved(**there), moved("EVACUATION", **again))
    assert offline(metaledger) == "ALLOW"


def test_a_record_without_a_readable_key_is_settled_by_an_operator(metaledger, home, installation):
    places = keyless(metaledger, home, installation)
    metaledger("project")
    assert metaledger("status").status == 1
    for place in places:
        assert offline(metaledger) == "UNKNOWN"
        assert metaledger("quarantine", "skip", place, "--reason", "not ours").status == 0
        metaledger("project")
    assert offline(metaledger) == "ALLOW"
    assert metaledger("project").status == 0
    status = metaledger("--json", "status")
    assert (status.status, status.document["quarantine"]) == (0, [])
    decisions = {
        "{log_partition}:{log_offset}".format(**event["data"]): event["meta"]["event_id"]
        for event in metaledger("--json", "events").document
        # What cannot be read has none.
        if event.get("type") == "RecordSkipped"
    }
    assert list(decisions) == places
    listed = metaledger("--json", "quarantine", "list").document
    assert {row["place"]: row["skipped_by_event"] for row in listed["quarantine"]} == decisions
    assert listed["parked"] == []
    shown = metaledger("--json", "quarantine", "show", places[0]).document
    assert shown["skipped_by_event"] == decisions[places[0]]
    again = metaledger("quarantine", "skip", places[0], "--reason", "x")
    assert again.status == 2
    assert f"was skipped by event {decisions[places[0]]}" in again.err
    anew = ("--read-model", f"sqlite:///{home}/anew.db")
    assert metaledger(*anew, "project").status == 0
    assert metaledger(*anew, "--json", "quarantine", "list").document == listed
    assert metaledger(*anew, "status").status == 0
    assert offline(metaledger, EVACUATED, *anew) == "ALLOW"


def keyless(metaledger, home, topic):
    """Appends what has no key that can be read; gives its places, as `quarantine` takes them. In a
    topic of two partitions it is in the first, and the decision about the last in the second.
    """
    if topic is None:
        metaledger("emit", file_of(home / "more.jsonl", registered()))
        with sqlite3.connect(home / "metaledger.db") as log:
            log.execute("DROP TRIGGER records_no_update")
            log.execute("UPDATE records SET aggregate = NULL WHERE offset = 6")
        log.close()
        return ["0:6"]
    found = metaledger("--json", "sql", "SELECT topic_id FROM read_model").document
    [[topic_id]] = found["rows"]
    bootstrap, _, name = topic.removeprefix("kafka://").partition("/")
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    places = []
    while True:
        sent = producer.send(name, key=b"\xff\xfe", value=b"x", partition=0).get(30)
        places.append(f"0:{sent.offset}")
        if partition_of(record_aggregate(topic_id, 0, sent.offset).encode(), 2) == 1:
            producer.close()
            return places


@pytest.mark.usefixtures("embedded")
def test_another_read_model_answers_nothing(metaledger):
    metaledger("--ledger", "sqlite:///other.db", "emit", HOSTNAME_CHANGE)
    result = metaledger(*ASK, "--ledger", "sqlite:///other.db", "--offline", *LIVE)
    assert verdicts(result) == {HERE: "UNKNOWN", EVACUATED: "UNKNOWN"}
    assert "another log" in result.document["verdicts"][0]["reason"]


@pytest.mark.usefixtures("config")
def test_what_cannot_be_reached_or_is_not_there_is_no_verdict(metaledger, home):
    away = metaledger("--ledger", "kafka://127.0.0.1:1/t", *ASK, *LIVE)
    assert (away.status, away.out) == (3, "")
    away = metaledger("--read-model", "postgresql://127.0.0.1:1/x", *ASK, *LIVE)
    assert away.status in (2, 3)
    assert (away.out, away.err.count("\n")) == ("", 1)
    nothing = metaledger(*ASK, *LIVE)
    assert (nothing.status, nothing.out) == (2, "")
    assert not (home / "metaledger.db").exists()


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.parametrize("installation", INSTALLATIONS[1:], indirect=True)
@pytest.mark.usefixtures("installation")
def test_what_cannot_be_recorded_was_not_allowed(metaledger, home, config):
    (home / "file").touch()
    config.write_text(f'guard_wait_s = 0.0\nspool_folder = "{home}/file/spool"\n')
    result = metaledger(*ASK, "--offline", *LIVE)
    assert verdicts(result) == {HERE: "UNKNOWN", EVACUATED: "UNKNOWN"}
    assert all("could not be recorded" in one["reason"] for one in result.document["verdicts"])
    assert judged(metaledger) == {}


@pytest.mark.usefixtures("embedded")
def test_instances_come_from_a_file_or_from_standard_input_each_once(metaledger, home, monkeypatch):
    (home / "uuids").write_text(f"{HERE}\n\n {EVACUATED} \n{HERE}\n")
    result = metaledger(*ASK, "--offline", "--instance", HERE, "--instances-from", home / "uuids")
    assert verdicts(result) == {HERE: "DENY", EVACUATED: "ALLOW"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{NOBODY}\n"))
    assert verdicts(metaledger(*ASK, "--instances-from", "-")) == {NOBODY: "UNKNOWN"}


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize(
    "asked",
    [
        ("--hypervisor", "h", "--host", "a"),
        ("--hypervisor", "", "--host", "a", "--instance", "i"),
        ("--hypervisor", "h", "--host", "", "--instance", "i"),
        ("--hypervisor", "h", "--host", "a", "--instance", "x" * 256),
        ("--hypervisor", "h", "--host", "\udcff", "--instance", "i"),
        ("--hypervisor", "h", "--host", "a", "--instances-from", "nope"),
        ("--hypervisor", "h", "--host", "a", "--instances-from", "many"),
        ("--hypervisor", "h", "--instance", "i"),
        ("--host", "h", "--instance", "i"),
    ],
)
def test_wrong_usage_is_told_in_a_line_and_judges_nothing(metaledger, home, asked):
    (home / "many").write_text("".join(f"{n}\n" for n in range(5_001)))
    result = metaledger("guard", *asked)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert judged(metaledger) == {}


@pytest.mark.usefixtures("embedded")
def test_any_number_of_instances_is_one_round_of_statements(metaledger, home):
    uuids = [f"e2000000-0000-4000-8000-{number:012}" for number in range(200)]
    others = [f"other-{number}" for number in range(20)]
    names = {other: f"host-of-{other}" for other in others}
    told(
        metaledger,
        home,
        *(
            line("HypervisorRegistered", 0, hypervisor_id=other, id_source="FILE", host=name)
            for other, name in names.items()
        ),
        *(
            each
            for instance, (other, name) in zip(uuids, itertools.cycle(names.items()), strict=False)
            for each in evacuated_to(instance, to_hypervisor_id=other, to_host=name)
        ),
    )
    counts = []
    for number in (1, 200):
        (home / "uuids").write_text("".join(f"{each}\n" for each in uuids[:number]))
        statements = []

        def count(_connection, _cursor, statement, *_rest, found=statements):
            if statement.lstrip().startswith("SELECT"):
                found.append(statement)

        event.listen(Engine, "before_cursor_execute", count)
        try:
            result = metaledger(*ASK, "--offline", "--instances-from", home / "uuids")
        finally:
            event.remove(Engine, "before_cursor_execute", count)
        # So nothing was left out that is asked of those alone that may be allowed.
        assert set(verdicts(result).values()) == {"ALLOW"}
        assert len(result.document["verdicts"]) == number
        counts.append(Counter(statement_of(one) for one in statements))
        metaledger("project")
    assert counts[0].total() > 10
    assert counts[0] == counts[1]


def evacuated_to(instance, **there):
    """Of an instance that booted here and was evacuated to a place."""
    here = {"hypervisor_id": SCENARIO_HYPERVISOR, "host": "renamed"}
    left = {f"from_{name}": value for name, value in here.items()}
    yield line("InstanceBooted", 1, instance_uuid=instance, **here)
    yield line("InstanceRelocated", 2, instance_uuid=instance, cause="EVACUATION", **left, **there)


def statement_of(sql):
    """The statement, whatever number of values its lists have."""
    return re.sub(r"\?(?:\s*,\s*\?)+", "?", sql)


@pytest.mark.usefixtures("embedded")
def test_events_of_images_hold_nothing_up(metaledger, home):
    head = {"stream_id": "s", "epoch": 1, "stream_seq": 2}
    told(metaledger, home, updated(meta=head, set={"k": "v"}))
    assert offline(metaledger) == "ALLOW"

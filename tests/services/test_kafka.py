"""The command line on a real broker and a real PostgreSQL."""

import json
import signal
import socket
import time
import uuid

import pytest
from sqlalchemy import create_engine, text

from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.jsonform import parse_line

from .samples import SCENARIO, SCENARIO_IMAGE, file_of, registered, updated
from .waiting import wait_for

# The promise is 5 s; the rest is for a machine that has other things to do.
_END_S = 20


@pytest.fixture
def ledger(broker, metaledger, monkeypatch):
    """A new topic, which the environment names."""
    url = f"kafka://{broker.bootstrap}/services-{uuid.uuid4()}"
    monkeypatch.setenv("METALEDGER_LEDGER_URL", url)
    created = metaledger("--json", "topic", "create", "--partitions", 3, "--replication", 1)
    assert created.status == 0
    assert created.document["partitions"] == 3
    return url


@pytest.fixture
def read_model(postgres_url, monkeypatch):
    url = postgres_url.replace("postgresql+psycopg2:", "postgresql:")
    monkeypatch.setenv("METALEDGER_READ_MODEL_URL", url)
    return url


@pytest.mark.usefixtures("ledger")
def test_a_topic_is_made_once_and_found_fit(metaledger):
    assert metaledger("topic", "check").status == 0
    again = metaledger("topic", "create", "--replication", 1)
    assert again.status == 2
    assert "there is a topic" in again.err


def test_a_topic_that_is_not_there_is_status_2(metaledger, broker):
    result = metaledger("--ledger", f"kafka://{broker.bootstrap}/nope", "topic", "check")
    assert result.status == 2
    assert "metaledger topic create" in result.err


def test_an_embedded_ledger_has_no_topic(metaledger):
    assert metaledger("topic", "create").status == 2


@pytest.mark.usefixtures("ledger", "read_model")
def test_a_file_that_is_emitted_twice_is_there_once(metaledger, home):
    for _ in range(2):
        result = metaledger("--json", "emit", SCENARIO)
        assert (result.status, result.document["appended"]) == (0, 2)
    assert metaledger("project").status == 0
    count = "SELECT count(*) FROM ledger_events"
    assert metaledger("--json", "sql", count).document["rows"] == [[2]]
    [anomaly] = metaledger("--json", "anomalies").document
    assert anomaly["kind"] == "properties_lost_to_purge"
    shown = metaledger("--json", "image", "show", SCENARIO_IMAGE).document
    assert len(shown["properties"]) == 5
    assert metaledger("status").status == 0
    assert metaledger("doctor").status == 0
    assert not (home / "metaledger.db").exists()


@pytest.mark.usefixtures("ledger")
def test_what_cannot_be_repeated_is_no_event_for_kafka(metaledger, home):
    event = registered()
    del event["meta"]["occurred_at"]
    result = metaledger("--json", "emit", file_of(home / "f.jsonl", event))
    assert result.status == 2
    assert result.document["errors"][0]["path"] == "meta.occurred_at"
    assert metaledger("--json", "events").document == []


@pytest.mark.usefixtures("ledger")
def test_a_bad_line_is_named_and_nothing_is_appended(metaledger, home):
    file = file_of(home / "f.jsonl", registered(), registered("i-2", min_disk="1"))
    result = metaledger("--json", "emit", file)
    assert result.status == 2
    [error] = result.document["errors"]
    assert (error["line"], error["path"], error["got"]) == (2, "data.min_disk", "'1'")
    assert "an integer" in error["expected"]
    # Neither now nor with what is emitted next.
    assert metaledger("emit", SCENARIO).status == 0
    assert len(metaledger("--json", "events").document) == 2


@pytest.mark.usefixtures("ledger", "read_model")
def test_decisions_go_into_the_topic(metaledger, home):
    gap = updated(second=3, set={"k": "v"}, meta={"stream_id": "s", "epoch": 1, "stream_seq": 3})
    metaledger("emit", file_of(home / "f.jsonl", registered(), gap))
    metaledger("project")
    assert metaledger("status").status == 1
    assert metaledger("quarantine", "accept-gap", "image:i-1", "--reason", "lost").status == 0
    metaledger("project")
    assert metaledger("status").status == 0
    [live] = metaledger("--json", "image", "show", "i-1").document["properties"]
    assert live["key"] == "k"


@pytest.mark.usefixtures("ledger", "read_model")
def test_a_relay_and_a_projector_carry_events_and_end_on_a_signal(metaledger, home, start):
    spool = home / "spool.db"
    relay = start("relay", "--spool", spool)
    projector = start("project", "--follow", "--group", "g")
    emit_into(spool)
    wait_for(lambda: metaledger("image", "show", "i-1").status == 0)
    wait_for(lambda: metaledger("--json", "status").document["streams"])
    [stream] = metaledger("--json", "status").document["streams"]
    assert stream["relay_host"] == socket.gethostname()
    assert stream["rows_waiting"] == 0
    for process in (relay, projector):
        process.send_signal(signal.SIGTERM)
    for process in (relay, projector):
        out, err = process.communicate(timeout=_END_S)
        assert (process.returncode, out) == (0, "")
        logged = [json.loads(line)["event"] for line in err.splitlines()]
        assert logged[0].endswith(".started")
        assert "stopped" in logged[-1]  # on a busy machine "in the middle", and in time


def test_a_relay_ends_in_time_though_the_broker_hangs(metaledger, own_broker, home, start):
    url = f"kafka://{own_broker.bootstrap}/hangs"
    assert metaledger("--ledger", url, "topic", "create", "--replication", 1).status == 0
    relay = start("--ledger", url, "relay", "--spool", home / "spool.db")
    emit_into(home / "spool.db", "first")
    wait_for(lambda: metaledger("--ledger", url, "--json", "events", "--image", "first").document)
    own_broker.pause()
    emit_into(home / "spool.db", "second")
    # Eight times the interval in which it looks: it is inside of the send, which says nothing.
    time.sleep(2)
    relay.send_signal(signal.SIGTERM)
    relay.wait(timeout=_END_S / 2)
    assert relay.returncode == 0


@pytest.mark.parametrize(
    "command",
    [["events", "--follow"], ["project", "--follow"], ["emit", SCENARIO], ["topic", "check"]],
    ids=lambda command: command[0],
)
def test_a_broker_that_does_not_answer_is_status_3(metaledger, command):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"kafka://127.0.0.1:{silent.getsockname()[1]}/t"
        result = metaledger("--ledger", url, *command)
    assert (result.status, result.out) == (3, "")
    assert result.err.count("\n") == 1


@pytest.mark.usefixtures("ledger")
def test_a_database_that_goes_away_is_waited_for(metaledger, own_postgres, start, home):
    url = own_postgres.create_database()
    metaledger("emit", file_of(home / "f.jsonl", registered("a")))
    projector = start("--read-model", url, "project", "--follow")
    wait_for(lambda: metaledger("--read-model", url, "image", "show", "a").status == 0)
    own_postgres.stop()
    metaledger("emit", file_of(home / "g.jsonl", registered("b")))
    wait_for(lambda: "projector.retries" in projector.stderr.readline())
    own_postgres.start()
    wait_for(lambda: metaledger("--read-model", url, "image", "show", "b").status == 0)
    projector.send_signal(signal.SIGTERM)
    assert projector.wait(timeout=_END_S) == 0


def test_an_outbox_in_postgres_is_installed_shown_and_reseeded(metaledger, postgres_url):
    url = postgres_url.replace("postgresql+psycopg2:", "postgresql:")
    missing = metaledger("outbox", "status", url)
    assert (missing.status, missing.err.count("\n")) == (2, 1)
    made = metaledger("--json", "outbox", "install", url).document
    assert metaledger("--json", "outbox", "install", url).document == made
    shown = metaledger("--json", "outbox", "status", url).document
    assert (shown["stream_id"], shown["epoch"]) == (made["stream_id"], 1)
    reseeded = {"epoch": 2, "unrecorded_aggregates": 0}
    assert metaledger("--json", "outbox", "reseed", url).document == reseeded
    assert "rows_waiting" in metaledger("outbox", "status", url).out
    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM metaledger_stream")).scalar() == 1
    engine.dispose()


def emit_into(spool, image="i-1"):
    producer = ProducerSettings(service="test", host="here")
    of_file = Spool(spool, producer)
    of_file.emit([parse_line(json.dumps(registered(image)), producer.context())])
    of_file.engine.dispose()

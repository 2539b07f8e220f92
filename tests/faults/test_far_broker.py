"""A broker that is slow, gone, or loses answers: what was sent is there, once for who reads."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import pytest

from metaledger.schemas.log import Position
from metaledger.schemas.log.kafka import KafkaSettings, create_topic, open_kafka_log

from ..log.records import record
from ..producers.kit import Service, changes, sqlite_url
from ..servers.broker import JAVA_LEAST, FarBroker
from ..servers.jars import find_java, kafka_jars
from ..services.samples import file_of, registered, updated
from ..services.test_kafka import emit_into
from ..services.waiting import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

CONFIGURATION = """\
ledger = "kafka://{far}/{topic}"
[kafka]
send_timeout_s = {timeout_s}
[relay]
{source}
lease_s = {lease_s}
progress_interval_s = 3600
"""


@pytest.fixture(scope="module")
def broker(servers) -> Iterator[FarBroker]:
    def make(settings):
        java = find_java(settings, least=JAVA_LEAST)
        return FarBroker(java=java, jars=kafka_jars(settings))

    with servers.running("a broker behind a bad network", make) as server:
        yield server


@pytest.fixture
def network(broker):
    yield broker.network
    broker.network.is_deaf = False
    broker.network.delay_s = 0.0


@pytest.fixture
def topic(broker) -> KafkaSettings:
    """A topic by the good way."""
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic=f"far-{uuid4().hex}")
    create_topic(settings, partitions=1, replication=1)
    return settings


@pytest.fixture
def configured(home, topic, broker):
    """Writes a configuration that goes the bad way, and gives the options that name it."""

    def write(*, send_timeout_s, lease_s=45, source='spool = "spool.db"'):
        text = CONFIGURATION.format(
            far=broker.far,
            topic=topic.topic,
            timeout_s=send_timeout_s,
            lease_s=lease_s,
            source=source,
        )
        (home / "c.toml").write_text(text)
        return ("--config", "c.toml")

    return write


@pytest.fixture
def service(home):
    """A program that emits with its changes, and its outbox."""
    made = Service(sqlite_url(home))
    changes.metadata.create_all(made.engine)
    made.install()
    yield made
    for engine in made.engines:
        engine.dispose()


def records_in(topic):
    with closing(open_kafka_log(topic)) as log:
        return log.bounds()[0][1]


def test_an_answer_that_was_lost_doubles_no_record(broker, network, topic):
    """The producer sends again by itself, and the broker knows what it has."""
    far = replace(topic, bootstrap=broker.far, send_timeout_s=30)
    with (
        closing(open_kafka_log(far)) as log,
        closing(log.writer()) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        assert writer.append([record("image:1", 1)]) == [Position(0, 0)]
        network.is_deaf = True
        sent = pool.submit(writer.append, [record("image:1", 2)])
        wait_for(lambda: records_in(topic) == 2)
        network.is_deaf = False
        network.cut()
        assert sent.result(timeout=60) == [Position(0, 1)]
        assert writer.append([record("image:1", 3)]) == [Position(0, 2)]
    assert records_in(topic) == 3


def test_what_a_relay_repeats_is_projected_once(
    metaledger, start, home, network, topic, configured
):
    options = configured(send_timeout_s=8)
    relay = start(*options, "relay")
    emit_into(home / "spool.db", "a")
    # The event, and how the source is; and the relay has heard that both are there.
    wait_for(lambda: records_in(topic) == 2 and waiting(metaledger, options) == 0)
    network.is_deaf = True
    emit_into(home / "spool.db", "b")
    wait_for(lambda: records_in(topic) == 3)
    wait_for(lambda: json.loads(relay.stderr.readline())["event"] == "not sent")
    network.is_deaf = False
    wait_for(lambda: waiting(metaledger, options) == 0)
    assert records_in(topic) == 4
    assert metaledger(*options, "project").status == 0
    ids = metaledger("--json", "sql", "SELECT aggregate_id FROM ledger_events").document["rows"]
    assert sorted(one for [one] in ids if "/" not in one) == ["a", "b"]
    assert metaledger("--json", "quarantine", "list").document == {"quarantine": [], "parked": []}


def waiting(metaledger, options):
    status = metaledger(*options, "--json", "status").document
    return status["outbox"]["rows_waiting"]


def test_a_slow_broker_is_waited_for(metaledger, home, network, configured):
    options = configured(send_timeout_s=30)
    network.delay_s = 0.3
    events = [registered(), *(updated(second=n, set={"k": str(n)}) for n in range(1, 30))]
    assert metaledger(*options, "emit", file_of(home / "f.jsonl", *events)).status == 0
    assert metaledger(*options, "project").status == 0
    [live] = metaledger("--json", "image", "show", "i-1").document["properties"]
    assert (live["key"], live["value"]) == ("k", "29")


def test_a_broker_that_was_killed_is_waited_for(metaledger, start, home, broker, topic, configured):
    options = configured(send_timeout_s=8)
    relay, projector = start(*options, "relay"), start(*options, "project", "--follow")
    emit_into(home / "spool.db", "a")
    wait_for(lambda: metaledger("image", "show", "a").status == 0)
    broker.kill()
    emit_into(home / "spool.db", "b")
    for daemon, word in ((relay, "not sent"), (projector, "projector.retries")):
        wait_for(lambda daemon=daemon, word=word: word in daemon.stderr.readline())
    broker.start()
    wait_for(lambda: metaledger("image", "show", "b").status == 0)
    assert records_in(topic) >= 3  # and how the source is; a repeat is no fault
    assert [daemon.poll() for daemon in (relay, projector)] == [None, None]


def test_a_relay_that_was_frozen_and_overtaken_does_no_harm(
    metaledger, start, service, topic, network, configured
):
    """It is frozen where it matters most: the broker has the records, and it does not know it."""
    # A send that is still waited for when the relay is frozen; the lease is over soon behind it.
    far = configured(send_timeout_s=12, lease_s=13, source=f'outbox = "{service.url}"')
    near = ("--ledger", f"kafka://{topic.bootstrap}/{topic.topic}", *far)
    frozen = start(*far, "relay")
    service.commit_change("a", "1")
    # The event, and how the source is; and the relay has heard that both are there.
    wait_for(lambda: records_in(topic) == 2 and service.waiting() == [])
    network.is_deaf = True
    with service.engine.begin() as connection:  # one batch: no second is sent without an answer
        service.change(connection, "a", "2")
        service.change(connection, "b", "1")
    wait_for(lambda: records_in(topic) == 4)
    frozen.send_signal(signal.SIGSTOP)
    network.is_deaf = False

    second = start(*near, "relay")
    service.commit_change("a", "3")
    wait_for(lambda: service.waiting() == [])
    frozen.send_signal(signal.SIGCONT)
    wait_for(lambda: "another relay has taken over" in frozen.stderr.readline())
    service.commit_change("b", "2")
    wait_for(lambda: service.waiting() == [])
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=60) == 0
    service.commit_change("a", "4")  # the one that was frozen is all there is
    wait_for(lambda: service.waiting() == [])

    assert records_in(topic) > len(service.values())
    assert metaledger(*near, "project").status == 0
    query = "SELECT aggregate_id, stream_seq FROM ledger_events WHERE aggregate_kind = 'image'"
    found = metaledger("--json", "sql", query).document["rows"]
    assert sorted(found) == [["a", 1], ["a", 2], ["a", 3], ["a", 4], ["b", 1], ["b", 2]]
    assert metaledger("--json", "quarantine", "list").document == {"quarantine": [], "parked": []}

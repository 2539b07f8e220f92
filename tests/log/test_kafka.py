"""What Kafka as a log promises beyond the conformance suite: settings, faults, identity."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from metaledger.schemas.errors import LogRefused, Unreachable, UsageError
from metaledger.schemas.log import Log, LogReader, LogRecord, LogWriter, Position, Refused, Unsent
from metaledger.schemas.log import topic as topics
from metaledger.schemas.log._kafka_client import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S
from metaledger.schemas.log.kafka import KafkaSettings, create_topic, open_kafka_log
from metaledger.schemas.log.record import RECORD_BYTES_MAX

from ..servers import choice
from ..servers.broker import JAVA_LEAST, LocalBroker
from ..servers.interface import Broker
from ..servers.jars import find_java, kafka_jars
from ..servers.process import HOST, free_port
from ..servers.settings import Settings
from .backends import Kafka
from .records import by_key, interleaved, read_all, read_count, record
from .test_conformance import POLLS_MAX, from_start

if TYPE_CHECKING:
    from ..conftest import Servers

T = TypeVar("T")


@pytest.fixture
def kafka(broker: Broker) -> Kafka:
    """A topic that is not there yet, on the broker that all share."""
    return Kafka(broker.bootstrap)


@pytest.fixture(scope="module")
def frail_broker(servers: "Servers") -> Iterator[Broker]:
    """May be killed by the tests of this file, which leave it running."""
    with servers.running("a broker", choice.new_broker) as server:
        yield server


@pytest.fixture
def frail(frail_broker: Broker) -> Kafka:
    """A log on the broker that may be killed."""
    backend = Kafka(frail_broker.bootstrap)
    backend.create()
    return backend


@pytest.fixture
def admin(broker: Broker) -> Iterator[KafkaAdminClient]:
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "900000"),
    ],
)
def test_a_topic_that_would_lose_history_is_refused_by_the_name_of_its_setting(
    kafka: Kafka, admin: KafkaAdminClient, name: str, value: str
) -> None:
    configs = topics.settings(1) | {name: value}
    asked = {"num_partitions": 1, "replication_factor": 1, "configs": configs}
    admin.create_topics({kafka.settings.topic: asked}, wait_for_metadata=True)
    with pytest.raises(LogRefused) as refused:
        kafka.open()
    assert f"{name} is {value} and must be" in str(refused.value)
    assert all(other == name or other not in str(refused.value) for other in topics.SETTINGS_READ)


def test_every_wrong_setting_is_named(kafka: Kafka, admin: KafkaAdminClient) -> None:
    admin.create_topics(
        {kafka.settings.topic: {"num_partitions": 1, "replication_factor": 1}},
        wait_for_metadata=True,
    )
    with pytest.raises(LogRefused, match=r"retention\.ms.*message\.timestamp\.type"):
        kafka.open()


def test_the_topic_has_the_partitions_that_were_asked_for(kafka: Kafka) -> None:
    create_topic(kafka.settings, partitions=7, replication=1)
    assert kafka.open().partitions == 7


def test_a_topic_is_not_made_twice(kafka: Kafka) -> None:
    kafka.create()
    with pytest.raises(UsageError, match="already"):
        kafka.create()


def test_more_replicas_than_brokers_are_refused_with_both_numbers(kafka: Kafka) -> None:
    with pytest.raises(UsageError, match=r"3 replicas on 1 brokers.*topic\.replication"):
        create_topic(kafka.settings)


def test_a_log_whose_beginning_was_deleted_is_refused(
    kafka: Kafka, admin: KafkaAdminClient
) -> None:
    create_topic(kafka.settings, partitions=1, replication=1)
    log = kafka.open()
    with closing(log.writer()) as writer:
        writer.append(interleaved(keys=5, each=1))
    admin.delete_records({TopicPartition(kafka.settings.topic, 0): 3})
    assert log.bounds() == {0: (3, 5)}
    with closing(log.reader(from_start)) as reader, pytest.raises(LogRefused, match="position"):
        read_all(reader)


def test_a_topic_that_got_more_partitions_is_refused_while_it_is_open(
    kafka: Kafka, admin: KafkaAdminClient
) -> None:
    kafka.create()
    log = kafka.open()
    admin.create_partitions({kafka.settings.topic: 9})
    admin.wait_for_topics([kafka.settings.topic])
    with closing(log.writer()) as writer, pytest.raises(LogRefused, match="9 partitions"):
        writer.append([record("image:1", 1)])
    with closing(log.reader(from_start)) as reader, pytest.raises(LogRefused, match="9 partitions"):
        read_all(reader)


def test_a_topic_that_was_made_anew_is_refused_before_the_metadata_tells(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "METADATA_AGE_MAX_MS", 3_600_000)
    create_topic(kafka.settings, partitions=1, replication=1)
    with closing(kafka.open().writer()) as writer:
        writer.append(interleaved(keys=1, each=3))
        kafka.remove()
        create_topic(kafka.settings, partitions=1, replication=1)
        with pytest.raises(LogRefused, match="made anew"):
            writer.append([record("image:0", 4)])


class NotUtf8(str):
    """A header's name as only a hostile client sends it."""

    __slots__ = ()

    def encode(self, *_args: object) -> bytes:
        return b"\xff\xfe"


def test_a_record_whose_header_names_are_no_text_is_read_without_its_headers(kafka: Kafka) -> None:
    kafka.create()
    log = kafka.open()
    kafka.append_raw(b"image:1", b"value", [("event_id", b"a"), (NotUtf8("x"), b"y")])
    kafka.append_raw(b"image:2", b"next", [("event_id", b"b")])
    with closing(log.reader(from_start)) as reader:
        found = read_count(reader, 2)
    assert [(f.key, f.value, f.event_id) for f in found] == [
        ("image:1", b"value", None),
        ("image:2", b"next", "b"),
    ]


def test_what_was_sent_and_taken_back_is_not_read(kafka: Kafka) -> None:
    create_topic(kafka.settings, partitions=1, replication=1)
    log, topic = kafka.open(), kafka.settings.topic
    producer = KafkaProducer(bootstrap_servers=kafka.settings.bootstrap, transactional_id=topic)
    with closing(producer):
        producer.init_transactions()
        for value, end in (
            (b"taken back", producer.abort_transaction),
            (b"kept", producer.commit_transaction),
        ):
            producer.begin_transaction()
            producer.send(topic, key=b"image:1", value=value)
            producer.flush(timeout=30)
            end()
    with closing(log.reader(from_start)) as reader:
        assert [found.value for found in read_count(reader, 1)] == [b"kept"]


def test_a_group_leaves_no_offset_with_the_broker(kafka: Kafka, admin: KafkaAdminClient) -> None:
    kafka.create()
    log, group = kafka.open(), kafka.settings.topic
    with closing(log.writer()) as writer:
        writer.append(interleaved(keys=40, each=1))
    with closing(log.reader(from_start, group=group)) as one:
        assert len(read_count(one, 40)) == 40
        with closing(log.reader(from_start, group=group)) as two:
            # Where partitions change hands a consumer with defaults commits.
            for _ in range(POLLS_MAX):
                for reader in (one, two):
                    reader.poll(records_max=100, timeout_s=0.2)
                if two.owned():
                    break
            assert two.owned()
    assert admin.list_group_offsets([group]) == {group: {}}


class GenerousBroker(LocalBroker):
    """Makes each topic that a client asks for, as Kafka does by default."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(java=find_java(settings, least=JAVA_LEAST), jars=kafka_jars(settings))
        with (self._folder / "server.properties").open("a") as properties:
            # Of two lines for one property the later counts.
            properties.write("auto.create.topics.enable=true\n")


@pytest.mark.kafka
@pytest.mark.slow
def test_nobody_makes_a_topic_by_asking_for_it(servers: "Servers") -> None:
    with servers.running("a broker that makes topics", GenerousBroker) as broker:
        kafka = Kafka(broker.bootstrap)
        kafka.create()
        log = kafka.open()
        kafka.remove()
        with closing(log.reader(from_start)) as reader, suppress(LogRefused, Unreachable):
            for _ in range(3):
                reader.poll(records_max=10, timeout_s=1)
        with closing(log.writer()) as writer, suppress(LogRefused):
            writer.append([record("image:1", 1)])
        with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
            assert kafka.settings.topic not in admin.list_topics()


@pytest.mark.parametrize("bootstrap", [f"{HOST}:{{port}}", "no-such-host.invalid:{port}"])
def test_an_unreachable_broker_is_one_line(
    bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = KafkaSettings(bootstrap=bootstrap.format(port=free_port()), topic="log")
    with caplog.at_level(logging.INFO), pytest.raises(Unreachable) as unreachable:
        open_kafka_log(settings)
    assert settings.bootstrap in str(unreachable.value)
    assert "\n" not in str(unreachable.value)
    assert not caplog.records


def test_a_start_says_within_ten_seconds_that_nobody_is_there() -> None:
    requests_of_opening = 2
    assert CONNECT_TIMEOUT_S + requests_of_opening * REQUEST_TIMEOUT_S < 10


def test_an_address_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no address"):
        open_kafka_log(KafkaSettings(bootstrap="kafka:abc", topic="log"))


def poll_until_refused(reader: LogReader) -> None:
    for _ in range(30):
        reader.poll(records_max=10, timeout_s=1)


def append_here(log: Log, writer: LogWriter) -> None:
    assert isinstance(writer.append([record("image:1", 2)])[0], Position)
    with closing(log.reader(from_start)) as reader:
        assert len(read_count(reader, 2)) == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_writer_that_was_used_before_a_fork_connects_again_in_the_child(kafka: Kafka) -> None:
    kafka.create()
    log = kafka.open()
    with closing(log.writer()) as writer:
        writer.append([record("image:1", 1)])
        context = multiprocessing.get_context("fork")
        child = context.Process(target=append_here, args=(log, writer))
        child.start()
        child.join(timeout=60)
        child.kill()
        assert child.exitcode == 0
        assert isinstance(writer.append([record("image:1", 3)])[0], Position)


def test_what_the_broker_refuses_holds_back_its_key_and_no_other(
    kafka: Kafka, admin: KafkaAdminClient
) -> None:
    create_topic(kafka.settings, partitions=1, replication=1)
    log = kafka.open()
    resource = ConfigResource(ConfigResourceType.TOPIC, kafka.settings.topic)
    resource.configs = {"max.message.bytes": "5000"}
    admin.alter_configs([resource])
    large = record("image:1", 1, value=os.urandom(RECORD_BYTES_MAX - 500))
    with closing(log.writer()) as writer:
        refused, held_back = writer.append([large, record("image:1", 2, value=bytes(900))])
        assert (type(refused), type(held_back)) == (Refused, Unsent)
        assert isinstance(writer.append([record("image:1", 2)])[0], Position)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_frozen_broker_is_unreachable(frail_broker: Broker, frail: Kafka) -> None:
    log = frail.open()
    with closing(log.reader(from_start)) as reader:
        assert not reader.poll(records_max=1, timeout_s=0.1)
        frail_broker.pause()
        try:
            with pytest.raises(Unreachable):
                frail.open()
            with pytest.raises(Unreachable):
                poll_until_refused(reader)
        finally:
            frail_broker.resume()
    assert once_it_answers(frail.open).topic_id == log.topic_id


@pytest.mark.kafka
@pytest.mark.slow
def test_while_the_broker_is_down_nothing_is_taken_for_sent_and_then_all_goes_on(
    frail_broker: Broker, frail: Kafka
) -> None:
    log = frail.open()
    with closing(log.writer()) as writer, closing(log.reader(from_start)) as reader:
        writer.append([record("image:1", 1)])
        assert len(read_count(reader, 1)) == 1
        frail_broker.stop()
        outcomes = writer.append(interleaved(keys=3, each=2))
        assert {type(outcome) for outcome in outcomes} == {Unsent}
        with pytest.raises(Unreachable):
            poll_until_refused(reader)
        with pytest.raises(Unreachable):
            log.bounds()
        frail_broker.start()
        assert isinstance(writer.append([record("image:1", 2)])[0], Position)
        found = read_until(reader, 2)  # after an error it asks for its positions again
    assert by_key(found) == {"image:1": ["image:1/1", "image:1/2"]}


@pytest.mark.kafka
@pytest.mark.slow
def test_nothing_is_lost_and_no_key_is_out_of_order_whatever_happens_to_the_broker(
    frail_broker: Broker, frail: Kafka
) -> None:
    """As a relay: what was not acknowledged is appended again, in order."""
    returned = Event()

    def harm() -> None:
        returned.wait(timeout=60)  # now the writer is connected
        frail_broker.kill()
        for _ in range(2):  # the first may have been on its way back
            returned.clear()
            returned.wait(timeout=60)
        frail_broker.start()
        frail_broker.pause()
        returned.clear()
        returned.wait(timeout=60)
        frail_broker.resume()

    harming = Thread(target=harm)
    unsent = seq = 0
    log = frail.open()
    with closing(log.writer()) as writer:
        harming.start()
        while harming.is_alive():
            seq += 1
            pending = [record(f"image:{key}", seq, value=VALUES[key]) for key in range(40)]
            while pending:
                outcomes = writer.append(pending)
                returned.set()
                sent = [isinstance(outcome, Position) for outcome in outcomes]
                pending = [r for r, there in zip(pending, sent, strict=True) if not there]
                unsent += len(pending)
    harming.join()
    assert unsent > 0
    with closing(log.reader(from_start)) as reader:
        # With what came twice.
        bounds = once_it_answers(log.bounds)
        everything = sum(end - first for first, end in bounds.values())
        found = by_key(read_until(reader, everything))
    firsts = {key: list(dict.fromkeys(ids)) for key, ids in found.items()}
    assert firsts == {
        f"image:{key}": [f"image:{key}/{number}" for number in range(1, seq + 1)]
        for key in range(40)
    }


# A few batches a partition: an append is caught in the middle.
VALUES = [os.urandom(90_000) for _ in range(40)]


def once_it_answers(ask: Callable[[], T]) -> T:
    """What a broker that has just come back answers in the end."""
    for _ in range(20):
        with suppress(Unreachable):
            return ask()
    return ask()


def read_until(reader: LogReader, count: int) -> list[LogRecord]:
    """Reads past what a broker that has just come back does not answer."""
    found: list[LogRecord] = []
    for _ in range(60):
        with suppress(Unreachable):
            found.extend(reader.poll(records_max=1_000, timeout_s=2))
        if len(found) >= count:
            return found
    pytest.fail(f"{len(found)} of {count} records")

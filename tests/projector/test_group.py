"""Several share a topic's partitions; one leaves or is overtaken, and nothing is lost."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from metaledger.projector.project import bring_up_to_end, follow
from metaledger.projector.store import Store
from metaledger.schemas.log import Position
from metaledger.schemas.log.kafka import (
    KafkaLog,
    KafkaSettings,
    create_topic,
    open_kafka_log,
)

from ..store.readmodels import (
    Place,
    dump,
    engine_of,
    store_of,
)
from .ledgers import CODEC, TOLERANT, damaged, event, record, registered, updated

IMAGES = [f"image-{number}" for number in range(12)]
GROUPED = replace(TOLERANT, group="projectors", batch_records_max=20)


@pytest.fixture
def topic(broker, tmp_path) -> KafkaSettings:
    settings = KafkaSettings(
        bootstrap=broker.bootstrap, topic=f"group-{tmp_path.name}", session_timeout_s=6.0
    )
    create_topic(settings, partitions=4, replication=1)
    return settings


@pytest.fixture
def log(topic: KafkaSettings) -> Iterator[KafkaLog]:
    log = open_kafka_log(topic)
    yield log
    log.close()


class Follower:
    """A projector of the group, in a thread with a log and a database of its own."""

    def __init__(self, topic: KafkaSettings, url: str) -> None:
        self.stop = threading.Event()
        self.moved = threading.Event()
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(topic, url))
        self._thread.start()

    def _run(self, topic: KafkaSettings, url: str) -> None:
        log = open_kafka_log(topic)
        try:
            with engine_of(url) as engine:
                follow(
                    log,
                    Store(engine),
                    CODEC,
                    settings=GROUPED,
                    stop=self.stop,
                    on_progress=lambda _progress: self.moved.set(),
                )
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            log.close()

    def end(self) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert not self.failures


def append(log: KafkaLog, seq: int) -> None:
    writer = log.writer()
    events = [
        event((registered if seq == 1 else updated)(image, k=str(seq)), seq) for image in IMAGES
    ]
    records = [record(item) for item in events]
    if seq == 5:
        records[0] = damaged(events[0])
    # Each comes twice, as a relay may send it.
    outcomes = writer.append(records + records)
    assert all(isinstance(outcome, Position) for outcome in outcomes)
    writer.close()


def wait_for_end(log: KafkaLog, url: str) -> None:
    ends = {partition: end for partition, (_, end) in log.bounds().items()}
    with store_of(url) as store:
        for _ in range(1_200):
            if store.positions(ends) == ends:
                return
            threading.Event().wait(0.05)
    raise AssertionError("the end was not reached")


def test_a_group_that_comes_and_goes_loses_and_doubles_nothing(
    place: Place, topic: KafkaSettings, log: KafkaLog
) -> None:
    clean, url = place(), place()
    with store_of(url) as store:
        store.bind(log.topic_id, log.partitions)
    append(log, 1)
    first = Follower(topic, url)
    assert first.moved.wait(60)
    second = Follower(topic, url)
    for seq in range(2, 8):
        append(log, seq)
    wait_for_end(log, url)
    first.end()
    for seq in range(8, 12):
        append(log, seq)
    wait_for_end(log, url)
    second.end()
    with store_of(clean) as store:
        bring_up_to_end(log, store, CODEC, settings=TOLERANT)
    found = dump(url)
    assert found == dump(clean)
    assert len(found["ledger_events"]) == 11 * len(IMAGES) - 7
    assert len(found["quarantine"]) == 1


def test_one_outside_the_group_only_fences(
    place: Place, topic: KafkaSettings, log: KafkaLog
) -> None:
    clean, url = place(), place()
    with store_of(url) as store:
        store.bind(log.topic_id, log.partitions)
    follower = Follower(topic, url)
    for seq in range(1, 8):
        append(log, seq)
        with store_of(url) as store:
            bring_up_to_end(log, store, CODEC, settings=TOLERANT)
    wait_for_end(log, url)
    follower.end()
    with store_of(clean) as store:
        bring_up_to_end(log, store, CODEC, settings=TOLERANT)
    assert dump(url) == dump(clean)

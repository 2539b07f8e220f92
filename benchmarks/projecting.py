"""Projecting from Kafka into PostgreSQL, beside a bare loop that only moves the same bytes.

The bare loop consumes with kafka-python, decodes with fastavro and COPYs rows. It folds nothing,
checks nothing and remembers nothing: which rows a batch brings it was told before, as Python
values, each in its last form (of an interval that began and ended it writes one row, where a
projector writes two). Both have the same broker, the same tables with the same indexes, batches of
2,000 records that end with the checkpoint and a synced commit, one partition and one process. After
every round all tables of both databases are compared, row for row.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader
from kafka import KafkaConsumer, TopicPartition
from sqlalchemy import Engine

from metaledger.projector.project import Settings, bring_up_to_end
from metaledger.projector.store import Store
from metaledger.schemas.catalogue import BY_FINGERPRINT
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event
from metaledger.schemas.log.kafka import KafkaLog, KafkaSettings, create_topic, open_kafka_log
from tests.proofs.proof import running
from tests.servers.choice import new_broker, new_postgres
from tests.servers.interface import Broker, Postgres
from tests.servers.postgres import Sync

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .readmodels import Batch, compare, new_read_model, rows_by_batch, write
from .workload import append, events

SETTINGS = Settings(batch_time_max_s=60.0)
BATCH_RECORDS = SETTINGS.batch_records_max
_EVENTS = {Size.QUICK: 20_000, Size.FULL: 100_000}
_ROUNDS = {Size.QUICK: 3, Size.FULL: 5}


@dataclass(frozen=True, slots=True)
class Bed:
    """A topic that was filled, and the database server to project it into."""

    log: KafkaLog
    settings: KafkaSettings
    postgres: Postgres
    records: int


@contextmanager
def bed(count: int) -> Iterator[Bed]:
    """One partition with so many events; the database syncs each commit."""
    with (
        running(new_broker) as broker,
        running(lambda settings: new_postgres(settings, sync=Sync.ON)) as postgres,
    ):
        yield filled(broker, postgres, events(count))


def filled(
    broker: Broker,
    postgres: Postgres,
    them: Iterator[Event],
    *,
    topic: str = "metaledger",
    partitions: int = 1,
) -> Bed:
    """A topic of its own with these events."""
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic=topic)
    create_topic(settings, partitions=partitions, replication=1)
    log = open_kafka_log(settings)
    writer = log.writer()
    records = append(writer, them)
    writer.close()
    return Bed(log, settings, postgres, records)


def project(bed: Bed, engine: Engine) -> None:
    """Ours, to the end of the log."""
    done = bring_up_to_end(bed.log, Store(engine), Codec(), settings=SETTINGS)
    if done.done != bed.records:
        raise RuntimeError(f"{done.done} of {bed.records} records were projected")


def _run(bench: Bench) -> Figure:
    rounds = _ROUNDS[bench.size]
    with bed(_EVENTS[bench.size]) as ground:
        with new_read_model(ground.postgres) as reference:
            project(ground, reference)
            batches = rows_by_batch(reference, batch_records=BATCH_RECORDS)
        gc.collect()
        gc.freeze()  # the prepared rows are no part of either side
        ratios, rates = [], []
        for _ in range(rounds):
            with (
                new_read_model(ground.postgres) as of_bare,
                new_read_model(ground.postgres) as of_ours,
            ):
                Store(of_bare).bind(ground.log.topic_id, ground.log.partitions)
                (pair,) = bench.pairs(
                    lambda engine=of_bare: bare_loop(ground, engine, batches),
                    lambda engine=of_ours: project(ground, engine),
                    rounds=1,
                )
                compare(of_bare, of_ours)
            bench.say(f"bare {pair[0]:.2f} s, ours {pair[1]:.2f} s")
            ratios.append(pair[0] / pair[1])
            rates.append(ground.records / pair[1])
    seen = f"{sorted(rates)[rounds // 2]:,.0f} records/s"
    return figure(ratios, seen)


def bare_loop(bed: Bed, engine: Engine, batches: Sequence[Batch]) -> None:
    """What a program without a meaning does with the records and the rows."""
    consumer = KafkaConsumer(
        bootstrap_servers=bed.settings.bootstrap,
        enable_auto_commit=False,
        fetch_max_bytes=16 * 2**20,
        max_partition_fetch_bytes=4 * 2**20,
    )
    place = TopicPartition(bed.settings.topic, 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    try:
        for batch in batches:
            _consume(consumer, batch.records)
            with engine.begin() as connection:
                write(connection, batch)
    finally:
        consumer.close()


def _consume(consumer: KafkaConsumer, records: int) -> list[Any]:
    decoded = []
    while len(decoded) < records:
        for found in consumer.poll(
            timeout_ms=1_000, max_records=min(500, records - len(decoded))
        ).values():
            for record in found:
                value = record.value
                schema = BY_FINGERPRINT[value[2:10]].parsed
                source = BytesIO(value)
                source.seek(10)
                decoded.append(schemaless_reader(source, schema, None))
    return decoded


BENCHMARKS = (
    Benchmark(
        name="projecting",
        measures="Kafka to PostgreSQL: records a second against a bare loop that does not fold",
        promise=Promise.AT_LEAST,
        bound=0.8,
        unit="x",
        run=_run,
    ),
)

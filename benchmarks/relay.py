"""The relay beside a bare producer: an outbox on PostgreSQL into Kafka, and the same bytes from
memory.

The bare loop has the records already, sends them by their keys with the writer's own settings
(idempotent, `acks=all`, the same batches and compression), and asks at the end whether all were
taken. It reads no database, keeps no order across a failure, and deletes nothing. Both have each
key's partition to find, the one by kafka-python and the other by itself.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice

from kafka import KafkaProducer
from sqlalchemy import Engine, select

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings, RelaySettings
from metaledger.producers.tables import outbox as table
from metaledger.schemas.events import Draft, Event, StreamNumber
from metaledger.schemas.log import NewRecord
from metaledger.schemas.log import topic as topics
from metaledger.schemas.log.kafka import KafkaLog, KafkaSettings, create_topic, open_kafka_log
from tests.proofs.proof import running
from tests.servers.choice import new_broker, new_postgres
from tests.servers.postgres import Sync

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .history import CONTEXT, history

_EVENTS = {Size.QUICK: 30_000, Size.FULL: 50_000}
_ROUNDS = {Size.QUICK: 3, Size.FULL: 5}
# A service's transaction; only the filling, which is not measured.
_TRANSACTION = 5_000


def _run(bench: Bench) -> Figure:
    count = _EVENTS[bench.size]
    settings = ProducerSettings(service="benchmark", host="here")
    outbox = Outbox(settings, settings.codec())
    records: list[NewRecord] = []
    with _database() as engine, _log() as (kafka, log), closing(log.writer()) as writer:
        administration.install(engine)
        relay = Relay(
            engine,
            writer,
            outbox,
            partitions=log.partitions,
            owner="benchmark",
            settings=RelaySettings(progress_interval_s=None),
        )
        with closing(_producer(kafka)) as producer:
            # The first round connects both, and counts for nothing.
            rounds = _ROUNDS[bench.size] + 1
            timed = bench.pairs(
                lambda: _send(producer, kafka.topic, records), relay.drain, rounds=rounds
            )
            pairs = []
            for number in range(rounds):
                events = islice(history(count, first=number * count), count)
                _fill(engine, outbox, events)
                records[:] = _waiting(engine)
                _set_garbage_aside()
                pairs.append(next(timed))
                assert not _waiting(engine)
    ratios = [bare_s / ours_s for bare_s, ours_s in pairs[1:]]
    bare_s, ours_s = map(min, zip(*pairs[1:], strict=True))
    return figure(ratios, f"{count / ours_s:,.0f} events a second beside {count / bare_s:,.0f}")


def _set_garbage_aside() -> None:
    """What the benchmark itself holds is not looked through while the two run."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _send(producer: KafkaProducer, topic: str, records: Sequence[NewRecord]) -> None:
    futures = [
        producer.send(
            topic, key=record.key.encode(), value=record.value, headers=topics.headers(record)
        )
        for record in records
    ]
    producer.flush()
    for future in futures:
        future.get(timeout=0)


def _producer(settings: KafkaSettings) -> KafkaProducer:
    return KafkaProducer(
        bootstrap_servers=settings.bootstrap,
        acks="all",
        enable_idempotence=True,
        batch_size=1_048_576,
        max_request_size=8 * 1_048_576,
        linger_ms=5_000,
        compression_type="zstd",
    )


def _fill(engine: Engine, outbox: Outbox, events: Iterator[Event]) -> None:
    while batch := list(islice(events, _TRANSACTION)):
        drafts = [
            Draft(data=told.data, aggregate=told.meta.aggregate, context=CONTEXT) for told in batch
        ]
        with engine.begin() as connection:
            outbox.record(connection, drafts)


def _waiting(engine: Engine) -> list[NewRecord]:
    """What the outbox holds."""
    with engine.connect() as connection:
        return [
            NewRecord(
                key=row.aggregate,
                value=bytes(row.value),
                sha256=bytes(row.sha256),
                event_id=row.event_id,
                number=StreamNumber(
                    stream_id=row.stream_id, epoch=row.epoch, stream_seq=row.stream_seq
                ),
            )
            for row in connection.execute(select(table).order_by(table.c.id))
        ]


@contextmanager
def _database() -> Iterator[Engine]:
    with running(lambda settings: new_postgres(settings, sync=Sync.ON)) as postgres:
        engine = open_database(postgres.create_database())
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def _log() -> Iterator[tuple[KafkaSettings, KafkaLog]]:
    with running(new_broker) as broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap, topic="metaledger")
        create_topic(settings, replication=1)
        yield settings, open_kafka_log(settings)


BENCHMARKS = (
    Benchmark(
        name="relay",
        measures="a bare producer of the same bytes / the relay, from PostgreSQL into Kafka",
        promise=Promise.AT_LEAST,
        bound=0.7,
        unit="",
        run=_run,
    ),
)

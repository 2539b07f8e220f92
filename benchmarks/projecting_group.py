"""Two projectors of a group on a topic of two partitions, beside one that reads both.

Each is a process. The clock runs from when all are ready until both checkpoints stand at the end,
and so counts the joining of the group. Broker and database are on the same machine: where that has
two cores, a projector and its database keep one and a half of them busy, and the second projector
has only what is left.
"""

import multiprocessing
import os
import time
from dataclasses import replace
from multiprocessing.synchronize import Barrier, Event

from sqlalchemy import Engine

from metaledger.projector.database import connect
from metaledger.projector.project import follow
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.log.kafka import KafkaSettings, open_kafka_log
from tests.proofs.proof import running
from tests.servers.choice import new_broker, new_postgres
from tests.servers.postgres import Sync

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .projecting import SETTINGS, Bed, filled
from .readmodels import new_read_model
from .workload import events

_EVENTS = {Size.QUICK: 20_000, Size.FULL: 100_000}
_ROUNDS = {Size.QUICK: 2, Size.FULL: 3}
_START = multiprocessing.get_context("spawn")
_LOOK_S = 0.05


def _run(bench: Bench) -> Figure:
    ratios, rates = [], []
    with (
        running(new_broker) as broker,
        running(lambda settings: new_postgres(settings, sync=Sync.ON)) as postgres,
    ):
        ground = filled(broker, postgres, events(_EVENTS[bench.size]), partitions=2)
        for number in range(_ROUNDS[bench.size]):
            with new_read_model(postgres) as alone, new_read_model(postgres) as shared:
                one_s = _seconds(ground, alone, projectors=1, group=f"one-{number}")
                two_s = _seconds(ground, shared, projectors=2, group=f"two-{number}")
            bench.say(f"one {one_s:.2f} s, two {two_s:.2f} s")
            ratios.append(one_s / two_s)
            rates.append(ground.records / two_s)
    middle = sorted(rates)[len(rates) // 2]
    return figure(ratios, f"{middle:,.0f} records/s with two, on {os.cpu_count()} cores")


def _seconds(ground: Bed, engine: Engine, *, projectors: int, group: str) -> float:
    ready, stop = _START.Barrier(projectors + 1), _START.Event()
    url = engine.url.render_as_string(hide_password=False)
    store = Store(engine)
    store.bind(ground.log.topic_id, ground.log.partitions)
    ends = {partition: end for partition, (_, end) in ground.log.bounds().items()}
    children = [
        _START.Process(target=_follow, args=(ground.settings, url, group, ready, stop))
        for _ in range(projectors)
    ]
    for child in children:
        child.start()
    try:
        ready.wait()
        started = time.perf_counter()
        while store.positions(ends) != ends:
            if not all(child.is_alive() for child in children):
                raise RuntimeError("a projector ended by itself")
            time.sleep(_LOOK_S)
        return time.perf_counter() - started
    finally:
        stop.set()
        for child in children:
            child.join()


def _follow(settings: KafkaSettings, url: str, group: str, ready: Barrier, stop: Event) -> None:
    log = open_kafka_log(settings)
    engine = connect(url)
    store = Store(engine)
    ready.wait()
    grouped = replace(SETTINGS, group=group, batch_time_max_s=0.5)
    # An event of processes is one of threads to whoever asks and waits.
    follow(log, store, Codec(), settings=grouped, stop=stop)  # type: ignore[arg-type]
    engine.dispose()
    log.close()


BENCHMARKS = (
    Benchmark(
        name="projecting-group",
        measures="two projectors on two partitions / one on both",
        promise=Promise.AT_LEAST,
        bound=1.5,
        unit="x",
        run=_run,
    ),
)

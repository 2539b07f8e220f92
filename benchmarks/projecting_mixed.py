"""A mixed stream beside that of images alone, in rows: Kafka to PostgreSQL, as in `projecting`.

Folds of instances and disks must not be slower than those of images, whatever their events hold; so
what is compared is rows that are there at the end, of all public tables, a second. Each round
projects both topics, each into a read model of its own, with all that is derived behind the folds.
"""

from sqlalchemy import Engine, func, select

from metaledger.projector.database import writing
from metaledger.schemas.tables import PRIVATE, TABLES
from tests.proofs.proof import running
from tests.servers.choice import new_broker, new_postgres
from tests.servers.postgres import Sync

from . import cloud, workload
from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .projecting import filled, project
from .readmodels import new_read_model

_EVENTS = {Size.QUICK: 20_000, Size.FULL: 100_000}
_ROUNDS = {Size.QUICK: 3, Size.FULL: 5}
_PUBLIC = [table for table in TABLES if table.name not in PRIVATE]


def _run(bench: Bench) -> Figure:
    count = _EVENTS[bench.size]
    ratios, rates = [], []
    with (
        running(new_broker) as broker,
        running(lambda settings: new_postgres(settings, sync=Sync.ON)) as postgres,
    ):
        of_images = filled(broker, postgres, workload.events(count), topic="images")
        mixed = filled(broker, postgres, cloud.events(count), topic="mixed")
        for _ in range(_ROUNDS[bench.size]):
            with new_read_model(postgres) as one, new_read_model(postgres) as other:
                ((images_s, mixed_s),) = bench.pairs(
                    lambda engine=one: project(of_images, engine),
                    lambda engine=other: project(mixed, engine),
                    rounds=1,
                )
                images_rate, mixed_rate = _rows(one) / images_s, _rows(other) / mixed_s
            bench.say(f"images {images_rate:,.0f} rows/s, mixed {mixed_rate:,.0f} rows/s")
            ratios.append(mixed_rate / images_rate)
            rates.append((mixed_rate, count / mixed_s))
    rows_rate, rate = sorted(rates)[len(rates) // 2]
    return figure(ratios, f"{rows_rate:,.0f} rows/s of {rate:,.0f} records/s")


def _rows(engine: Engine) -> int:
    with writing(engine, 1).connect() as connection:
        counts = (connection.scalar(select(func.count()).select_from(it)) for it in _PUBLIC)
        return sum(count or 0 for count in counts)


BENCHMARKS = (
    Benchmark(
        name="projecting-mixed",
        measures="rows a second of a mixed stream (images, instances, disks) / of images alone",
        promise=Promise.AT_LEAST,
        bound=0.8,
        unit="x",
        run=_run,
    ),
)

"""A large read model: the projector's memory, the time of a batch, the time of a question.

A read model of a million images (QUICK: 20,000) is made as every other one is, by a projector in a
process of its own, from that many registrations and as many events of the workload: 2,000,000
records. Meanwhile the process tells its memory. Then the same workload is projected into it, and
into one of 10,000 images, in turn; and 200 images, drawn by chance, are asked about, each question
explained and analyzed by the server. Then chains of snapshots are projected into both, and the ends
of 200 of them are asked where they come from. The benchmarks share what takes long.
"""

import atexit
import multiprocessing
import re
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from random import Random

from sqlalchemy import Connection, Engine, event, text

from metaledger.projector.database import connect
from metaledger.projector.project import Progress, bring_up_to_end
from metaledger.projector.readmodel import migrate
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.log.kafka import KafkaLog, KafkaSettings, create_topic, open_kafka_log
from metaledger.services import queries
from tests.proofs.proof import running
from tests.servers.choice import new_broker, new_postgres
from tests.servers.interface import Broker, Postgres
from tests.servers.postgres import Sync

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .projecting import SETTINGS
from .workload import START, append, chains, events, registrations

_IMAGES = {Size.QUICK: 20_000, Size.FULL: 1_000_000}
_FEW_IMAGES = 10_000
_MORE_EVENTS = {Size.QUICK: 10_000, Size.FULL: 40_000}
_ROUNDS = 5
_QUESTIONS = 200
_DEPTHS = (1, 10, 20)
_DEEP = 10
_MEGABYTE = 1_000_000
_START = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class _Ledger:
    """A log and its read model. `memory`: the projector's peak, in bytes, by records done."""

    settings: KafkaSettings
    log: KafkaLog
    engine: Engine
    memory: dict[int, int] = field(default_factory=dict)

    def project(self) -> None:
        bring_up_to_end(self.log, Store(self.engine), Codec(), settings=SETTINGS)


@cache
def _ledgers(size: Size) -> tuple[_Ledger, _Ledger]:
    """The small and the large one; both stay until the program ends, and go with their servers."""
    stack = ExitStack()
    atexit.register(stack.close)
    broker = stack.enter_context(running(new_broker))
    postgres = stack.enter_context(running(lambda settings: new_postgres(settings, sync=Sync.ON)))
    small, large = (_new(broker, postgres, name) for name in ("small", "large"))
    _fill(small, images=_FEW_IMAGES, more=0)
    small.project()
    _fill(large, images=_IMAGES[size], more=_IMAGES[size])
    _project_beside(large)
    return small, large


def _new(broker: Broker, postgres: Postgres, name: str) -> _Ledger:
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic=name)
    create_topic(settings, partitions=1, replication=1)
    engine = connect(postgres.create_database())
    migrate(engine)
    return _Ledger(settings, open_kafka_log(settings), engine)


def _fill(ledger: _Ledger, *, images: int, more: int, seed: int = 1) -> None:
    writer = ledger.log.writer()
    append(writer, registrations(images, seed=seed))
    append(writer, events(more, seed=seed + 1))
    writer.close()


def _project_beside(ledger: _Ledger) -> None:
    """In a process of its own, which tells its memory."""
    ours, its = _START.Pipe()
    url = ledger.engine.url.render_as_string(hide_password=False)
    child = _START.Process(target=_project_and_tell, args=(ledger.settings, url, its))
    child.start()
    its.close()
    try:
        while True:
            done, size = ours.recv()
            ledger.memory[done] = size
    except EOFError:
        child.join()
    if child.exitcode != 0:
        raise RuntimeError("the projector failed")


def _project_and_tell(settings: KafkaSettings, url: str, pipe: Pipe) -> None:
    def tell(progress: Progress) -> None:
        status = Path("/proc/self/status").read_text()
        (peak_kb,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        pipe.send((progress.done, int(peak_kb) * 1024))

    log, engine = open_kafka_log(settings), connect(url)
    bring_up_to_end(log, Store(engine), Codec(), settings=SETTINGS, on_progress=tell)


def _memory(bench: Bench) -> Figure:
    _, large = _ledgers(bench.size)
    told = sorted(large.memory.items())
    records, peak = told[-1]
    tenth = next(size for done, size in told if done * 10 >= records)
    return Figure(
        value=peak / _MEGABYTE,
        lowest=told[0][1] / _MEGABYTE,
        highest=peak / _MEGABYTE,
        seen=f"{tenth / _MEGABYTE:.0f} MB after a tenth of {records:,} records",
    )


def _batch(bench: Bench) -> Figure:
    small, large = _ledgers(bench.size)
    count = _MORE_EVENTS[bench.size]
    ratios, rates = [], []
    for number in range(_ROUNDS):
        for ledger in (small, large):
            _fill(ledger, images=0, more=count, seed=100 + number)
        ((small_s, large_s),) = bench.pairs(small.project, large.project, rounds=1)
        bench.say(f"at {_FEW_IMAGES:,} images {small_s:.2f} s, at the many {large_s:.2f} s")
        ratios.append(large_s / small_s)
        rates.append(large_s * SETTINGS.batch_records_max / count)
    return figure(
        ratios, f"{sorted(rates)[_ROUNDS // 2]:.2f} s a batch of {SETTINGS.batch_records_max:,}"
    )


def _question(bench: Bench) -> Figure:
    _, large = _ledgers(bench.size)
    chance = Random(1)
    at = START + timedelta(hours=1)
    asked: tuple[Callable[[Connection, str], object], ...] = (
        queries.image.live_properties,
        lambda connection, image: queries.image.history(connection, image, queries.END_OF_TIME),
        lambda connection, image: queries.image.properties_as_of(connection, image, at),
        lambda connection, image: queries.image.attributes_as_of(connection, image, at),
    )
    with large.engine.connect() as connection:
        images = connection.execute(
            text("SELECT image_id FROM images ORDER BY md5(image_id) LIMIT 200")
        ).scalars()
        drawn = chance.sample(list(images), _QUESTIONS)
        times_ms = sorted(
            _server_ms(connection, lambda ask=ask, image=image: ask(connection, image))
            for image in drawn
            for ask in asked
        )
    middle, high = (times_ms[len(times_ms) * percent // 100] for percent in (50, 99))
    return Figure(
        value=high,
        lowest=times_ms[0],
        highest=times_ms[-1],
        seen=f"99th percentile of {len(times_ms)} questions; median {middle:.2f} ms",
    )


@cache
def _lineages(size: Size) -> tuple[_Ledger, _Ledger]:
    """As `_ledgers`, with chains of snapshots among the images: a sixth of them stand in one."""
    for ledger, images in zip(_ledgers(size), (_FEW_IMAGES, _IMAGES[size]), strict=True):
        writer = ledger.log.writer()
        for depth in _DEPTHS:
            append(writer, chains(images // 200, depth=depth, seed=1_000 + depth))
        writer.close()
        ledger.project()
    return _ledgers(size)


def _lineage(bench: Bench) -> Figure:
    few, many = _lineages(bench.size)
    with few.engine.connect() as of_few, many.engine.connect() as of_many:
        small_ms = _lineage_ms(of_few, depth=_DEEP)
        by_depth_ms = {depth: _lineage_ms(of_many, depth=depth) for depth in _DEPTHS}
    times_ms = by_depth_ms[_DEEP]
    medians = ", ".join(
        f"{statistics.median(those):.2f} ms {depth} deep" for depth, those in by_depth_ms.items()
    )
    return Figure(
        value=times_ms[len(times_ms) * 99 // 100],
        lowest=times_ms[0],
        highest=times_ms[-1],
        seen=f"99th percentile of {len(times_ms)}; medians {medians}; "
        f"{statistics.median(small_ms):.2f} ms {_DEEP} deep among {_FEW_IMAGES:,} images",
    )


def _lineage_ms(connection: Connection, *, depth: int) -> list[float]:
    """The times of questions about images that stand at the end of a chain so deep, sorted."""
    ends = connection.execute(
        text(
            "SELECT image_id FROM image_ancestors AS a WHERE depth = :depth AND NOT EXISTS "
            "(SELECT FROM image_ancestors AS b WHERE b.ancestor_image_id = a.image_id "
            "OR (b.image_id = a.image_id AND b.depth > :depth)) "
            "ORDER BY md5(image_id) LIMIT :questions"
        ),
        {"depth": depth, "questions": _QUESTIONS},
    ).scalars()

    def ask(image: str) -> None:
        queries.lineage.of_image(connection, image)
        if len(queries.lineage.tree(connection, image)) != depth + 1:
            raise RuntimeError("not what had to be told")
        queries.lineage.descendants(connection, image)

    return sorted(_server_ms(connection, lambda image=image: ask(image)) for image in list(ends))


def _server_ms(connection: Connection, ask: Callable[[], object]) -> float:
    """Planning and execution of all statements that a question is made of."""
    statements: list[tuple[str, object]] = []

    def note(_1: object, _2: object, statement: str, given: object, *_: object) -> None:
        statements.append((statement, given))

    event.listen(connection, "before_cursor_execute", note)
    ask()
    event.remove(connection, "before_cursor_execute", note)
    total_ms = 0.0
    for statement, given in statements:
        explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        (plan,) = connection.exec_driver_sql(explained, given).scalar_one()
        total_ms += plan["Planning Time"] + plan["Execution Time"]
    return total_ms


BENCHMARKS = (
    Benchmark(
        name="scale-memory",
        measures="the largest memory of a projector over 2,000,000 records",
        promise=Promise.AT_MOST,
        bound=300,
        unit=" MB",
        run=_memory,
    ),
    Benchmark(
        name="scale-batch",
        measures="time a batch at 1,000,000 images / at 10,000",
        promise=Promise.AT_MOST,
        bound=1.3,
        unit="x",
        run=_batch,
    ),
    Benchmark(
        name="scale-question",
        measures="history and as-of of an image among 1,000,000, in the server",
        promise=Promise.AT_MOST,
        bound=10,
        unit=" ms",
        run=_question,
    ),
    Benchmark(
        name="scale-lineage",
        measures="`image lineage` 10 deep among 1,000,000 images, in the server",
        promise=Promise.AT_MOST,
        bound=10,
        unit=" ms",
        run=_lineage,
    ),
)

"""Cold start of a Glance's images on PostgreSQL, each with data, a location and ten properties.

The bare loop reads the same pages of keys and the same rows, as many images at a time, by a plain
SELECT a table, and drops them: it makes no image of them and no event, locks no counter and writes
nothing. It reads by one connection, one page after the other; ours has JOBS transactions under way
at once, as by default, and what it does with one job is told beside.
Before each import the outbox is made anew. No relay runs, and the outbox has room for 20 million
events: with the default room an import waits for its relay, which is not measured here. Memory is
that of a process of its own, which tells its peak after a tenth of the images and at the end.
"""

import multiprocessing
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from sqlalchemy import Engine, select, text

from metaledger.producers import administration
from metaledger.producers.database import open_database, reading
from metaledger.producers.glance.source import KINDS
from metaledger.producers.glance.tables import IMAGES, LOCATIONS, PROPERTIES, TAGS
from metaledger.producers.importing import Importer, OnProgress, Progress
from metaledger.producers.live import JOBS, LiveWriter
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.source import pages
from metaledger.producers.tables import METADATA as OUTBOX
from tests.proofs.proof import running
from tests.servers.choice import new_postgres
from tests.servers.postgres import Sync

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .history import CONTEXT

_IMAGES = {Size.QUICK: 10_000, Size.FULL: 1_000_000}
_ROUNDS = {Size.QUICK: 3, Size.FULL: 1}
_KEYS, _AT_ONCE = 1_000, 200
_MEGABYTE = 1_000_000
_SETTINGS = ProducerSettings(service="benchmark", host="here", outbox_rows_max=20_000_000)
_START = multiprocessing.get_context("spawn")
(_IMAGE,) = KINDS
_TABLES = (
    (IMAGES, IMAGES.c.id),
    *((table, table.c.image_id) for table in (PROPERTIES, TAGS, LOCATIONS)),
)

_FILL = (
    """
    INSERT INTO images (id, name, status, owner, visibility, disk_format, container_format,
                        min_disk, min_ram, size, virtual_size, protected, os_hidden, deleted,
                        checksum, os_hash_algo, os_hash_value)
    SELECT md5(n::text)::uuid::text, 'image ' || n, 'active', md5((n % 500)::text), 'shared',
           'qcow2', 'bare', 10, 512, 1000000 + n, 1073741824, false, false, false,
           md5('c' || n), 'sha512', repeat(md5('h' || n), 4)
      FROM generate_series(1, :images) n""",
    """
    INSERT INTO image_properties (image_id, name, value, deleted)
    SELECT md5(n::text)::uuid::text, 'hw_property_' || k, md5((n * k)::text), false
      FROM generate_series(1, :images) n, generate_series(1, 10) k""",
    """
    INSERT INTO image_locations (image_id, deleted)
    SELECT md5(n::text)::uuid::text, false FROM generate_series(1, :images) n""",
    # What Glance's own tables have.
    "CREATE INDEX ON image_properties (image_id)",
    "CREATE INDEX ON image_locations (image_id)",
    "CREATE INDEX ON image_tags (image_id)",
    "ANALYZE",
)


def _rate(bench: Bench) -> Figure:
    count = _IMAGES[bench.size]
    with _glance(count) as engine:

        def ours() -> None:
            done = _import(engine)
            assert done.imported == count, done

        times = []
        for _ in range(_ROUNDS[bench.size]):
            _new_outbox(engine)
            times += bench.pairs(partial(_bare, engine), ours, rounds=1)
        _new_outbox(engine)
        alone_s = bench.seconds(lambda: _import(engine, jobs=1))
    bare_s, ours_s = map(min, zip(*times, strict=True))
    return figure(
        [bare / ours for bare, ours in times],
        f"{count / ours_s:,.0f} images a second by {JOBS} jobs, {count / alone_s:,.0f} by one, "
        f"beside {count / bare_s:,.0f} read by one connection; {count:,} in all",
    )


def _bare(engine: Engine) -> None:
    for keys in pages(engine, _IMAGE, keys_max=_KEYS):
        for at in range(0, len(keys), _AT_ONCE):
            some = keys[at : at + _AT_ONCE]
            with reading(engine) as connection:
                for table, key in _TABLES:
                    connection.execute(select(table).where(key.in_(some))).all()


def _import(
    engine: Engine, tell: OnProgress = lambda _progress: None, *, jobs: int = JOBS
) -> Progress:
    writer = LiveWriter(engine, _SETTINGS, jobs=jobs)
    return Importer(engine, writer, context=CONTEXT, on_progress=tell).run(_IMAGE)


def _memory(bench: Bench) -> Figure:
    count = _IMAGES[bench.size]
    ours, its = _START.Pipe()
    with _glance(count) as engine:
        url = engine.url.render_as_string(hide_password=False)
        child = _START.Process(target=_import_and_tell, args=(url, count, its))
        child.start()
        its.close()
        first, last = ours.recv(), ours.recv()
        child.join()
    return figure(
        [last / _MEGABYTE],
        f"{count:,} images; {first / _MEGABYTE:.0f} MB after a tenth of them",
    )


def _import_and_tell(url: str, count: int, pipe: Pipe) -> None:
    told = False

    def tell(progress: Progress) -> None:
        nonlocal told
        if not told and progress.done >= count // 10:
            told = True
            pipe.send(_peak_bytes())

    engine = open_database(url)
    assert _import(engine, tell).imported == count
    pipe.send(_peak_bytes())


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    (peak_kb,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak_kb) * 1024


@contextmanager
def _glance(images: int) -> Iterator[Engine]:
    """A database with so many images, and an outbox."""
    with running(lambda settings: new_postgres(settings, sync=Sync.ON)) as postgres:
        engine = open_database(postgres.create_database())
        IMAGES.metadata.create_all(engine)
        administration.install(engine)
        with engine.begin() as connection:
            for statement in _FILL:
                connection.execute(text(statement), {"images": images})
        try:
            yield engine
        finally:
            engine.dispose()


def _new_outbox(engine: Engine) -> None:
    OUTBOX.drop_all(engine)
    administration.install(engine)


BENCHMARKS = (
    Benchmark(
        name="import",
        measures="reading the rows, one by one connection / importing them by four jobs, no relay",
        promise=Promise.AT_LEAST,
        bound=0.5,
        unit="",
        run=_rate,
    ),
    Benchmark(
        name="import-memory",
        measures="the largest memory of an import",
        promise=Promise.AT_MOST,
        bound=200,
        unit=" MB",
        run=_memory,
    ),
)

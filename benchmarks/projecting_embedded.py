"""Projecting embedded, from one SQLite file into another, beside a bare loop.

The bare loop reads the values from the log's file, decodes them with fastavro and writes the rows
that it was told before, each in its last form and ready for the driver, by `executemany`. Both have
the same tables with the same indexes, a transaction each 2,000 records, WAL and
`synchronous=NORMAL`. After every round all tables are compared, row for row.
"""

import gc
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path

from fastavro import schemaless_reader

from metaledger.projector.database import connect
from metaledger.projector.project import bring_up_to_end
from metaledger.projector.readmodel import migrate
from metaledger.projector.store import Store
from metaledger.schemas.catalogue import BY_FINGERPRINT
from metaledger.schemas.codec import Codec
from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .projecting import BATCH_RECORDS, SETTINGS
from .readmodels import Batch, compare_files, rows_by_batch
from .workload import append, events

_EVENTS = {Size.QUICK: 20_000, Size.FULL: 100_000}
_ROUNDS = {Size.QUICK: 3, Size.FULL: 5}


def _run(bench: Bench) -> Figure:
    rounds, count = _ROUNDS[bench.size], _EVENTS[bench.size]
    path = bench.folder / "ledger.db"
    log = create_embedded_log(path)
    append(log.writer(), events(count))
    reference = _new(bench.folder / "reference.db")
    _project(log, reference)
    engine = connect(f"sqlite:///{reference}")
    batches = rows_by_batch(engine, batch_records=BATCH_RECORDS)
    engine.dispose()
    gc.collect()
    gc.freeze()  # the prepared rows are no part of either side
    ratios, rates = [], []
    for number in range(rounds):
        of_bare, of_ours = (_new(bench.folder / f"{name}-{number}.db") for name in ("bare", "ours"))
        _bind(log, of_bare)
        (pair,) = bench.pairs(
            lambda file=of_bare: _bare_loop(path, file, batches),
            lambda file=of_ours: _project(log, file),
            rounds=1,
        )
        compare_files(of_bare, of_ours)
        bench.say(f"bare {pair[0]:.2f} s, ours {pair[1]:.2f} s")
        ratios.append(pair[0] / pair[1])
        rates.append(count / pair[1])
        of_bare.unlink()
        of_ours.unlink()
    log.close()
    return figure(ratios, f"{sorted(rates)[rounds // 2]:,.0f} records/s")


def _new(path: Path) -> Path:
    engine = connect(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


def _bind(log: EmbeddedLog, path: Path) -> None:
    engine = connect(f"sqlite:///{path}")
    Store(engine).bind(log.topic_id, log.partitions)
    engine.dispose()


def _project(log: EmbeddedLog, path: Path) -> None:
    engine = connect(f"sqlite:///{path}")
    bring_up_to_end(log, Store(engine), Codec(), settings=SETTINGS)
    engine.dispose()


def _bare_loop(log: Path, read_model: Path, batches: Sequence[Batch]) -> None:
    with (
        closing(sqlite3.connect(log)) as source,
        closing(sqlite3.connect(read_model, isolation_level=None)) as target,
    ):
        target.execute("PRAGMA synchronous=NORMAL")
        target.execute("PRAGMA cache_size=-65536")
        values = source.execute("SELECT value FROM records ORDER BY offset")
        for batch in batches:
            for (value,) in values.fetchmany(batch.records):
                schemaless_reader(BytesIO(value[10:]), BY_FINGERPRINT[value[2:10]].parsed, None)
            _write(target, batch)


def _write(target: sqlite3.Connection, batch: Batch) -> None:
    target.execute("BEGIN IMMEDIATE")
    for table, rows in batch.rows.items():
        marks = ", ".join("?" for _ in table.columns)
        target.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
    target.execute(
        "UPDATE checkpoints SET next_offset = ?, last_recorded_at = ?",
        (batch.next_offset, batch.last_recorded_at),
    )
    target.execute("COMMIT")


BENCHMARKS = (
    Benchmark(
        name="projecting-embedded",
        measures="SQLite to SQLite: records a second against a bare loop that does not fold",
        promise=Promise.AT_LEAST,
        bound=0.5,
        unit="x",
        run=_run,
    ),
)

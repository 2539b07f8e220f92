"""The embedded ledger: a file of events into it, and what a projector costs those who write to it.

The bare loop of `emit` puts the same events into the same table with the same durability: what
json, fastavro and SQLite need, and nothing checked.
"""

import io
import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from fastavro import schemaless_writer

from metaledger.producers import administration
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.catalogue import latest
from metaledger.schemas.events import Draft, Event
from metaledger.schemas.identity import system_clock
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.log.embedded import create_embedded_log, open_embedded_log
from metaledger.schemas.times import time_text
from metaledger.services import cli

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .history import CONTEXT, history

_BATCH = 5_000
_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# What a person's file leaves out, and `emit` fills in.
_FILLED = ("event_id", "stream_id", "epoch", "stream_seq", "deployment_id", "aggregate")


def _emit(bench: Bench) -> Figure:
    file = bench.folder / "events.jsonl"
    count = _write_file(file, lives=2_000 if bench.size is Size.QUICK else 10_000)
    ledgers = (bench.folder / f"{number}.db" for number in range(100))

    def ours() -> None:
        with redirect_stdout(io.StringIO()):
            assert cli.run(["--ledger", f"sqlite:///{next(ledgers)}", "emit", str(file)]) == 0

    pairs = list(bench.pairs(lambda: _bare_emit(next(ledgers), file), ours, rounds=5))
    rates = [count / min(times) for times in zip(*pairs, strict=True)]
    return figure(
        [bare_s / ours_s for bare_s, ours_s in pairs],
        f"{rates[1]:,.0f} events a second beside {rates[0]:,.0f}, {count:,} in a file",
    )


def _bare_emit(ledger: Path, file: Path) -> None:
    with (
        closing(create_embedded_log(ledger)) as log,
        log.transaction() as connection,
        file.open(encoding="utf-8") as source,
    ):
        rows = _bare_rows(source)
        while batch := list(islice(rows, _BATCH)):
            connection.exec_driver_sql(_INSERT, batch)


def _bare_rows(source: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    numbers: Counter[str] = Counter()
    recorded_at = time_text(system_clock())
    for offset, line in enumerate(source):
        told = json.loads(line)
        data, meta = told["data"], told["meta"]
        schema, key = latest(told["type"]), f"image:{data['image_id']}"
        event_id = f"00000000-0000-7000-8000-{offset:012x}"
        numbers[key] += 1
        meta |= {"event_id": event_id, "aggregate": key, "stream_id": "stream", "epoch": 1}
        meta["stream_seq"] = numbers[key]
        meta["occurred_at"] = datetime.fromisoformat(meta["occurred_at"])
        if "deleted_at" in data:
            data["deleted_at"] = datetime.fromisoformat(data["deleted_at"])
        target = io.BytesIO()
        target.write(b"\xc3\x01" + schema.fingerprint)
        schemaless_writer(target, schema.parsed, {"meta": meta, **data})
        number = ("stream", 1, numbers[key])
        yield (offset, recorded_at, key, *number, event_id, target.getvalue(), b"\0" * 32)


def _write_file(file: Path, *, lives: int) -> int:
    events = list(history(lives))
    with file.open("w", encoding="utf-8") as target:
        for told in events:
            document = to_json(told)
            for name in _FILLED:
                del document["meta"][name]
            target.write(json.dumps(document) + "\n")
    return len(events)


def _p99(bench: Bench) -> Figure:
    """Appends of one event each, first alone, then while a projector works off a backlog, of which
    some has to be left at the last append.
    """
    appends, rounds = (200, 3) if bench.size is Size.QUICK else (2_000, 5)
    backlog = bench.folder / "backlog.jsonl"
    _write_file(backlog, lives=4_000 if bench.size is Size.QUICK else 40_000)
    ratios, seen = [], []
    for number in range(rounds):
        ledger = bench.folder / f"{number}.db"
        with redirect_stdout(io.StringIO()):
            cli.run(["--ledger", f"sqlite:///{ledger}", "emit", str(backlog)])
        events = history(2 * appends, first=1_000_000)
        alone_s = _p99_of_appends(ledger, islice(events, appends))
        behind = _end(ledger)
        with _projector(ledger, read_model := bench.folder / f"{number}-read.db"):
            beside_s = _p99_of_appends(ledger, islice(events, appends))
            left = behind - _checkpoint(read_model)
        assert left > 0, "the projector had nothing to do any more: this round shows nothing"
        bench.say(f"{left:,} of {behind:,} records were left")
        ratios.append(beside_s / alone_s)
        seen.append((alone_s, beside_s))
    alone_s, beside_s = (statistics.median(times) for times in zip(*seen, strict=True))
    return figure(ratios, f"{beside_s * 1e3:.1f} ms beside a projector, {alone_s * 1e3:.1f} alone")


def _p99_of_appends(ledger: Path, events: Iterator[Event]) -> float:
    settings = ProducerSettings(service="benchmark", host="here")
    outbox = Outbox(settings, settings.codec())
    times = []
    with closing(create_embedded_log(ledger)) as log:
        administration.install(log.engine)
        for told in events:
            draft = Draft(data=told.data, aggregate=told.meta.aggregate, context=CONTEXT)
            started = time.perf_counter()
            with log.transaction() as connection:
                log.append_in(connection, outbox.number(connection, [draft]))
            times.append(time.perf_counter() - started)
    return statistics.quantiles(times, n=100)[98]


def _end(ledger: Path) -> int:
    with closing(open_embedded_log(ledger)) as log:
        return log.bounds()[0][1]


def _checkpoint(read_model: Path) -> int:
    with closing(sqlite3.connect(read_model)) as connection:
        [(next_offset,)] = connection.execute("SELECT next_offset FROM checkpoints")
    return int(next_offset)


@contextmanager
def _projector(ledger: Path, read_model: Path) -> Iterator[None]:
    """A projector as its operator starts it; it has made its first batch when the body begins."""
    urls = ["--ledger", f"sqlite:///{ledger}", "--read-model", f"sqlite:///{read_model}"]
    command = [sys.executable, "-m", "metaledger.services", *urls, "--json", "project", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield
        finally:
            process.terminate()


BENCHMARKS = (
    Benchmark(
        name="emit",
        measures="json.loads, fastavro and executemany into the same table / `metaledger emit`",
        promise=Promise.AT_LEAST,
        bound=0.4,
        unit="",
        run=_emit,
    ),
    Benchmark(
        name="append-p99",
        measures="an emitter's 99th percentile beside a projector / without one (embedded)",
        promise=Promise.AT_MOST,
        bound=3,
        unit="",
        run=_p99,
    ),
)

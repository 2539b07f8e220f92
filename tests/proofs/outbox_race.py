"""16 writers race on each database while the relay runs: nothing is lost, doubled or inverted.

What was committed is told by the service's own table (`race_writers`), what arrived by the log. The
same comparison finds out the two wrong relays of `race_relays`.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Protocol

from sqlalchemy import Engine, insert, select

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event
from metaledger.schemas.log import LogWriter
from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log
from tests.servers import choice
from tests.servers.interface import Database
from tests.servers.settings import Settings

from .proof import Proof, Run, running
from .race_service import AGGREGATES, METADATA, SETTINGS, TABLES, new_engine, version_of
from .race_writers import Plan

WRITERS, PROCESSES = 16, 4
ROOT = Path(__file__).parents[2]


class Sends(Protocol):
    """A relay, right or wrong."""

    def run(self, stop: Flag) -> None:
        """Sends until it is stopped."""

    def drain(self) -> object:
        """Sends what is left."""


MakeRelay = Callable[[Engine, LogWriter], Sends]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the log lacks or has too much of, compared with the service's own table.

    As a reader sees it, who drops `repeats` by their id. `phantoms` tell of a change that was never
    committed; `misnumbered` have another number in their stream than the service's own count.
    """

    committed: int
    lost: int
    doubled: int
    inverted: int
    phantoms: int
    misnumbered: int
    repeats: int
    waiting: int
    retries: int

    def __str__(self) -> str:
        return (
            f"{self.committed:,} changes committed ({self.retries:,} transactions ran again): "
            f"{self.lost} lost, {self.doubled} doubled, {self.inverted} inverted, "
            f"{self.phantoms} never committed, {self.repeats} repeats"
        )

    @property
    def is_right(self) -> bool:
        """Whether the log tells what was committed, and nothing else."""
        wrong = (self.lost, self.doubled, self.inverted, self.phantoms, self.misnumbered)
        return not any(wrong) and not self.waiting


def race(url: str, make_relay: MakeRelay, *, commits: int, seed: str, folder: Path) -> Outcome:
    """Lets the writers race on an empty database, with the relay at work."""
    engine = open_database(url)
    _make_service(engine)
    log = create_embedded_log(folder / "log.db")
    stop = Flag()
    try:
        relay = make_relay(engine, log.writer())
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(relay.run, stop)
            try:
                retries = _write(url, commits=commits, seed=seed)
            finally:
                stop.set()
            sending.result()
        relay.drain()
        return _compared(engine, log, retries)
    finally:
        log.close()
        engine.dispose()


def our_relay(engine: Engine, writer: LogWriter) -> Relay:
    """The product's."""
    outbox = Outbox(SETTINGS, SETTINGS.codec())
    return Relay(engine, writer, outbox, partitions=1, owner="race")


def _make_service(engine: Engine) -> None:
    METADATA.create_all(engine)
    with engine.begin() as connection:
        for aggregate in AGGREGATES:
            kind, _, key = aggregate.partition(":")
            connection.execute(insert(TABLES[kind]), {"id": key, "version": 0})
    administration.install(engine)


def _write(url: str, *, commits: int, seed: str) -> int:
    """Runs the writers' processes to their end; returns how many transactions ran again."""
    processes = []
    for number in range(PROCESSES):
        plan = Plan(
            url=url,
            seed=f"{seed}/{number}",
            writers=WRITERS // PROCESSES,
            commits=commits // WRITERS,
        )
        command = [sys.executable, "-m", "tests.proofs.race_writers", plan.as_json()]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    told = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "a writer failed"
    return sum(map(int, told))


def _compared(engine: Engine, log: EmbeddedLog, retries: int) -> Outcome:
    with engine.connect() as connection:
        versions = {
            f"{kind}:{row.id}": row.version
            for kind, table in TABLES.items()
            for row in connection.execute(select(table))
        }
    told: dict[str, list[int]] = {aggregate: [] for aggregate in versions}
    seen: set[str] = set()
    misnumbered = repeats = 0
    for event in _told(log):
        if event.meta.event_id in seen:
            repeats += 1
            continue
        seen.add(event.meta.event_id)
        version = version_of(event.data)
        told[event.meta.aggregate].append(version)
        misnumbered += version != event.meta.stream_seq
    return Outcome(
        committed=sum(versions.values()),
        lost=sum(len({*range(1, versions[it] + 1)} - {*told[it]}) for it in versions),
        doubled=sum(len(it) - len(set(it)) for it in told.values()),
        inverted=sum(map(_inversions, told.values())),
        phantoms=sum(version > versions[which] for which, it in told.items() for version in it),
        misnumbered=misnumbered,
        repeats=repeats,
        waiting=administration.status(engine).rows_waiting,
        retries=retries,
    )


def _told(log: EmbeddedLog) -> Iterator[Event]:
    """The writers' events, in the log's order."""
    codec, offset = Codec(), 0
    while records := log.read(offset, records_max=10_000):
        offset = records[-1].position.offset + 1
        for record in records:
            event = codec.decode(record.value, record.sha256)
            if event.meta.aggregate.partition(":")[0] in TABLES:
                yield event


def _inversions(versions: Sequence[int]) -> int:
    """How many stand behind a higher one."""
    highest, count = 0, 0
    for version in versions:
        count += version < highest
        highest = max(highest, version)
    return count


@contextmanager
def database(name: str, folder: Path) -> Iterator[str]:
    """An empty database of this kind."""
    if name == "SQLite":
        url = f"sqlite:///{folder / 'service.db'}"
        new_engine(url).connect().close()
        yield url
        return
    with running(_SERVERS[name]) as server:
        yield server.create_database()


def check(run: Run) -> None:
    """Each database takes its share of the commits."""
    for name, share in _SHARES.items():
        folder = run.folder / name
        folder.mkdir()
        commits, seed = round(run.size * share), f"{run.seed}/{name}"
        with database(name, folder) as url:
            outcome = race(url, our_relay, commits=commits, seed=seed, folder=folder)
        run.say(f"{name}: {outcome}")
        assert outcome.is_right, outcome


_SERVERS: dict[str, Callable[[Settings], Database]] = {
    "PostgreSQL": choice.new_postgres,
    "MariaDB": choice.new_mariadb,
}
# SQLite has one writer: fifteen of the sixteen sleep.
_SHARES = {"PostgreSQL": 0.45, "MariaDB": 0.45, "SQLite": 0.1}

PROOF = Proof(
    name="outbox-race",
    promise="16 writers with delays and rollbacks: nothing lost, doubled, or out of order",
    unit="commits on PostgreSQL, MariaDB and SQLite",
    least=300,
    short=6_000,
    long=200_000,
    check=check,
)

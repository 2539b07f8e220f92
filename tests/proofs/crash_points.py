"""`crash-points`: emitter, relay and projector are killed at drawn points, and nothing is lost.

A life is a process that emits, relays and projects, and is killed (SIGKILL to itself) at one of
its points: before or behind a write, a commit, a send, an acknowledgement, a read. The next life
finds what it left, and may be killed over it too. Then one comes through that adds nothing, and the
read model must be what the oracle says: each time, row for row. Which kinds of points there are, a
life tells that nobody kills; each gets its turn.

What is compared grows with what is told, so there are several chains of lives, each with a ledger
of its own.
"""

import itertools
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from random import Random
from typing import Any

import structlog
from sqlalchemy import create_engine

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import RelaySettings
from metaledger.projector.project import Settings, bring_up_to_end
from metaledger.schemas.identity import system_clock, uuid7
from metaledger.schemas.log import Log, LogWriter, NewRecord, Outcome
from metaledger.schemas.log.embedded import create_embedded_log, open_embedded_log
from metaledger.schemas.log.kafka import KafkaSettings, create_topic, open_kafka_log
from tests.projector.ledgers import CODEC, Hooked
from tests.servers import choice
from tests.store.readmodels import dump, store_of

from .expected import assert_told, standing
from .points import Ask, ask_at_every_step
from .proof import Proof, Run, running
from .shop import SETTINGS, Shop, open_shop, told_by

# A dead relay's lease is soon over; small batches, so that there are many points.
_RELAY = RelaySettings(lease_s=0.05, batch_rows_max=5)
_PROJECTOR = Settings(batch_records_max=6, batch_time_max_s=0.05)
# Those of a hook's are many, for a statement is only prepared once it has run some times.
_EMITTED, _HOOKED = 2, 10
_CHAIN_KILLS_MAX = 50
_KILLED_AGAIN = 0.25
_PREPARED = "hook, prepared"
_LIFE_MAX_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a chain of lives keeps its three parts."""

    name: str
    service: str
    read_model: str
    log: Path | KafkaSettings

    def open_log(self) -> Log:
        if isinstance(self.log, Path):
            return open_embedded_log(self.log)
        return open_kafka_log(self.log)


@dataclass(frozen=True, slots=True)
class Ground:
    """What places are made of; `share` of the points are struck there."""

    name: str
    share: float
    new: Callable[[], Place]


@dataclass
class Fate:
    """Kills this process at the `nth` point of a kind; counts those that it passes."""

    kind: str | None = None
    nth: int = 1
    role: str = ""

    def __post_init__(self) -> None:
        self.passed: Counter[str] = Counter()

    def ask(self, step: str) -> None:
        kind = f"{self.role}: {step}"
        self.passed[kind] += 1
        if kind == self.kind and self.passed[kind] == self.nth:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class _AskingWriter:
    writer: LogWriter
    ask: Ask

    def append(self, records: Sequence[NewRecord]) -> Sequence[Outcome]:
        self.ask("before a send")
        outcomes = self.writer.append(records)
        self.ask("behind an acknowledgement")
        return outcomes

    def close(self) -> None:
        self.writer.close()


def live(place: Place, seed: int | None, fate: Fate, answer: Pipe) -> None:
    """One life, which emits nothing without a seed. Runs in a process of its own; tells at its end
    which points it passed.
    """
    errors_alone = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_alone)
    ask_at_every_step(fate.ask)
    if seed is not None:
        _emit(place, Random(seed), fate)
    _relay(place, fate)
    _project(place, fate)
    answer.send(fate.passed)


def _emit(place: Place, random: Random, fate: Fate) -> None:
    engine = create_engine(place.service)
    shop = Shop(engine, random)
    fate.role = "emitter"
    for _ in range(_EMITTED):
        shop.commit()
    for _ in range(_HOOKED):
        fate.role = _PREPARED if shop.has_prepared() else "hook"
        shop.commit_as_hook()
    engine.dispose()


def _relay(place: Place, fate: Fate) -> None:
    fate.role = "relay"
    engine = open_database(place.service)
    with closing(place.open_log()) as log:
        administration.bind(engine, log)
        with closing(_AskingWriter(log.writer(), fate.ask)) as writer:
            # The second one finds nothing and reports so: until then nothing is judged.
            for _ in range(2):
                relay = Relay(
                    engine,
                    writer,
                    Outbox(SETTINGS, SETTINGS.codec()),
                    partitions=log.partitions,
                    owner=uuid7(system_clock()),
                    settings=_RELAY,
                )
                while (done := relay.drain()).standby:
                    time.sleep(_RELAY.lease_s / 5)
                assert done.idle, done
    engine.dispose()


def _project(place: Place, fate: Fate) -> None:
    fate.role = "projector"

    def read(records: Any) -> Any:
        fate.ask("behind a read")
        return records

    with closing(place.open_log()) as log, store_of(place.read_model) as store:
        bring_up_to_end(Hooked(log, hook=read), store, CODEC, settings=_PROJECTOR)


class Lives:
    """The lives of one ground, one after the other, at one place after the other."""

    def __init__(self, random: Random) -> None:
        self.random = random
        # From a process with one thread and no connection, in which all is imported already.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self.points: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()

    def kinds(self) -> Iterator[str]:
        """Each kind of point in turn, without end; in another order each time."""
        while True:
            kinds = sorted(self.points)
            self.random.shuffle(kinds)
            yield from kinds

    def learn(self, place: Place) -> None:
        """A life that emits and that nobody kills, which tells what points there are."""
        passed = self._run(place, Fate(), self.random.getrandbits(32))
        assert passed is not None
        self.points = Counter({**self.points, **passed})

    def strike(self, place: Place, kind: str) -> None:
        """Lives until one has been killed at such a point."""
        while True:
            fate = Fate(kind, self.random.randint(1, self.points[kind]))
            passed = self._run(place, fate, self.random.getrandbits(32))
            if passed is None:
                self.struck[kind] += 1
                return
            # It had fewer such points than another before it.
            self.points[kind] = max(1, passed[kind])

    def compare(self, place: Place) -> int:
        """A life that relays and projects what others left, and that nobody kills; gives how many
        events the read model then rightly has.
        """
        assert self._run(place, Fate(), None) is not None
        return assert_told(place.read_model, told_by(place.service))

    def _run(self, place: Place, fate: Fate, seed: int | None) -> Counter[str] | None:
        """What it passed; None where it was killed. Raises where it ended in any other way."""
        mine, its = self._context.Pipe(duplex=False)
        process = self._context.Process(target=live, args=(place, seed, fate, its))
        process.start()
        its.close()
        process.join(_LIFE_MAX_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"a life did not end: {fate}")
        with mine:
            if process.exitcode == -signal.SIGKILL:
                return None
            assert process.exitcode == 0, f"exit status {process.exitcode} of {fate}"
            passed: Counter[str] = mine.recv()
            return passed


def check(run: Run) -> None:
    with grounds(run) as made:
        lived = {it.name: _lives(run, it, max(1, round(run.size * it.share))) for it in made}
    run.say("kills by point, on " + ", ".join(lived) + ":")
    for kind in sorted(set().union(*(lives.points for lives in lived.values()))):
        run.say("".join(f"{lives.struck[kind]:6}" for lives in lived.values()) + "  " + kind)
    prepared = [kind for kind in lived["postgresql"].points if kind.startswith(_PREPARED)]
    assert prepared, "no statement was prepared: this shows nothing of them"


def _lives(run: Run, ground: Ground, size: int) -> Lives:
    lives = Lives(Random(f"{run.seed} {ground.name}"))
    kinds, events = lives.kinds(), 0
    for first in range(0, size, _CHAIN_KILLS_MAX):
        place = ground.new()
        lives.learn(place)
        events_of_chain = lives.compare(place)
        for kind in itertools.islice(kinds, min(_CHAIN_KILLS_MAX, size - first)):
            lives.strike(place, kind)
            if lives.random.random() < _KILLED_AGAIN:
                lives.strike(place, next(kinds))
            events_of_chain = lives.compare(place)
        events += events_of_chain
        _assert_rebuilt(run, place)
    run.say(
        f"{ground.name}: killed {lives.struck.total()} times, and compared row for row after "
        f"{size}; {events} events, each there once"
    )
    return lives


def _assert_rebuilt(run: Run, place: Place) -> None:
    """What so many lives built is what one builds from the log."""
    rebuilt = f"sqlite:///{run.folder}/{place.name}-rebuilt.db"
    with closing(place.open_log()) as log, store_of(rebuilt) as store:
        bring_up_to_end(log, store, CODEC, settings=Settings())
    assert standing(dump(rebuilt)) == standing(dump(place.read_model))


@contextmanager
def grounds(run: Run) -> Iterator[list[Ground]]:
    """One all in SQLite, one with PostgreSQL's databases, and one whose log is in Kafka."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running(choice.new_postgres))
        broker = stack.enter_context(running(choice.new_broker))
        database, number = postgres.create_database, itertools.count(1)

        def new_log() -> Path:
            path = run.folder / f"log-{next(number)}.db"
            create_embedded_log(path).close()
            return path

        def new_topic() -> KafkaSettings:
            name = f"crash-points-{next(number)}"
            topic = KafkaSettings(bootstrap=broker.bootstrap, topic=name, send_timeout_s=60)
            create_topic(topic, partitions=2, replication=1)
            return topic

        def file() -> str:
            return f"sqlite:///{run.folder}/{next(number)}.db"

        yield [
            Ground("sqlite", 0.45, lambda: _made(f"{next(number)}", file(), file(), new_log())),
            Ground(
                "postgresql",
                0.45,
                lambda: _made(f"{next(number)}", database(), database(), new_log()),
            ),
            Ground(
                "kafka", 0.1, lambda: _made(f"{next(number)}", database(), database(), new_topic())
            ),
        ]


def _made(name: str, service: str, read_model: str, log: Path | KafkaSettings) -> Place:
    open_shop(service)
    engine = open_database(service)
    administration.install(engine)
    engine.dispose()
    with store_of(read_model):
        pass
    return Place(name=name, service=service, read_model=read_model, log=log)


PROOF = Proof(
    name="crash-points",
    promise="killed at any point, emitter, relay and projector lose nothing and double nothing",
    unit="kills",
    least=1,
    short=150,
    long=1_000,
    check=check,
)

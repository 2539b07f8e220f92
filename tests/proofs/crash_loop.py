"""`crash-loop`: everything is killed and frozen at random, for as long as one likes.

Two shops write through an outbox in PostgreSQL, two relays wait for it, two projectors share a
topic of Kafka and write into PostgreSQL: the real commands, as an operator starts them, and a
supervisor that starts again what has ended. Round after round some of them, the broker or the
database get SIGKILL, SIGSTOP or (PostgreSQL) an immediate shutdown. At the end of a round the shops
are ended, and when everything has arrived the read model must be what the oracle says.
"""

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import NullPool, create_engine, func, select, text

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.tables import outbox
from metaledger.schemas.log.kafka import KafkaSettings, create_topic, open_kafka_log
from metaledger.schemas.tables.ledger import checkpoints, marks
from tests.servers import choice
from tests.servers.interface import Broker, Postgres, Server
from tests.store.readmodels import engine_of, rows, store_of

from .daemons import Daemon
from .expected import assert_told
from .proof import Proof, Run, running
from .shop import open_shop, told_by

_TOPIC, _PARTITIONS = "crash-loop", 4
# Short times, so that many take-overs and time-outs fit into a round.
_CONFIGURATION = """\
ledger = "kafka://{bootstrap}/{topic}"
read_model = "{read_model}"
[kafka]
send_timeout_s = 4.0
session_timeout_s = 6.0
[relay]
outbox = "{service}"
lease_s = 5.0
poll_interval_s = 0.05
progress_interval_s = 2.0
backoff_max_s = 1.0
batch_rows_max = 50
[projector]
batch_records_max = 100
batch_time_max_s = 0.1
"""
_ROUND_S = 30.0
_DRAIN_S = 600.0
# What a daemon may end with by itself: something could not be reached when it started.
_UNREACHABLE = 3
# By us; with SIGTERM where it came before anybody listened to it.
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)


@dataclass
class Plant:
    """All parts, and what was done to them."""

    service: str
    read_model: str
    topic: KafkaSettings
    broker: Broker
    postgres: Postgres
    daemons: list[Daemon]
    shops: list[Daemon]
    random: Random
    done: Counter[str] = field(default_factory=Counter)
    # Who is in trouble: until when, and what ends it.
    troubles: dict[str, tuple[float, Callable[[], None]]] = field(default_factory=dict)

    def run(self, seconds: float) -> None:
        """A round: shops at work, and trouble."""
        for shop in self.shops:
            shop.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._supervise([*self.daemons, *self.shops])
            self._strike()
            pause_until = time.monotonic() + self.random.choice([0.1, 0.5, 2.0])
            while time.monotonic() < pause_until:
                time.sleep(0.05)
                self._end_troubles(time.monotonic())
        self._end_troubles(math.inf)

    def _supervise(self, daemons: Sequence[Daemon]) -> None:
        """Starts what has ended. Raises where it ended as it never should."""
        for daemon in daemons:
            if daemon.status not in {None, -signal.SIGKILL, _UNREACHABLE}:
                raise AssertionError(f"{daemon.name}: {daemon.status}\n{daemon.told()}")
            if daemon.status == _UNREACHABLE:
                self.done[f"{daemon.name} could not start"] += 1
            daemon.start()

    def _strike(self) -> None:
        """Brings one into trouble that is in none."""
        names = {"broker": self.broker, "postgres": self.postgres}
        parts: dict[str, Server] = {
            **names,
            **{daemon.name: daemon for daemon in (*self.daemons, *self.shops)},
        }
        name = self.random.choice([name for name in parts if name not in self.troubles])
        part = parts[name]
        troubles = [("killed", part.kill, part.start), ("frozen", part.pause, part.resume)]
        if part is self.postgres:
            troubles.append(("crashed", self.postgres.crash, part.start))
        what, begin, end = self.random.choice(troubles)
        self.done[f"{name} {what}"] += 1
        begin()
        # Some outlast a session, a lease or a time-out, and most do not.
        seconds = self.random.choice([0.1, 0.5, 2.0, 7.0])
        if name in names or what == "frozen":
            self.troubles[name] = (time.monotonic() + seconds, end)

    def _end_troubles(self, now: float) -> None:
        over = [name for name, (until, _) in self.troubles.items() if until <= now]
        for name in over:
            self.troubles.pop(name)[1]()

    def drain(self) -> None:
        """Ends the shops, and waits until all that they committed is projected and judged."""
        for shop in self.shops:
            shop.stop()
            assert shop.status in {0, *_KILLED}, shop.told()
        self._until(lambda: self._rows_waiting() == 0)
        ends = open_kafka_log(self.topic).bounds()
        self._until(lambda: all(at >= ends[n][1] for n, at in self._positions().items()))
        self._until(lambda: not self._marks())

    def _until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while not is_so():
            assert time.monotonic() < deadline, self._where_it_is()
            self._supervise(self.daemons)
            time.sleep(0.2)

    def _positions(self) -> dict[int, int]:
        # Before a projector has bound the log, none of them is there.
        with engine_of(self.read_model) as engine:
            found = {row["log_partition"]: row["next_offset"] for row in rows(engine, checkpoints)}
        return {partition: found.get(partition, 0) for partition in range(_PARTITIONS)}

    def _marks(self) -> Sequence[Mapping[str, Any]]:
        with engine_of(self.read_model) as engine:
            return rows(engine, marks)

    def _rows_waiting(self) -> int:
        # A relay tells of itself for ever.
        of_shops = ~outbox.c.aggregate.startswith("stream:")
        query = select(func.count()).select_from(outbox).where(of_shops)
        with create_engine(self.service, poolclass=NullPool).connect() as connection:
            return connection.scalar(query) or 0

    def _where_it_is(self) -> str:
        ends = open_kafka_log(self.topic).bounds()
        told = "\n".join(f"{daemon.name}:\n{daemon.told()}" for daemon in self.daemons)
        return f"{self._rows_waiting()} wait, {self._positions()} of {ends}\n{told}"

    def check(self) -> int:
        """The read model is the oracle's, and the outbox has no complaint; gives the events."""
        engine = open_database(self.service)
        status = administration.status(engine)
        engine.dispose()
        assert (status.unrecorded_aggregates, status.held_aggregates) == (0, 0), status
        return assert_told(self.read_model, told_by(self.service))

    def repeats(self) -> int:
        """How many records of the log are no event of their own."""
        records = sum(end for _, end in open_kafka_log(self.topic).bounds().values())
        query = text("SELECT count(*) FROM metaledger.ledger_events")
        with engine_of(self.read_model) as engine, engine.connect() as connection:
            return records - int(connection.execute(query).scalar_one())


def check(run: Run) -> None:
    with plant(run) as made:
        began = time.monotonic()
        while (left_s := run.size - (time.monotonic() - began)) > 0:
            made.run(min(_ROUND_S, left_s))
            made.drain()
            events = made.check()
            run.say(f"{time.monotonic() - began:4.0f} s: {events} events, each there once")
        for daemon in made.daemons:
            daemon.stop()
            assert daemon.status in {0, *_KILLED, _UNREACHABLE}, daemon.told()
        run.say(f"{made.repeats()} records came twice and were dropped; what was done:")
        for what, times in sorted(made.done.items()):
            run.say(f"    {times:4} {what}")


@contextmanager
def plant(run: Run) -> Iterator[Plant]:
    """Made and started; its processes end with it."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running(choice.new_postgres))
        broker = stack.enter_context(running(choice.new_broker))
        topic = KafkaSettings(bootstrap=broker.bootstrap, topic=_TOPIC)
        create_topic(topic, partitions=_PARTITIONS, replication=1)
        service, read_model = postgres.create_database(), postgres.create_database()
        open_shop(service)
        engine = open_database(service)
        administration.install(engine)
        engine.dispose()
        with store_of(read_model):
            pass
        configuration = run.folder / "metaledger.toml"
        configuration.write_text(
            _CONFIGURATION.format(
                bootstrap=broker.bootstrap, topic=_TOPIC, read_model=read_model, service=service
            )
        )
        made = Plant(
            service=service,
            read_model=read_model,
            topic=topic,
            broker=broker,
            postgres=postgres,
            daemons=_daemons(configuration),
            shops=[
                Daemon(f"shop-{n}", "tests.proofs.shop", [service, f"{run.seed}{n}"])
                for n in (1, 2)
            ],
            random=run.random,
        )
        for daemon in (*made.daemons, *made.shops):
            stack.callback(daemon.close)
            daemon.start()
        yield made


def _daemons(configuration: Path) -> list[Daemon]:
    relays = [Daemon.of_product(f"relay-{n}", configuration, "relay") for n in (1, 2)]
    project = ("project", "--follow", "--group", "projectors")
    projectors = [Daemon.of_product(f"projector-{n}", configuration, *project) for n in (1, 2)]
    return relays + projectors


PROOF = Proof(
    name="crash-loop",
    promise="whatever is killed or frozen, the read model is what the services committed",
    unit="seconds",
    least=10,
    short=60,
    long=300,
    check=check,
)

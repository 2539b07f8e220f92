"""The writers of the race: a program of its own, as one process of the service would be.

Each image has a version in a table of the service's own, which every change raises by one. So the
truth is the service's: what was committed of an image is 1, 2, 3 … up to its version, in this
order, and its row's lock, not ours, made the order. Each event tells the version that it made.

A transaction changes one image or more, waits where it may hurt (before the event is written, and
behind it, before the commit), and is rolled back one time in ten. What the database ends (deadlock,
busy) runs again, as a service's does. Events go through the emitter or straight into the outbox, so
that rows of the outbox stand uncommitted for as long as the longest transaction.

    python -m tests.proofs.race_writers PLAN      with the plan as JSON; prints how often it retried
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    select,
    update,
)
from sqlalchemy.exc import OperationalError

from metaledger.producers.emitter import Emitter
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.events import Draft
from metaledger.schemas.image import ImageUpdated, Mode, PropertyChange

IMAGES = 200
ROLLED_BACK = 0.1
SEVERAL = 0.2
EMITTED = 0.5
SHORT, SHORT_S = 0.1, 0.02
# Sixteen writers soon stand behind a long one; on SQLite all of them at once.
LONG, LONG_S = 0.001, 2.0

images = Table(
    "images",
    MetaData(),
    Column("id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a process of writers does: `commits` of each of them, and nothing but by the seed."""

    url: str
    seed: str
    writers: int
    commits: int

    def as_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One transaction, drawn before it is tried: a retry does the same again."""

    images: tuple[str, ...]
    is_emitted: bool
    is_committed: bool
    delays_s: tuple[float, float]


def service_engine(url: str) -> Engine:
    """As a service opens its database."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
    return engine


def draw(random: Random) -> Change:
    """The next change."""
    several = random.random() < SEVERAL
    chosen = random.sample(range(IMAGES), random.randint(2, 3) if several else 1)
    return Change(
        # In one order, or the service would deadlock with itself.
        images=tuple(f"image-{number:02}" for number in sorted(chosen)),
        is_emitted=random.random() < EMITTED,
        is_committed=random.random() >= ROLLED_BACK,
        delays_s=(_delay_s(random), _delay_s(random)),
    )


class Writer:
    """One writer, with a connection of its own."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._engine = service_engine(plan.url)
        self._outbox = Outbox(SETTINGS, SETTINGS.codec())
        self._emitter = Emitter(self._outbox)
        self._random = Random(f"{plan.seed}/{number}")
        self._commits = plan.commits

    def run(self) -> int:
        """Commits as often as planned; returns how many transactions had to run again."""
        retries, left = 0, self._commits
        while left:
            change = draw(self._random)
            while not self._done(change):
                retries += 1
            left -= change.is_committed
        assert self._outbox.failures == 0, "an error was swallowed"
        self._engine.dispose()
        return retries

    def _done(self, change: Change) -> bool:
        try:
            with self._engine.connect() as connection:
                self._apply(connection, change)
                if change.is_committed:
                    connection.commit()
        except OperationalError:
            return False
        return True

    def _apply(self, connection: Connection, change: Change) -> None:
        early, late = change.delays_s
        for image in change.images:
            drafts = [draft(image, _raised(connection, image))]
            if change.is_emitted:
                self._emitter.emit(connection, drafts)
            else:
                self._outbox.record(connection, drafts)
            time.sleep(early / len(change.images))
        time.sleep(late)


def draft(image: str, version: int) -> Draft:
    """The event that tells that the image has this version."""
    change = PropertyChange(mode=Mode.MERGE, set={"version": str(version)})
    data = ImageUpdated(image_id=image, change=change)
    return Draft(data=data, aggregate=data.aggregate, context=SETTINGS.context())


def _raised(connection: Connection, image: str) -> int:
    which = images.c.id == image
    connection.execute(update(images).where(which).values(version=images.c.version + 1))
    version: int = connection.execute(select(images.c.version).where(which)).scalar_one()
    return version


def _delay_s(random: Random) -> float:
    drawn = random.random()
    if drawn < LONG:
        return random.uniform(LONG_S / 4, LONG_S)
    return random.uniform(0, SHORT_S) if drawn < SHORT else 0


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=60000")


SETTINGS = ProducerSettings(service="race", host="race-1")


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    with ThreadPoolExecutor(plan.writers) as pool:
        print(sum(pool.map(lambda number: Writer(plan, number).run(), range(plan.writers))))


if __name__ == "__main__":
    main()

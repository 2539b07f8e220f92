"""A service with images, instances and hypervisors of its own that tells of its changes, and knows
what it committed.

In the transaction of a change stand the rows of `told` with the events that go with it. So the
service's own database says what the ledger must come to hold. It tells in both ways there are: as a
program with an emitter, and as the hooks do it (`producers/watching`).

`python -m tests.proofs.shop URL SEED` is such a service as a process: it commits until it is ended,
and tries again whatever its database does meanwhile.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    create_engine,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from metaledger.producers.counters import Counter
from metaledger.producers.emitter import Emitter
from metaledger.producers.gathering import Gathering
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.events import Draft, StreamNumber, recorded
from metaledger.schemas.identity import uuid7
from metaledger.schemas.jsonform import to_json

from .happenings import HYPERVISORS, IMAGES, INSTANCES, happens

SETTINGS = ProducerSettings(service="shop", host="shop-1")
# In sorted order, or two shops would wait for each other's.
AGGREGATES = sorted(
    [f"image:image-{n}" for n in range(IMAGES)]
    + [f"instance:instance-{n}" for n in range(INSTANCES)]
    + [f"hypervisor:hypervisor-{n}" for n in range(HYPERVISORS)]
)

_METADATA = MetaData()
# The row of an aggregate is its lock; `held` is null where it is not there.
shelf = Table(
    "shelf",
    _METADATA,
    Column("aggregate", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("held", Text),
)
told = Table(
    "told",
    _METADATA,
    Column("aggregate", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("event", Text, nullable=False),
)

# Takes what one transaction tells of an aggregate, which it was made for before the change.
_Teller = Callable[[Sequence[Draft]], None]


@dataclass
class Shop:
    """The service in one process; `random` decides what it does."""

    engine: Engine
    random: Random

    def __post_init__(self) -> None:
        self._outbox = Outbox(SETTINGS, SETTINGS.codec())
        self._outbox.listen(self.engine)
        self._emitter = Emitter(self._outbox)
        self._hooked = Gathering[tuple[Draft, Mapping[str, Counter]]](self._record)

    def commit(self) -> None:
        """One transaction of one to three changes; one in ten is rolled back after all.

        Raises DBAPIError where the database is away: then nobody knows whether it was committed.
        """
        some = self.random.sample(range(len(AGGREGATES)), self.random.randint(1, 3))
        self._commit([AGGREGATES[number] for number in sorted(some)], self._by_emitter)

    def commit_as_hook(self) -> None:
        """As `commit`, of one change, told by its counter as the hooks have it."""
        self._commit([self.random.choice(AGGREGATES)], self._by_hook)

    def has_prepared(self) -> bool:
        """Whether its connection keeps statements prepared by now."""
        if self.engine.dialect.name != "postgresql":
            return False
        with self.engine.connect() as connection:
            return bool(connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")))

    def _commit(
        self, aggregates: Sequence[str], teller: Callable[[Connection, str], _Teller]
    ) -> None:
        with self.engine.connect() as connection:
            transaction = connection.begin()
            for aggregate in aggregates:
                if self.random.random() < 0.1:
                    savepoint = connection.begin_nested()
                    self._change(connection, aggregate, teller)
                    savepoint.rollback()
                self._change(connection, aggregate, teller)
            if self.random.random() < 0.1:
                transaction.rollback()
            else:
                transaction.commit()

    def _change(
        self,
        connection: Connection,
        aggregate: str,
        teller: Callable[[Connection, str], _Teller],
    ) -> None:
        this = shelf.c.aggregate == aggregate
        connection.execute(update(shelf).where(this).values(version=shelf.c.version))
        tell = teller(connection, aggregate)
        version, kept = connection.execute(select(shelf.c.version, shelf.c.held).where(this)).one()
        now = datetime.now(UTC)
        held = None if kept is None else json.loads(kept)
        happening = happens(self.random, aggregate, held, now)
        after = None if happening.held is None else json.dumps(happening.held)
        last = version + len(happening.events)
        connection.execute(update(shelf).where(this).values(version=last, held=after))
        context = replace(SETTINGS.context(), request_id=happening.request_id)
        drafts = []
        for stream_seq, data in enumerate(happening.events, start=version + 1):
            draft = Draft(
                data=data,
                aggregate=aggregate,
                context=context,
                event_id=uuid7(now),
                occurred_at=now,
            )
            number = StreamNumber(stream_id="shop", epoch=1, stream_seq=stream_seq)
            event = to_json(recorded(draft, event_id="", number=number, occurred_at=now))
            row = {"aggregate": aggregate, "version": stream_seq, "event": json.dumps(event)}
            connection.execute(insert(told), row)
            drafts.append(draft)
        tell(drafts)

    def _by_emitter(self, connection: Connection, _: str) -> _Teller:
        return lambda drafts: self._emitter.emit(connection, drafts)

    def _by_hook(self, connection: Connection, aggregate: str) -> _Teller:
        """The counter is locked before the before-image is read."""
        held: Mapping[str, Counter] = {}
        with self._outbox.shield(connection, [aggregate]):
            locked = self._outbox.locking(connection, aggregate)
            connection.execute(select(shelf).where(shelf.c.aggregate == aggregate)).one()
            held = locked()
        return lambda drafts: self._hooked.add(connection, [(draft, held) for draft in drafts])

    def _record(
        self, connection: Connection, gathered: Sequence[tuple[Draft, Mapping[str, Counter]]]
    ) -> None:
        held = {name: counter for _, its in gathered for name, counter in its.items()}
        with self._outbox.shield_commit(connection, sorted(held)):
            self._outbox.record(connection, [draft for draft, _ in gathered], held=held)


def open_shop(url: str) -> None:
    """Makes the service's own tables."""
    engine = create_engine(url, poolclass=NullPool)
    _METADATA.create_all(engine)
    with engine.begin() as connection:
        new = [{"aggregate": it, "version": 0, "held": None} for it in AGGREGATES]
        connection.execute(insert(shelf), new)


def told_by(url: str) -> list[dict[str, Any]]:
    """The committed events in their JSON form; those of an aggregate in their order."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        query = select(told.c.event).order_by(told.c.aggregate, told.c.version)
        return [json.loads(event) for event in connection.scalars(query)]


def _serve(url: str, seed: int) -> None:
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    shop = Shop(create_engine(url, pool_pre_ping=True), Random(seed))
    while not ended:
        try:
            shop.random.choice([shop.commit, shop.commit_as_hook])()
        except DBAPIError:
            time.sleep(0.2)  # as a service's own retry
        time.sleep(0.01)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))

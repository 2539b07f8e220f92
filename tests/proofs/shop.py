"""A service with images and instances of its own that emits with its changes, and knows what it
committed.

In the transaction of a change stands a row of `told` with the event that goes with it. So the
service's own database says what the ledger must come to hold.

`python -m tests.proofs.shop URL SEED` is such a service as a process: it commits until it is ended,
and tries again whatever its database does meanwhile.
"""

import json
import signal
import sys
import time
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
    update,
)
from sqlalchemy.exc import DBAPIError

from metaledger.producers.emitter import Emitter
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.events import Draft, EventData, StreamNumber, recorded
from metaledger.schemas.identity import uuid7
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceDeleted,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceSystemMetadataSaved,
    RelocationCause,
    SnapshotPurpose,
    SnapshotTaken,
)
from metaledger.schemas.jsonform import to_json

SETTINGS = ProducerSettings(service="shop", host="shop-1")
IMAGES, INSTANCES = 40, 10
# In sorted order, or two shops would wait for each other's.
AGGREGATES = sorted(
    [f"image:image-{n}" for n in range(IMAGES)]
    + [f"instance:instance-{n}" for n in range(INSTANCES)]
)
_KEYS = ("a", "b", "c", "d", "image_type", "os_glance_import")
# What an image says it was made from, for whoever asks where it descends from.
_BASE = "base_image_ref"
_VALUES = (None, "", "1", "2", "snapshot", "\u202e\U0001f4be")

_METADATA = MetaData()
# The row of an aggregate is its lock; `properties` (an instance's system metadata) is null where it
# is not there.
shelf = Table(
    "shelf",
    _METADATA,
    Column("aggregate", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("properties", Text),
)
told = Table(
    "told",
    _METADATA,
    Column("aggregate", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("event", Text, nullable=False),
)


@dataclass
class Shop:
    """The service in one process; `random` decides what it does."""

    engine: Engine
    random: Random

    def __post_init__(self) -> None:
        self._emitter = Emitter(Outbox(SETTINGS, SETTINGS.codec()))

    def commit(self) -> None:
        """One transaction of one to three changes; one in ten is rolled back after all.

        Raises DBAPIError where the database is away: then nobody knows whether it was committed.
        """
        some = self.random.sample(range(len(AGGREGATES)), self.random.randint(1, 3))
        with self.engine.connect() as connection:
            transaction = connection.begin()
            for aggregate in (AGGREGATES[number] for number in sorted(some)):
                if self.random.random() < 0.1:
                    self._change_and_undo(connection, aggregate)
                self._change(connection, aggregate)
            if self.random.random() < 0.1:
                transaction.rollback()
            else:
                transaction.commit()

    def _change_and_undo(self, connection: Connection, aggregate: str) -> None:
        savepoint = connection.begin_nested()
        self._change(connection, aggregate)
        savepoint.rollback()

    def _change(self, connection: Connection, aggregate: str) -> None:
        this = shelf.c.aggregate == aggregate
        connection.execute(update(shelf).where(this).values(version=shelf.c.version + 1))
        version, text = connection.execute(
            select(shelf.c.version, shelf.c.properties).where(this)
        ).one()
        held = None if text is None else json.loads(text)
        now = datetime.now(UTC)
        kind, _, name = aggregate.partition(":")
        happens = change if kind == "image" else change_instance
        data, after = happens(self.random, name, held, now)
        kept = None if after is None else json.dumps(after)
        connection.execute(update(shelf).where(this).values(properties=kept))
        draft = Draft(
            data=data,
            aggregate=aggregate,
            context=SETTINGS.context(),
            event_id=uuid7(now),
            occurred_at=now,
        )
        number = StreamNumber(stream_id="shop", epoch=1, stream_seq=version)
        event = recorded(draft, event_id="", number=number, occurred_at=now)
        row = {"aggregate": aggregate, "version": version, "event": json.dumps(to_json(event))}
        connection.execute(insert(told), row)
        self._emitter.emit(connection, [draft])


Properties = dict[str, str | None]


def change(
    random: Random, image_id: str, held: Properties | None, now: datetime
) -> tuple[EventData, Properties | None]:
    """What happens next to an image, and its properties then; None where there is no image."""
    if held is None:
        first = _some(random)
        return ImageRegistered(image_id=image_id, status="queued", properties=first), first
    if random.random() < 0.05:
        return ImageDeleted(image_id=image_id, deleted_at=now), None
    changed = _merge(random, held) if random.random() < 0.5 else _purge(random, held)
    after = dict(changed.after or {})
    if random.random() < 0.2:
        told_too = {"before": None, "after": None} if random.random() < 0.5 else {}
        changed = replace(changed, **told_too)
    if random.random() < 0.1:
        size = random.randrange(1 << 40)
        if random.random() < 0.5:
            instance = f"instance-{random.randrange(INSTANCES)}"
            snapshot = SnapshotUploaded(
                image_id=image_id,
                instance_uuid=instance,
                size=size,
                status="active",
                change=changed,
            )
            return snapshot, after
        upload = ImageDataUploaded(image_id=image_id, size=size, status="active", change=changed)
        return upload, after
    attributes = {"name": random.choice("xyz")} if random.random() < 0.3 else {}
    return ImageUpdated(image_id=image_id, attributes=attributes, change=changed), after


def change_instance(
    random: Random, uuid: str, held: Properties | None, now: datetime
) -> tuple[EventData, Properties | None]:
    """What happens next to an instance, and its system metadata then; None where there is none."""
    image = _image(random)
    first: Properties = {"image_base_image_ref": image, **_metadata(random)}
    if held is None:
        boot = InstanceBooted(instance_uuid=uuid, image_ref=image, system_metadata=first)
        return boot, first
    saved = {**held, **_metadata(random)}
    place = random.choice("12")
    return random.choice(
        [
            (InstanceDeleted(instance_uuid=uuid, deleted_at=now), None),
            (InstanceRebuilt(instance_uuid=uuid, image_ref=image, before=held, after=first), first),
            (
                InstanceSystemMetadataSaved(
                    instance_uuid=uuid, operation="save", before=held, after=saved
                ),
                saved,
            ),
            (
                InstanceRelocated(
                    instance_uuid=uuid,
                    cause=RelocationCause.LIVE_MIGRATION,
                    to_hypervisor_id=f"hypervisor-{place}",
                    to_host=f"host-{place}",
                ),
                held,
            ),
            (
                SnapshotTaken(
                    instance_uuid=uuid,
                    snapshot_image_id=_image(random),
                    image_ref=random.choice([None, held["image_base_image_ref"]]),
                    purpose=SnapshotPurpose.SNAPSHOT,
                ),
                held,
            ),
        ]
    )


def _metadata(random: Random) -> Properties:
    return {f"image_{key}": value for key, value in _some(random).items()}


def _merge(random: Random, held: Properties) -> PropertyChange:
    new = _some(random)
    removed = tuple(key for key in held if key not in new and random.random() < 0.2)
    after = {key: value for key, value in {**held, **new}.items() if key not in removed}
    return PropertyChange(mode=Mode.MERGE, set=new, removed=removed, before=held, after=after)


def _purge(random: Random, held: Properties) -> PropertyChange:
    """All is sent back that was read, and what was not read is lost."""
    seen = {key: value for key, value in held.items() if random.random() < 0.9}
    new = {key: value for key, value in seen.items() if random.random() < 0.8} | _some(random)
    return PropertyChange(mode=Mode.PURGE, set=new, seen=tuple(seen), before=held, after=new)


def _some(random: Random) -> Properties:
    some = {key: random.choice(_VALUES) for key in _KEYS if random.random() < 0.3}
    return some | ({_BASE: _image(random)} if random.random() < 0.2 else {})


def _image(random: Random) -> str:
    return f"image-{random.randrange(IMAGES)}"


def open_shop(url: str) -> None:
    """Makes the service's own tables."""
    engine = create_engine(url, poolclass=NullPool)
    _METADATA.create_all(engine)
    with engine.begin() as connection:
        new = [{"aggregate": it, "version": 0, "properties": None} for it in AGGREGATES]
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
            shop.commit()
        except DBAPIError:
            time.sleep(0.2)  # as a service's own retry
        time.sleep(0.01)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))

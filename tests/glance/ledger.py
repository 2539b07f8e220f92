"""What the outbox of a Glance under test holds, and what EVENTS.md makes of it, told naively."""

from collections.abc import Sequence

from sqlalchemy import NullPool, create_engine, text

from metaledger.producers.administration import install
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    Properties,
    PropertyChange,
    SnapshotUploaded,
)

READ = text("SELECT value, sha256 FROM metaledger_outbox ORDER BY aggregate, stream_seq")


def install_outbox(database_url: str) -> None:
    """What `metaledger outbox install` does."""
    install(create_engine(database_url, poolclass=NullPool))


def recorded(database_url: str, image_id: str | None = None) -> list[Event]:
    """The events in the outbox, of one image or of all, in each image's order."""
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        rows = connection.execute(READ).all()
    codec = Codec()
    events = [codec.decode(bytes(row.value), bytes(row.sha256)) for row in rows]
    return [it for it in events if image_id is None or it.meta.aggregate == f"image:{image_id}"]


def recorded_bytes(database_url: str) -> bytes:
    """All bytes of all events in the outbox."""
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        return b"".join(bytes(row.value) for row in connection.execute(READ))


def changes(events: Sequence[Event]) -> list[PropertyChange]:
    """The changes of properties in these events."""
    carriers = ImageUpdated | ImageDataUploaded | SnapshotUploaded
    return [event.data.change for event in events if isinstance(event.data, carriers)]


def live_properties(events: Sequence[Event]) -> dict[str, str | None]:
    """The properties that the events leave, by EVENTS.md alone, never by `after`."""
    live: dict[str, str | None] = {}
    for event in events:
        if isinstance(event.data, ImageRegistered):
            live = dict(event.data.properties)
        elif isinstance(event.data, ImageDeleted):
            live = {}
        else:
            for change in changes([event]):
                live = folded(change, live)
    return live


def folded(change: PropertyChange, live: Properties) -> dict[str, str | None]:
    """EVENTS.md, "Folding properties", in its own words."""
    if change.mode is Mode.MERGE:
        overlaid = {**live, **change.set}
        return {key: overlaid[key] for key in overlaid if key not in (change.removed or ())}
    spared = {key: live[key] for key in live if key in change.exempt and key not in change.set}
    return {**change.set, **spared}


def lost(events: Sequence[Event]) -> dict[str, str | None]:
    """The properties, with the values they had, that a purge ended and no caller decided."""
    result: dict[str, str | None] = {}
    live: dict[str, str | None] = {}
    for event in events:
        for change in changes([event]):
            decided = change.seen or () if change.removed is None else change.removed
            ended = live.keys() - folded(change, live).keys()
            result.update({key: live[key] for key in ended if key not in decided})
        live = live_properties([*events[: events.index(event)], event])
    return result

"""The service whose writers race: its one table, and what a hook has to know of it.

Each image has a version, which every change raises by one. Whoever changes it says how often
(`note`), so that what the hook tells is only true where its before-image is.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    make_url,
    select,
    update,
)

from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.watching.service import Change, Reading, Service, Watched
from metaledger.producers.watching.union import Main, MainRow, Union
from metaledger.producers.watching.watch import Watcher, watch
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import system_clock
from metaledger.schemas.image import ImageUpdated, Mode, PropertyChange

IMAGES = 200
SETTINGS = ProducerSettings(service="race", host="race-1")

images = Table(
    "images",
    MetaData(),
    Column("id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("deleted", Boolean, nullable=False, default=False),
)
# The hook locks the counter before the row, and who emits behind it: they meet crosswise.
_IMPATIENT = {"options": "-c deadlock_timeout=50ms"}
_UNION = Union(Main(table=images, key=images.c.id, read={"version": images.c.version}))


def new_engine(url: str) -> Engine:
    """As a service opens its database."""
    is_postgresql = make_url(url).get_backend_name() == "postgresql"
    engine = create_engine(url, connect_args=_IMPATIENT if is_postgresql else {})
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
    return engine


def hooked(engine: Engine, outbox: Outbox) -> Callable[[Connection, str, int], None]:
    """Has the engine watched, as the plugin does; gives `note` (the image was raised so often)."""
    service: Service[int] = Service(
        name="race",
        tables={images.name: Watched(kind="image", key="id", registers=True)},
        read=_read,
        happened=_happened,
        # All were made with the outbox, at version 0.
        imported=lambda *_: (),
        reconciled=lambda *_: (),
        request=lambda: None,
        install=lambda: None,
    )
    watcher = Watcher(service, outbox=outbox, context=SETTINGS.context, clock=system_clock)
    watch(engine, [watcher])

    def note(connection: Connection, image: str, raised: int) -> None:
        service.transactions.note(connection, f"image:{image}", raised)

    return note


def raised(connection: Connection, image: str) -> int:
    """Raises the image's version; returns it."""
    which = images.c.id == image
    connection.execute(update(images).where(which).values(version=images.c.version + 1))
    version: int = connection.execute(select(images.c.version).where(which)).scalar_one()
    return version


def draft(image: str, version: int) -> Draft:
    """The event that tells that the image has this version."""
    data = _updated(image, version)
    return Draft(data=data, aggregate=data.aggregate, context=SETTINGS.context())


def _updated(image: str, version: int) -> ImageUpdated:
    change = PropertyChange(mode=Mode.MERGE, set={"version": str(version)})
    return ImageUpdated(image_id=image, change=change)


def _read(connection: Connection, aggregates: Collection[str]) -> Reading[int]:
    rows = _UNION.rows(connection, [it.removeprefix("image:") for it in aggregates])
    return Reading(
        {f"image:{it.id}": it.columns["version"] for it in rows if isinstance(it, MainRow)}
    )


def _happened(_connection: Connection, change: Change[int]) -> Sequence[ImageUpdated]:
    assert isinstance(change.before, int)
    assert isinstance(change.note, int)
    return [_updated(change.aggregate.removeprefix("image:"), change.before + change.note)]


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=60000")

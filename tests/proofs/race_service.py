"""The service whose writers race: its tables, and what a hook has to know of them.

It has images, instances and hypervisors. Each has a version, which every change raises by one, and
tells it in an event of its kind; those of an instance are its disk's every other time. Whoever
changes it says how often (`note`), so that what the hook tells is only true where its before-image
is.
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
from metaledger.schemas.disk import DiskLayout, DiskLayoutChanged, DiskSource, SourceKind
from metaledger.schemas.events import Draft, EventData
from metaledger.schemas.hypervisor import HypervisorHostChanged
from metaledger.schemas.identity import system_clock
from metaledger.schemas.image import ImageUpdated, Mode, PropertyChange
from metaledger.schemas.instance import InstanceSystemMetadataSaved

SETTINGS = ProducerSettings(service="race", host="race-1")

METADATA = MetaData()
TABLES = {
    kind: Table(
        f"{kind}s",
        METADATA,
        Column("id", String(64), primary_key=True),
        Column("version", Integer, nullable=False),
        Column("deleted", Boolean, nullable=False, default=False),
    )
    for kind in ("image", "instance", "hypervisor")
}
# In one order, or the service would deadlock with itself.
AGGREGATES = sorted(
    [f"image:{number:02}" for number in range(90)]
    + [f"instance:{number:02}" for number in range(90)]
    + [f"hypervisor:{number:02}" for number in range(20)]
)
# The hook locks the counter before the row, and who emits behind it: they meet crosswise.
_IMPATIENT = {"options": "-c deadlock_timeout=50ms"}
_UNIONS = {
    kind: Union(Main(table=table, key=table.c.id, read={"version": table.c.version}))
    for kind, table in TABLES.items()
}


def new_engine(url: str) -> Engine:
    """As a service opens its database."""
    is_postgresql = make_url(url).get_backend_name() == "postgresql"
    engine = create_engine(url, connect_args=_IMPATIENT if is_postgresql else {})
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
    return engine


def hooked(engine: Engine, outbox: Outbox) -> Callable[[Connection, str, int], None]:
    """Has the engine watched, as the plugin does; gives `note` (what was raised so often)."""
    service: Service[int] = Service(
        name="race",
        tables={
            table.name: Watched(kind=kind, key="id", registers=True)
            for kind, table in TABLES.items()
        },
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
    return service.transactions.note


def raised(connection: Connection, aggregate: str) -> int:
    """Raises the aggregate's version; returns it."""
    kind, _, key = aggregate.partition(":")
    table = TABLES[kind]
    which = table.c.id == key
    connection.execute(update(table).where(which).values(version=table.c.version + 1))
    version: int = connection.execute(select(table.c.version).where(which)).scalar_one()
    return version


def draft(aggregate: str, version: int) -> Draft:
    """The event that tells that the aggregate has this version."""
    return Draft(data=_told(aggregate, version), aggregate=aggregate, context=SETTINGS.context())


def version_of(data: EventData) -> int:
    """The version that an event tells."""
    match data:
        case ImageUpdated():
            return int(data.change.set["version"] or 0)
        case InstanceSystemMetadataSaved():
            return int(data.after["version"] or 0)
        case DiskLayoutChanged():
            return data.layout.size_bytes
        case HypervisorHostChanged():
            return int(data.to_host)
        case _:
            raise AssertionError(data)


def _told(aggregate: str, version: int) -> EventData:
    kind, _, key = aggregate.partition(":")
    named = {"version": str(version)}
    match kind:
        case "image":
            return ImageUpdated(image_id=key, change=PropertyChange(mode=Mode.MERGE, set=named))
        case "hypervisor":
            hosts = {"from_host": str(version - 1), "to_host": str(version)}
            return HypervisorHostChanged(hypervisor_id=key, **hosts)
    if version % 2:
        return InstanceSystemMetadataSaved(instance_uuid=key, operation="race", after=named)
    source = DiskSource(kind=SourceKind.FUNCTION, function="mkfs")
    layout = DiskLayout(
        version="1", backend="qcow2", format="qcow2", size_bytes=version, source=source
    )
    return DiskLayoutChanged(instance_uuid=key, disk="disk", layout=layout, reason="race")


def _read(connection: Connection, aggregates: Collection[str]) -> Reading[int]:
    states: dict[str, int] = {}
    for kind, union in sorted(_UNIONS.items()):
        keys = [it.removeprefix(f"{kind}:") for it in aggregates if it.startswith(f"{kind}:")]
        rows = union.rows(connection, keys) if keys else ()
        states |= {
            f"{kind}:{it.id}": it.columns["version"] for it in rows if isinstance(it, MainRow)
        }
    return Reading(states)


def _happened(_connection: Connection, change: Change[int]) -> Sequence[EventData]:
    assert isinstance(change.before, int)
    assert isinstance(change.note, int)
    return [_told(change.aggregate, change.before + change.note)]


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=60000")

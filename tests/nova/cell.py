"""A cell's database of Nova's shape, changed by statements as Nova 34 makes them.

Which statement changes what, and in which transaction, follows Nova's own code: an instance is made
by a flush of the ORM, saved by a bulk update with its expected state in the WHERE
(`update_on_match`), and its metadata is replaced in place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    delete,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Session

from metaledger.producers.administration import install
from metaledger.producers.nova.tables import (
    COMPUTE_NODES,
    INSTANCE_EXTRA,
    INSTANCES,
    MIGRATIONS,
    SYSTEM_METADATA,
)
from metaledger.schemas.events import Event

from ..glance.ledger import recorded

UUID, OTHER = "0b7a4f2e-6d1c-4c3e-9a51-3f0f6f1d2c11", "9c1e0f7a-55a1-4d0e-8a53-0a2f0f1d2c22"
IMAGE, NEXT_IMAGE, SNAPSHOT = "image-a", "image-b", "image-s"
# hypervisor id by host; the node has the host's name with `node-` before it
HOSTS = {"host-1": "hv-1", "host-2": "hv-2"}
FLAVOR = '{"cur": {"nova_object.data": {"name": "m1.small", "flavorid": "1"}}, "old": null}'


class Base(DeclarativeBase):
    metadata = INSTANCES.metadata


class Instance(Base):
    __table__ = INSTANCES


class SystemMetadata(Base):
    __table__ = SYSTEM_METADATA
    # Rows that somebody else has deleted meanwhile: Nova goes on with a warning.
    __mapper_args__ = {"confirm_deleted_rows": False}  # noqa: RUF012 (as SQLAlchemy declares it)


def with_plugin(url: str) -> URL:
    return make_url(url).update_query_dict({"plugin": "metaledger"})


@dataclass(frozen=True, slots=True)
class Cell:
    """The database with the outbox, and its two kinds of engines."""

    url: str
    hooked: Engine
    stock: Engine

    def events(self, uuid: str = UUID, kind: str = "instance") -> list[Event]:
        events = recorded(self.url)
        return [event for event in events if event.meta.aggregate == f"{kind}:{uuid}"]

    def told(self, uuid: str = UUID) -> list[Any]:
        return [event.data for event in self.events(uuid)]

    def boot(self, uuid: str = UUID, image: str = IMAGE, **metadata: str) -> None:
        """`instance_create`."""
        kept = {"image_base_image_ref": image, "image_min_disk": "1", **metadata}
        with Session(self.hooked) as session, session.begin():
            session.add(
                Instance(
                    uuid=uuid,
                    image_ref=image,
                    vm_state="building",
                    task_state="scheduling",
                    hidden=False,
                    deleted=0,
                    created_at=datetime.now(UTC).replace(tzinfo=None),
                )
            )
            session.flush()
            session.add_all(
                SystemMetadata(instance_uuid=uuid, key=key, value=value, deleted=0)
                for key, value in kept.items()
            )
            row = {"instance_uuid": uuid, "flavor": FLAVOR, "deleted": 0}
            session.execute(insert(INSTANCE_EXTRA), row)

    def save(
        self, uuid: str = UUID, *, metadata: dict[str, str] | None = None, **values: Any
    ) -> bool:
        """`Instance.save`: `metadata` is the whole of it. False: not in the expected state."""
        with Session(self.hooked) as session, session.begin():
            is_saved = save(session.connection(), uuid, **values)
            if is_saved and metadata is not None:
                replace_metadata(session, uuid, metadata)
            return is_saved

    def note(self, uuid: str = UUID, **metadata: str) -> None:
        """A save by who has just read the instance, and adds to its metadata."""
        with Session(self.hooked) as session, session.begin():
            if not save(session.connection(), uuid):
                return
            held = session.query(SystemMetadata).filter_by(instance_uuid=uuid, deleted=0)
            kept = {row.key: row.value for row in held}
            replace_metadata(session, uuid, kept | metadata)

    def place(self, host: str | None, uuid: str = UUID, **values: Any) -> bool:
        """The host that a claim, a move or an offloading sets; as `save`."""
        number = None if host is None else list(HOSTS).index(host) + 1
        node = None if host is None else f"node-{host}"
        return self.save(uuid, host=host, node=node, compute_id=number, **values)

    def spawned(self, host: str = "host-1", uuid: str = UUID) -> None:
        """It was scheduled to the host, and runs there."""
        self.place(host, uuid, task_state="spawning")
        self.save(uuid, vm_state="active", task_state=None)

    def migrate(self, kind: str, uuid: str = UUID) -> None:
        with self.hooked.begin() as connection:
            row = {"instance_uuid": uuid, "migration_type": kind, "deleted": 0}
            connection.execute(insert(MIGRATIONS), row)

    def destroy(self, uuid: str = UUID) -> None:
        """`instance_destroy`: the instance and its metadata are marked."""
        now = datetime.now(UTC).replace(tzinfo=None)
        with Session(self.hooked) as session, session.begin():
            for model, column in ((Instance, "uuid"), (SystemMetadata, "instance_uuid")):
                query = session.query(model).filter_by(**{column: uuid}, deleted=0)
                values = {"deleted": model.__table__.c.id, "deleted_at": now}
                if model is SystemMetadata:
                    values.pop("deleted_at")
                query.update(values, synchronize_session=False)

    def claim(self, uuid: str, host: str, hypervisor_hostname: str) -> None:
        """`compute_node_create`: a node that was removed is the same one again."""
        row = {"host": host, "hypervisor_hostname": hypervisor_hostname, "deleted": 0}
        with self.hooked.begin() as connection:
            removed = (COMPUTE_NODES.c.uuid == uuid) & (COMPUTE_NODES.c.deleted != 0)
            if not connection.execute(update(COMPUTE_NODES).where(removed).values(row)).rowcount:
                connection.execute(insert(COMPUTE_NODES), {"uuid": uuid, **row})

    def track(self, uuid: str, host: str) -> None:
        """`compute_node_update`, as a resource tracker does each minute."""
        with self.hooked.begin() as connection:
            live = (COMPUTE_NODES.c.uuid == uuid) & (COMPUTE_NODES.c.deleted == 0)
            connection.execute(update(COMPUTE_NODES).where(live).values(host=host))

    def remove(self, uuid: str) -> None:
        """`compute_node_delete`, with its service."""
        with self.hooked.begin() as connection:
            live = (COMPUTE_NODES.c.uuid == uuid) & (COMPUTE_NODES.c.deleted == 0)
            gone = {"deleted": COMPUTE_NODES.c.id}
            connection.execute(update(COMPUTE_NODES).where(live).values(gone))

    def archive(self) -> None:
        """`nova-manage db archive_deleted_rows`."""
        for table in (SYSTEM_METADATA, INSTANCES, COMPUTE_NODES):
            with self.hooked.begin() as connection:
                gone = connection.scalars(select(table.c.id).where(table.c.deleted != 0)).all()
                connection.execute(delete(table).where(table.c.id.in_(gone)))

    def image_ref(self, uuid: str = UUID) -> str:
        with self.stock.connect() as connection:
            query = select(INSTANCES.c.image_ref).where(INSTANCES.c.uuid == uuid)
            return str(connection.scalar(query))

    def metadata(self, uuid: str = UUID) -> dict[str, str]:
        of_it = (SYSTEM_METADATA.c.instance_uuid == uuid) & (SYSTEM_METADATA.c.deleted == 0)
        query = select(SYSTEM_METADATA.c.key, SYSTEM_METADATA.c.value).where(of_it)
        query = query.order_by(SYSTEM_METADATA.c.id)
        with self.stock.connect() as connection:
            return {row.key: row.value for row in connection.execute(query)}


def save(connection: Connection, uuid: str, **values: Any) -> bool:
    """Whether there is such an instance, in the expected state."""
    expected = values.pop("expected", {})
    # Nova reads the instance first: under repeatable read what it reads later is of that time.
    connection.execute(select(INSTANCES).where(INSTANCES.c.uuid == uuid))
    where = [INSTANCES.c.uuid == uuid, INSTANCES.c.deleted == 0]
    where += [INSTANCES.c[name] == value for name, value in expected.items()]
    # Nova sets `updated_at` in any case, and so locks the row.
    values = values or {"vm_state": INSTANCES.c.vm_state}
    return connection.execute(update(INSTANCES).where(*where).values(**values)).rowcount == 1


def replace_metadata(session: Session, uuid: str, metadata: dict[str, str]) -> None:
    """`_instance_metadata_update_in_place`: what is left out is deleted for good."""
    left = dict(metadata)
    for row in session.query(SystemMetadata).filter_by(instance_uuid=uuid, deleted=0):
        if row.key in left:
            row.value = left.pop(row.key)
        else:
            session.delete(row)
    session.add_all(
        SystemMetadata(instance_uuid=uuid, key=key, value=value, deleted=0)
        for key, value in left.items()
    )


@contextmanager
def cell(url: str) -> Iterator[Cell]:
    """A cell with its two compute nodes, and the outbox."""
    stock, hooked = create_engine(url), create_engine(with_plugin(url))
    INSTANCES.metadata.create_all(stock)
    install(stock)
    with stock.begin() as connection:
        for host, uuid in HOSTS.items():
            row = {"uuid": uuid, "host": host, "hypervisor_hostname": f"node-{host}", "deleted": 0}
            connection.execute(insert(COMPUTE_NODES), row)
    try:
        yield Cell(url, hooked, stock)
    finally:
        hooked.dispose()
        stock.dispose()

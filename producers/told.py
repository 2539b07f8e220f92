"""What a spool told last, kept in its file: the memory of a process that has no database.

Written in the transaction that tells it, so it is what the ledger will know of the disks and
hypervisors of this machine. No decision is made here.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Column, Connection, MetaData, Table, Text, delete, select
from sqlalchemy.dialects.sqlite import insert

from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind

# `there`: created, or met; `failed`: it was told that it could not be created.
DiskState = Literal["intended", "there", "failed"]

METADATA = MetaData()

disks = Table(
    "metaledger_told_disks",
    METADATA,
    Column("instance_uuid", Text, primary_key=True, comment="The instance."),
    Column("disk", Text, primary_key=True, comment="The disk's name within it."),
    Column("state", Text, nullable=False, comment="intended, there or failed."),
    Column("layout", Text, nullable=False, comment="The layout that was told last (JSON)."),
    comment="The disks of this machine of which the spool told, and that are not known to be gone.",
)

hypervisors = Table(
    "metaledger_told_hypervisors",
    METADATA,
    Column("hypervisor_id", Text, primary_key=True, comment="The hypervisor."),
    Column("host", Text, nullable=False, comment="The host name that was told last."),
    comment="The hypervisors of this machine of which the spool told.",
)


@dataclass(frozen=True, slots=True)
class KnownDisk:
    """What was told of a disk last."""

    state: DiskState
    layout: DiskLayout


def disks_of(connection: Connection, instance_uuid: str) -> dict[str, KnownDisk]:
    """The instance's disks by name."""
    query = select(disks.c.disk, disks.c.state, disks.c.layout)
    found = connection.execute(query.where(disks.c.instance_uuid == instance_uuid))
    return {row.disk: KnownDisk(row.state, _layout(row.layout)) for row in found}


def put_disks(connection: Connection, instance_uuid: str, known: Mapping[str, KnownDisk]) -> None:
    """Notes what was told of disks of the instance."""
    rows = [
        {
            "instance_uuid": instance_uuid,
            "disk": disk,
            "state": told.state,
            "layout": json.dumps(asdict(told.layout)),
        }
        for disk, told in known.items()
    ]
    if rows:
        upsert = insert(disks)
        changed = {"state": upsert.excluded.state, "layout": upsert.excluded.layout}
        of_name = ["instance_uuid", "disk"]
        connection.execute(upsert.on_conflict_do_update(index_elements=of_name, set_=changed), rows)


def forget_disks(connection: Connection, instance_uuid: str, names: Iterable[str]) -> None:
    """Forgets disks of the instance."""
    which = (disks.c.instance_uuid == instance_uuid) & disks.c.disk.in_(list(names))
    connection.execute(delete(disks).where(which))


def host_of(connection: Connection, hypervisor_id: str) -> str | None:
    """The host name that was told last; None where nothing was told of the hypervisor."""
    query = select(hypervisors.c.host).where(hypervisors.c.hypervisor_id == hypervisor_id)
    host: str | None = connection.scalar(query)
    return host


def hypervisors_on(connection: Connection, host: str) -> list[str]:
    """The hypervisors of which this host name was told last."""
    query = select(hypervisors.c.hypervisor_id).where(hypervisors.c.host == host)
    return [*connection.scalars(query)]


def put_hypervisor(connection: Connection, hypervisor_id: str, host: str) -> None:
    """Notes by which host name the hypervisor is reached."""
    upsert = insert(hypervisors).values(hypervisor_id=hypervisor_id, host=host)
    connection.execute(
        upsert.on_conflict_do_update(index_elements=["hypervisor_id"], set_={"host": host})
    )


def forget_hypervisors(connection: Connection, hypervisor_ids: Iterable[str]) -> None:
    """Forgets hypervisors, as if nothing had been told of them."""
    which = hypervisors.c.hypervisor_id.in_(list(hypervisor_ids))
    connection.execute(delete(hypervisors).where(which))


def _layout(text: str) -> DiskLayout:
    told = json.loads(text)
    source = DiskSource(**told["source"] | {"kind": SourceKind(told["source"]["kind"])})
    return DiskLayout(**told | {"source": source})

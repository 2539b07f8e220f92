"""A service with the plugin, told of the two whose tables it watches: Glance and Nova.

A change is of two tables in one transaction: the aggregate's own row, and a part that hangs on it
and that its statement names by its own key alone, as an ORM does.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Table, delete, insert, select, text, update
from sqlalchemy.orm import Session

from metaledger.producers.glance.tables import IMAGES, PROPERTIES
from metaledger.producers.nova.tables import INSTANCES, SYSTEM_METADATA
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.watching import settings
from metaledger.schemas.events import EventData
from metaledger.schemas.image import ImageUpdated
from metaledger.schemas.instance import (
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceSystemMetadataSaved,
)

from .kit import Service, changes
from .stories import IMAGES as IDS
from .stories import Shop

# Of Nova's metadata only what begins so is recorded.
KEPT = "image_kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A service's rows. `columns` of the aggregate's row are set to the value of a change, and
    `beside` with them; `row` is what stands in the rest.
    """

    kind: str
    table: Table
    key: str
    columns: Sequence[str]
    row: dict[str, Any]
    beside: dict[str, Any]
    part: Table
    part_key: str
    part_name: str


GLANCE = Shape(
    kind="image",
    table=IMAGES,
    key="id",
    columns=["name"],
    row={
        "status": "queued",
        "visibility": "private",
        "min_disk": 0,
        "min_ram": 0,
        "protected": False,
        "os_hidden": False,
        "deleted": False,
    },
    beside={},
    part=PROPERTIES,
    part_key="image_id",
    part_name="name",
)
# A rebuild with its save and a move: the first is one, and those after it take it back.
NOVA = Shape(
    kind="instance",
    table=INSTANCES,
    key="uuid",
    columns=["host", "image_ref"],
    row={"vm_state": "active", "hidden": False, "deleted": 0},
    beside={"task_state": "rebuilding"},
    part=SYSTEM_METADATA,
    part_key="instance_uuid",
    part_name="key",
)


@dataclass
class Hooked(Shop):
    """Changes a service's rows, on engines with the plugin or without."""

    shape: Shape

    @property
    def url(self) -> URL:
        url = self.service.engine.url
        return url.update_query_dict({"plugin": "metaledger"}) if self.emits else url

    def change(self, target: Connection | Session, image: str, value: str) -> None:
        shape = self.shape
        of_it = shape.table.c[shape.key] == image
        values = dict.fromkeys(shape.columns, value) | shape.beside
        target.execute(update(shape.table).where(of_it).values(values))
        target.execute(
            update(shape.part).where(shape.part.c.id == _part(image)).values(value=value)
        )
        target.execute(insert(changes), {"image": image, "value": value})

    def change_wrongly(self, target: Connection) -> None:
        target.execute(insert(self.shape.table), self.row("a", "again"))

    def read(self, target: Connection) -> None:
        target.execute(select(self.shape.table)).all()

    def prepare(self) -> None:
        shape = self.shape
        shape.table.metadata.create_all(self.service.engine)
        parts = [{"id": _part(it), "value": "0", **self.part_row(it, KEPT)} for it in IDS]
        with self.service.engine.begin() as connection:
            # As the services have them: where there is none, MariaDB locks every row that it reads.
            connection.execute(
                text(f"CREATE INDEX IF NOT EXISTS parts ON {shape.part.name} ({shape.part_key})")
            )
            for table in (changes, shape.part, shape.table):
                connection.execute(delete(table))
            connection.execute(insert(shape.table), [self.row(it, "0") for it in IDS])
            connection.execute(insert(shape.part), parts)

    def values(self) -> list[str]:
        """What every column of a change says of each, all of them the same."""
        shape = self.shape
        columns = [shape.table.c[it] for it in shape.columns]
        query = (
            select(shape.part.c.value, *columns)
            .join(shape.table, shape.table.c[shape.key] == shape.part.c[shape.part_key])
            .order_by(shape.table.c[shape.key])
        )
        with self.service.engine.connect() as connection:
            rows = [set(row) for row in connection.execute(query)]
        assert all(len(row) == 1 for row in rows), rows
        return [value for (value,) in rows]

    def told(self) -> dict[str, list[tuple[str, str]]]:
        """The changes that the outbox holds, by the column that they are of."""
        told = defaultdict(list)
        for event in self.service.waiting():
            for column, pair in _told(event.data):
                told[column].append(pair)
        return told

    def aggregate(self, image: str) -> str:
        return f"{self.shape.kind}:{image}"

    def row(self, image: str, value: str) -> dict[str, Any]:
        """The aggregate's own row."""
        shape = self.shape
        return {shape.key: image, **dict.fromkeys(shape.columns, value), **shape.row}

    def part_row(self, image: str, name: str) -> dict[str, Any]:
        """A part's row, without its value."""
        shape = self.shape
        return {shape.part_key: image, shape.part_name: name, "deleted": shape.row["deleted"]}


def choose(monkeypatch: pytest.MonkeyPatch, **chosen: object) -> None:
    """Has engines that are made from now on find these settings."""
    load = settings.load

    def with_chosen(service: str) -> ProducerSettings:
        return replace(load(service), **chosen)

    monkeypatch.setattr(settings, "load", with_chosen)


def _part(image: str) -> int:
    # Beyond those that the database gives by itself.
    return 1_000_000 + IDS.index(image)


def _told(data: EventData) -> Iterator[tuple[str, tuple[str, str]]]:
    match data:
        case ImageUpdated():
            if "name" in data.attributes:
                yield "name", (data.image_id, str(data.attributes["name"]))
            if KEPT in data.change.set:
                yield "part", (data.image_id, str(data.change.set[KEPT]))
        case InstanceRelocated():
            yield "host", (data.instance_uuid, str(data.to_host))
        case InstanceRebuilt() | InstanceRebuildRolledBack():
            yield "image_ref", (data.instance_uuid, str(data.image_ref))
        case InstanceSystemMetadataSaved():
            yield "part", (data.instance_uuid, str(data.after[KEPT]))


def glance(service: Service, *, emits: bool) -> Hooked:
    return Hooked(service, emits, GLANCE)


def nova(service: Service, *, emits: bool) -> Hooked:
    return Hooked(service, emits, NOVA)


MakeHooked = Callable[..., Hooked]
SERVICES = pytest.mark.parametrize("hooked", [glance, nova])

"""A service with the plugin sees what it would see without, whatever ends its transactions.

The stories are those of `tests/producers`: here the plugin takes its locks before each change. They
are told of Glance and of Nova, whose rows and events are others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Table, delete, insert, select, update
from sqlalchemy.orm import Session

from metaledger.producers.glance.tables import IMAGES
from metaledger.producers.nova.tables import INSTANCES
from metaledger.schemas.events import EventData
from metaledger.schemas.image import ImageUpdated
from metaledger.schemas.instance import InstanceRelocated

from ..producers.kit import Service, changes, serving
from ..producers.stories import EVERY_STORY, WARMING, Shop, Story, still_open
from ..producers.stories import IMAGES as IDS

IMAGE = {
    "status": "queued",
    "visibility": "private",
    "min_disk": 0,
    "min_ram": 0,
    "protected": False,
    "os_hidden": False,
    "deleted": False,
}
INSTANCE = {"image_ref": "i", "vm_state": "active", "hidden": False, "deleted": 0}


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with serving(request, tmp_path) as made:
        yield made


@dataclass
class Hooked(Shop):
    """Changes a column of a service's rows, on engines with the plugin or without."""

    table: Table
    key: str
    column: str
    row: dict[str, Any]

    @property
    def url(self) -> URL:
        url = self.service.engine.url
        return url.update_query_dict({"plugin": "metaledger"}) if self.emits else url

    def change(self, target: Connection | Session, image: str, value: str) -> None:
        of_it = self.table.c[self.key] == image
        target.execute(update(self.table).where(of_it).values({self.column: value}))
        target.execute(insert(changes), {"image": image, "value": value})

    def change_wrongly(self, target: Connection) -> None:
        target.execute(insert(self.table), {self.key: "a", self.column: "again", **self.row})

    def read(self, target: Connection) -> None:
        target.execute(select(self.table)).all()

    def prepare(self) -> None:
        self.table.metadata.create_all(self.service.engine)
        rows = [{self.key: it, self.column: "0", **self.row} for it in IDS]
        with self.service.engine.begin() as connection:
            connection.execute(delete(changes))
            connection.execute(delete(self.table))
            connection.execute(insert(self.table), rows)

    def values(self) -> list[str]:
        query = select(self.table.c[self.column]).order_by(self.table.c[self.key])
        with self.service.engine.connect() as connection:
            return list(connection.scalars(query))

    def told(self) -> list[tuple[str, str]]:
        """The changes that the outbox holds."""
        return [it for event in self.service.waiting() for it in _told(event.data)]


def _told(data: EventData) -> list[tuple[str, str]]:
    match data:
        case ImageUpdated():
            return [(data.image_id, str(data.attributes["name"]))]
        case InstanceRelocated():
            return [(data.instance_uuid, str(data.to_host))]
        case _:
            return []


def glance(service: Service, *, emits: bool) -> Hooked:
    return Hooked(service, emits, IMAGES, "id", "name", IMAGE)


def nova(service: Service, *, emits: bool) -> Hooked:
    return Hooked(service, emits, INSTANCES, "uuid", "host", INSTANCE)


SERVICES = pytest.mark.parametrize("hooked", [glance, nova])


@SERVICES
@EVERY_STORY
def test_a_service_sees_what_it_would_see_without_the_plugin(
    service: Service, story: Story, hooked: Any
) -> None:
    without, watched = hooked(service, emits=False), hooked(service, emits=True)
    without.prepare()
    expected = story(without), without.values(), sorted(service.values())
    watched.prepare()
    assert (story(watched), watched.values(), sorted(service.values())) == expected
    assert service.status().unrecorded_aggregates == 0


@SERVICES
@EVERY_STORY
def test_the_ledger_ends_where_the_service_ends_and_the_pool_holds_no_transaction(
    service: Service, story: Story, hooked: Any
) -> None:
    watched = hooked(service, emits=True)
    watched.prepare()
    story(watched)
    assert still_open(service) == 0
    told = watched.told()
    assert set(told) <= set(service.values())
    named = dict.fromkeys(IDS, "0") | dict(told)
    assert [named[it] for it in IDS] == watched.values()
    assert set(named.values()) - {"0", named[WARMING]}

"""A Glance with the plugin sees what it would see without, whatever ends its transactions.

The stories are those of `tests/producers`: here the plugin takes its locks before each change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, delete, insert, select, update
from sqlalchemy.orm import Session

from metaledger.producers.glance.tables import IMAGES
from metaledger.schemas.image import ImageUpdated

from ..producers.kit import Service, changes, serving
from ..producers.stories import EVERY_STORY, Shop, Story, still_open
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


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with serving(request, tmp_path) as made:
        yield made


@dataclass
class Glance(Shop):
    """Changes the names of images, on engines with the plugin or without."""

    @property
    def url(self) -> URL:
        url = self.service.engine.url
        return url.update_query_dict({"plugin": "metaledger"}) if self.emits else url

    def change(self, target: Connection | Session, image: str, value: str) -> None:
        target.execute(update(IMAGES).where(IMAGES.c.id == image).values(name=value))
        target.execute(insert(changes), {"image": image, "value": value})

    def change_wrongly(self, target: Connection) -> None:
        target.execute(insert(IMAGES), {"id": "a", "name": "again", **IMAGE})

    def read(self, target: Connection) -> None:
        target.execute(select(IMAGES)).all()

    def prepare(self) -> None:
        IMAGES.metadata.create_all(self.service.engine)
        with self.service.engine.begin() as connection:
            connection.execute(delete(changes))
            connection.execute(delete(IMAGES))
            connection.execute(insert(IMAGES), [{"id": it, "name": "0", **IMAGE} for it in IDS])

    def values(self) -> list[str]:
        with self.service.engine.connect() as connection:
            return list(connection.scalars(select(IMAGES.c.name).order_by(IMAGES.c.id)))


@EVERY_STORY
def test_glance_sees_what_it_would_see_without_the_plugin(service: Service, story: Story) -> None:
    without, hooked = Glance(service, emits=False), Glance(service, emits=True)
    without.prepare()
    expected = story(without), without.values(), sorted(service.values())
    hooked.prepare()
    assert (story(hooked), hooked.values(), sorted(service.values())) == expected
    assert service.status().unrecorded_aggregates == 0


@EVERY_STORY
def test_the_ledger_ends_where_glance_ends_and_the_pool_holds_no_transaction(
    service: Service, story: Story
) -> None:
    glance = Glance(service, emits=True)
    glance.prepare()
    story(glance)
    assert still_open(service) == 0
    told = [
        (event.data.image_id, str(event.data.attributes["name"]))
        for event in service.waiting()
        if isinstance(event.data, ImageUpdated)
    ]
    assert set(told) <= set(service.values())
    named = dict.fromkeys(IDS, "0") | dict(told)
    assert [named[it] for it in IDS] == glance.values() != ["0"] * len(IDS)

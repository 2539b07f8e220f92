"""A service with the plugin sees what it would see without, whatever ends its transactions.

The stories are those of `tests/producers`: here the plugin takes its locks before each change. They
are told of Glance and of Nova, whose rows and events are others.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..producers.hooked import SERVICES, MakeHooked
from ..producers.kit import Service, serving
from ..producers.stories import EVERY_STORY, WARMING, Story, still_open
from ..producers.stories import IMAGES as IDS


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with serving(request, tmp_path) as made:
        yield made


@SERVICES
@EVERY_STORY
def test_a_service_sees_what_it_would_see_without_the_plugin(
    service: Service, story: Story, hooked: MakeHooked
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
    service: Service, story: Story, hooked: MakeHooked
) -> None:
    watched = hooked(service, emits=True)
    watched.prepare()
    story(watched)
    assert still_open(service) == 0
    told = watched.told()
    assert set(told) == {"part", *watched.shape.columns}
    for of_column in told.values():
        assert set(of_column) <= set(service.values())
        named = dict.fromkeys(IDS, "0") | dict(of_column)
        assert [named[it] for it in IDS] == watched.values()
        assert set(named.values()) - {"0", named[WARMING]}

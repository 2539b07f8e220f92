"""Read models on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .readmodels import BACKENDS, Place, places


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Makes the URL of a read model that does not exist yet."""
    yield from places(request, tmp_path)


@pytest.fixture
def url(place: Place) -> str:
    """Where a read model can be made."""
    return place()

"""Read models on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..store.readmodels import BACKENDS, Place, places
from .ledgers import Ledger


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Makes the URL of a read model that does not exist yet."""
    yield from places(request, tmp_path)


@pytest.fixture
def url(place: Place) -> str:
    """Where a read model can be made."""
    return place()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty embedded log."""
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.log.close()

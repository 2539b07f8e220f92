from collections.abc import Iterator
from pathlib import Path

import pytest

from metaledger.producers.nova.tables import INSTANCES

from .kit import Cloud

DATABASES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(params=DATABASES)
def service_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "service.sqlite"
        path.touch()
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def cloud(service_url: str, tmp_path: Path) -> Iterator[Cloud]:
    """Glance's tables with an outbox on each database, and a ledger."""
    made = Cloud(service_url, tmp_path)
    yield made
    made.close()


@pytest.fixture
def nova(service_url: str, tmp_path: Path) -> Iterator[Cloud]:
    """A Nova cell's, likewise."""
    made = Cloud(service_url, tmp_path, tables=INSTANCES.metadata)
    yield made
    made.close()

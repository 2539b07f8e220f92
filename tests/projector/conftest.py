"""Read models on both databases."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..servers.interface import Postgres
from ..store.readmodels import BACKENDS, Place, store_of
from .ledgers import Ledger


@pytest.fixture(scope="session")
def file_to_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read model in which nothing is: to make one takes long."""
    path = tmp_path_factory.mktemp("empty") / "read.db"
    with store_of(f"sqlite:///{path}"):
        return path


@pytest.fixture(scope="session")
def database_to_copy(postgres: Postgres) -> str:
    """The same on PostgreSQL, where that is more than half of what many a test takes."""
    url = postgres.create_database()
    with store_of(url):
        return url


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Makes a read model in which nothing is yet; returns its URL."""
    made: list[str] = []
    if request.param == "sqlite":
        original = request.getfixturevalue("file_to_copy")

        def file() -> str:
            path = tmp_path / f"read-{len(made)}.db"
            shutil.copy(original, path)
            made.append(f"sqlite:///{path}")
            return made[-1]

        yield file
        return
    server = request.getfixturevalue("postgres")
    original = request.getfixturevalue("database_to_copy")

    def database() -> str:
        made.append(server.copy_database(original))
        return made[-1]

    yield database
    for url in made:
        server.drop_database(url)


@pytest.fixture
def url(place: Place) -> str:
    """A read model in which nothing is yet."""
    return place()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty embedded log."""
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.log.close()

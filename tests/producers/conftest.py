"""The databases that the outbox's conformance suite runs over."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log

from .kit import FailingLog, Service, changes, sqlite_url

# MariaDB or MySQL: a URL of an empty database, where there is one.
_MARIADB_URL = os.environ.get("METALEDGER_TEST_MARIADB_URL")
_DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
if _MARIADB_URL:
    _DATABASES.append("mariadb")


@pytest.fixture(params=_DATABASES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service whose database has an outbox."""
    match request.param:
        case "sqlite":
            url = sqlite_url(tmp_path)
        case "postgres":
            url = request.getfixturevalue("postgres_url")
        case _:
            url = str(_MARIADB_URL)
    made = Service(url)
    changes.metadata.create_all(made.engine)
    made.install()
    yield made
    if request.param == "mariadb":
        made.drop_tables()
        changes.metadata.drop_all(made.engine)
    for engine in made.engines:
        engine.dispose()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    """A real log."""
    opened = create_embedded_log(tmp_path / "log.db")
    yield opened
    opened.close()


@pytest.fixture
def writer(log: EmbeddedLog) -> FailingLog:
    return FailingLog(log.writer())

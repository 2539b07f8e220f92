"""The databases that the outbox's conformance suite runs over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log

from .kit import DATABASES, FailingLog, Service, serving


@pytest.fixture(params=DATABASES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service whose database has an outbox."""
    with serving(request, tmp_path) as made:
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    """A real log."""
    opened = create_embedded_log(tmp_path / "log.db")
    yield opened
    opened.close()


@pytest.fixture
def writer(log: EmbeddedLog) -> FailingLog:
    return FailingLog(log.writer())

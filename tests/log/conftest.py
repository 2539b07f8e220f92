"""The backends that the conformance suite runs over."""

from pathlib import Path

import pytest

from metaledger.schemas.log import Log

from .backends import Backend, Embedded, Kafka


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A log that was made and holds nothing."""
    backend: Backend
    match request.param:
        case "embedded":
            backend = Embedded(tmp_path)
        case _:
            backend = Kafka(request.getfixturevalue("broker").bootstrap)
    backend.create()
    return backend


@pytest.fixture
def log(log_backend: Backend) -> Log:
    return log_backend.open()

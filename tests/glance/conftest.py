"""Fixtures of the tests that run a real Glance; what is slow to build is built once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .environment import Environment, ensure_environment, install_product
from .service import Glance


@pytest.fixture(scope="session")
def glance_environment() -> Environment:
    """The cached virtual environment with Glance 33."""
    return ensure_environment()


@pytest.fixture(scope="session")
def product(glance_environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's wheel, installed where the service can import it."""
    return install_product(glance_environment, tmp_path_factory.mktemp("product"))


@pytest.fixture
def stock_glance(glance_environment: Environment, tmp_path: Path) -> Iterator[Glance]:
    """A running Glance without the ledger, on SQLite."""
    with Glance(glance_environment, tmp_path) as glance:
        yield glance

"""Fixtures of the tests that run a real Glance; what is slow to build is built once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .config import Extra
from .environment import Environment, ensure_environment, install_product
from .ledger import install_outbox
from .service import Glance

PLUGIN = "connection_parameters = plugin=metaledger"
FILTER = (("metaledger", "metaledger.producers.glance.filter:filter_factory"),)
GATE = (("gate", "gate:filter_factory"),)


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


@pytest.fixture
def hooked_glance(
    glance_environment: Environment, product: Path, tmp_path: Path
) -> Iterator[Glance]:
    """A running Glance with the one line that loads the ledger; requests can be held (`gate`)."""
    extra = Extra(database_options=PLUGIN, filters=GATE)
    with _hooked(glance_environment, product, tmp_path, extra) as glance:
        yield glance


@pytest.fixture
def filtered_glance(
    glance_environment: Environment, product: Path, tmp_path: Path
) -> Iterator[Glance]:
    """A hooked Glance with the optional filter too."""
    extra = Extra(database_options=PLUGIN, filters=FILTER)
    with _hooked(glance_environment, product, tmp_path, extra) as glance:
        yield glance


@pytest.fixture
def guarded_glance(
    glance_environment: Environment, product: Path, tmp_path: Path
) -> Iterator[Glance]:
    """A hooked Glance that shows `secret_` properties to the role `boss` alone."""
    rules = tmp_path / "property-protections.conf"
    rules.write_text("".join(map(_rule, (("^secret_", "boss"), (".*", "@")))))
    extra = Extra(default_options=f"property_protection_file = {rules}", database_options=PLUGIN)
    with _hooked(glance_environment, product, tmp_path, extra) as glance:
        yield glance


def _rule(rule: tuple[str, str]) -> str:
    keys, role = rule
    return f"[{keys}]\n" + "".join(
        f"{operation} = {role}\n" for operation in ("create", "read", "update", "delete")
    )


@contextmanager
def _hooked(
    environment: Environment, product: Path, folder: Path, extra: Extra
) -> Iterator[Glance]:
    glance = Glance(environment, folder, product=product, extra=extra)
    glance.sync_database()
    install_outbox(glance.database_url)
    glance.start()
    try:
        yield glance
    finally:
        glance.stop()

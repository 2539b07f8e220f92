"""Fixtures of the tests that run a real Glance; what is slow to build is built once."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from .config import Extra
from .environment import Environment, ensure_environment, install_product
from .ledger import install_outbox
from .service import Glance

NewGlance = Callable[..., AbstractContextManager[Glance]]

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


@pytest.fixture(scope="session")
def empty_database(
    glance_environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Glance's tables in a SQLite file, to be copied: to make them takes seconds."""
    glance = Glance(glance_environment, tmp_path_factory.mktemp("empty"))
    glance.sync_database()
    return glance.folder / "glance.sqlite"


@pytest.fixture(scope="session")
def new_glance(
    glance_environment: Environment,
    product: Path,
    empty_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> NewGlance:
    """Starts a Glance with the outbox installed, on SQLite or on the given (empty) database."""

    @contextmanager
    def start(extra: Extra, database_url: str | None = None) -> Iterator[Glance]:
        folder = tmp_path_factory.mktemp("glance")
        glance = Glance(
            glance_environment, folder, product=product, database_url=database_url, extra=extra
        )
        if database_url is None:
            shutil.copy(empty_database, folder / "glance.sqlite")
        else:
            glance.sync_database()
        install_outbox(glance.database_url)
        glance.start()
        try:
            yield glance
        finally:
            glance.stop()

    return start


@pytest.fixture(scope="module")
def stock_glance(
    glance_environment: Environment, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Glance]:
    """A running Glance without the ledger, on SQLite."""
    folder = tmp_path_factory.mktemp("stock")
    shutil.copy(empty_database, folder / "glance.sqlite")
    glance = Glance(glance_environment, folder)
    glance.start()
    yield glance
    glance.stop()


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def hooked_glance(new_glance: NewGlance, request: pytest.FixtureRequest) -> Iterator[Glance]:
    """A running Glance with the one line that loads the ledger; requests can be held (`gate`)."""
    extra = Extra(database_options=PLUGIN, filters=GATE)
    if request.param == "sqlite":
        with new_glance(extra) as glance:
            yield glance
        return
    server = request.getfixturevalue(request.param)
    url = server.create_database()
    with new_glance(extra, url) as glance:
        yield glance
    server.drop_database(url)


@pytest.fixture
def filtered_glance(new_glance: NewGlance) -> Iterator[Glance]:
    """A hooked Glance with the optional filter too."""
    with new_glance(Extra(database_options=PLUGIN, filters=(*GATE, *FILTER))) as glance:
        yield glance


@pytest.fixture
def guarded_glance(new_glance: NewGlance, tmp_path: Path) -> Iterator[Glance]:
    """A hooked Glance that shows `secret_` properties to the role `boss` alone."""
    rules = tmp_path / "property-protections.conf"
    rules.write_text("".join(map(_rule, (("^secret_", "boss"), (".*", "@")))))
    extra = Extra(default_options=f"property_protection_file = {rules}", database_options=PLUGIN)
    with new_glance(extra) as glance:
        yield glance


def _rule(rule: tuple[str, str]) -> str:
    keys, role = rule
    return f"[{keys}]\n" + "".join(
        f"{operation} = {role}\n" for operation in ("create", "read", "update", "delete")
    )

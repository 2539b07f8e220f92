"""Servers for every test, and what a run says of those that it could not have.

A test asks for `broker`, `postgres`, `postgres_url`, `mariadb_url` or `registry_url` and gets its
marker by that. The session shares each of these, so they are left running; a test that stops, kills
or freezes a server asks for `own_broker`, `own_postgres` or `own_mariadb`, waits for it, and is by
that one of the `slow`, which `./test.sh` leaves to `./test.sh --rest`.

No test reads what an operator of this machine has configured: it would write into a real ledger.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from .servers import choice, containers
from .servers.interface import Broker, MariaDB, Postgres, Server, ServerUnavailable
from .servers.settings import Settings, from_environment

_S = TypeVar("_S", bound=Server)

for name in [name for name in os.environ if re.match("METALEDGER_(?!TEST_)", name)]:
    del os.environ[name]
os.environ["METALEDGER_CONFIG"] = os.devnull

# A law holds however slow the machine is.
settings.register_profile("metaledger", deadline=None)
settings.load_profile("metaledger")

_MARKERS = {
    "broker": "kafka",
    "own_broker": "kafka",
    "postgres": "postgres",
    "own_postgres": "postgres",
    "mariadb": "mariadb",
    "own_mariadb": "mariadb",
    "registry_url": "registry",
    "real_nova": "nova",
    "product_image": "docker",
}

_SLOW = {"own_broker", "own_postgres", "own_mariadb"}

# What takes a minute or more begins first (`test.sh` has xdist keep the order), or at the end one
# worker would be busy with such a file and the others idle.
LONGEST = {
    "folds/test_every_aggregate.py",
    "folds/test_instance_laws.py",
    "folds/test_oracle.py",
    "glance/test_lifecycle.py",
    "glance/test_same_story.py",
    "glance/test_watch.py",
    "producers/test_inside_transaction.py",
    "producers/test_relay.py",
    "projector/test_laws.py",
    "projector/test_placement_view.py",
    "projector/test_stage.py",
    "services/test_guard.py",
    "services/test_relay.py",
    "services/test_scenario.py",
    "whole_way/test_whole_way.py",
}

# Where an operator's commands look last, whatever HOME a test gives them.
_OF_THE_MACHINE = Path("/etc/metaledger/metaledger.toml")

# What could not be had, and why, as a test that is skipped for it says.
_LACKING = re.compile(r"Skipped: no (?P<name>[^:]+): (?P<reason>.*)", re.DOTALL)


class Servers:
    """Makes what this run's settings and machine allow, and gives account of the rest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @contextmanager
    def running(self, name: str, make: Callable[[Settings], _S]) -> Iterator[_S]:
        try:
            server = make(self._settings)
        except ServerUnavailable as reason:
            self.lacking(name, str(reason))
        try:
            server.start()
            yield server
        finally:
            server.close()

    def lacking(self, name: str, reason: str) -> None:
        """Skips the test, and the run's last lines say so; with `CI=true` fails it."""
        if self._settings.ci:
            pytest.fail(f"CI needs {name}: {reason}", pytrace=False)
        pytest.skip(f"no {name}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    if _OF_THE_MACHINE.exists():
        pytest.exit(f"{_OF_THE_MACHINE}: tests would write into the ledger that it names", 2)
    # kafka-python reads its message definitions in a way that Python 3.11 and 3.12 call deprecated.
    config.addinivalue_line(
        "filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    for fixture in getattr(item, "fixturenames", ()):
        if fixture in _MARKERS:
            item.add_marker(_MARKERS[fixture])
        if fixture in _SLOW:
            item.add_marker("slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def is_short(item: pytest.Item) -> bool:
        return item.nodeid.partition("::")[0].removeprefix("tests/") not in LONGEST

    items.sort(key=is_short)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # From the reports, for they come from all workers.
    told = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    found = {match["name"]: match["reason"] for match in map(_LACKING.match, told) if match}
    for name, reason in found.items():
        terminalreporter.line(f"NOT TESTED: all that needs {name}: {reason}", yellow=True)


@pytest.fixture(scope="session")
def servers() -> Servers:
    return Servers(from_environment())


@pytest.fixture(scope="session")
def broker(servers: Servers) -> Iterator[Broker]:
    """Kafka; `broker.bootstrap` is its address."""
    with servers.running("a broker", choice.new_broker) as server:
        yield server


@pytest.fixture
def own_broker(servers: Servers) -> Iterator[Broker]:
    """Kafka for this test alone, which may kill it."""
    with servers.running("a broker", choice.new_broker) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(servers: Servers) -> Iterator[Postgres]:
    """PostgreSQL; most tests want `postgres_url`."""
    with servers.running("PostgreSQL", choice.new_postgres) as server:
        yield server


@pytest.fixture
def own_postgres(servers: Servers) -> Iterator[Postgres]:
    """PostgreSQL for this test alone, which may kill it."""
    with servers.running("PostgreSQL", choice.new_postgres) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A new, empty database for this test alone, as a SQLAlchemy URL."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def mariadb(servers: Servers) -> Iterator[MariaDB]:
    """MariaDB; most tests want `mariadb_url`."""
    with servers.running("MariaDB", choice.new_mariadb) as server:
        yield server


@pytest.fixture
def own_mariadb(servers: Servers) -> Iterator[MariaDB]:
    """MariaDB for this test alone, which may kill it."""
    with servers.running("MariaDB", choice.new_mariadb) as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """A new, empty database for this test alone, as a SQLAlchemy URL."""
    url = mariadb.create_database()
    yield url
    mariadb.drop_database(url)


@pytest.fixture(scope="session")
def registry_url(servers: Servers) -> Iterator[str]:
    """The Confluent-compatible API of a schema registry; the session shares what is in it."""
    with servers.running("a schema registry", choice.new_registry) as server:
        yield server.url


@pytest.fixture(scope="session")
def product_image(servers: Servers) -> str:
    """The name of the product's own image, built from this checkout on the local base image."""
    reason = containers.lacking(containers.BASE_IMAGE)
    if reason is not None:
        servers.lacking("a Docker engine", reason)
    containers.build_product()
    return containers.PRODUCT_IMAGE

"""Which kind of server a test run gets; the one place where implementations are picked.

Containers where a Docker engine answers and has the image, else local processes; the environment
can force either. Two are always local processes: the schema registry, for it needs a newer Java
than the base of our images has, and MariaDB, of which no image is built, for nothing that tests
see of it hangs on how it is run. Every function raises ServerUnavailable with the part that is
missing.
"""

from . import broker as local_broker
from . import containers
from . import mariadb as local_mariadb
from . import registry as local_registry
from .broker import LocalBroker
from .containers import ContainerBroker, ContainerPostgres
from .interface import Broker, MariaDB, Postgres, Registry, ServerUnavailable
from .jars import find_java, kafka_jars, registry_app
from .mariadb import LocalMariaDB
from .postgres import LocalPostgres, Sync, find_programs
from .registry import LocalRegistry
from .settings import Kind, Settings


def new_broker(settings: Settings) -> Broker:
    """Not started yet, as all of them."""
    if _contained(settings, containers.KAFKA_IMAGE):
        return ContainerBroker()
    return LocalBroker(
        java=find_java(settings, least=local_broker.JAVA_LEAST), jars=kafka_jars(settings)
    )


def new_postgres(settings: Settings, *, sync: Sync = Sync.OFF) -> Postgres:
    if _contained(settings, containers.POSTGRES_IMAGE):
        return ContainerPostgres(sync=sync)
    return LocalPostgres(programs=find_programs(), sync=sync)


def new_mariadb(_settings: Settings) -> MariaDB:
    return LocalMariaDB(programs=local_mariadb.find_programs())


def new_registry(settings: Settings) -> Registry:
    return LocalRegistry(
        java=find_java(settings, least=local_registry.JAVA_LEAST), app=registry_app(settings)
    )


def _contained(settings: Settings, image: str) -> bool:
    if settings.forced is Kind.LOCAL:
        return False
    reason = containers.lacking(image)
    if reason is not None and settings.forced is Kind.CONTAINERS:
        raise ServerUnavailable(reason)
    return reason is None

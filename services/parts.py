"""The composition root: where the parts are made from the settings, and nowhere else.

Nothing is decided here but which implementation a URL names. What is opened here is closed here.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, inspect

from metaledger.producers.database import open_database
from metaledger.producers.glance.source import KINDS as GLANCE_KINDS
from metaledger.producers.nova.source import KINDS as NOVA_KINDS
from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.source import Kind, require_service
from metaledger.producers.spool import Spool
from metaledger.projector import readmodel
from metaledger.projector.database import connect, translated
from metaledger.projector.project import Settings as ProjectorSettings
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import UsageError
from metaledger.schemas.identity import system_clock, uuid7
from metaledger.schemas.log import Log
from metaledger.schemas.log.embedded import create_embedded_log, open_embedded_log
from metaledger.schemas.meta import Context
from metaledger.schemas.registry import RegistryAccess
from metaledger.schemas.tables import SHARED
from metaledger.services.settings import EmbeddedLedger, KafkaLedger, Settings, ledger_of

if TYPE_CHECKING:
    from metaledger.schemas.log.kafka import KafkaSettings

SERVICE = "metaledger"
# The services whose databases can be read, and in which order their aggregates are.
_KINDS: dict[str, tuple[Kind[Any], ...]] = {"glance": GLANCE_KINDS, "nova": NOVA_KINDS}


def codec_of(settings: Settings) -> Codec:
    """The codec that the settings ask for."""
    return producer_settings(settings).codec()


def producer_settings(settings: Settings) -> ProducerSettings:
    """How the command line writes what it writes itself."""
    return ProducerSettings(
        service=SERVICE,
        host=socket.gethostname(),
        deployment_id=settings.deployment_id,
        strict=True,
        outbox_rows_max=settings.relay.outbox_rows_max,
        event_bytes_max=settings.event_bytes_max,
        schema_ids_file=settings.registry.schema_ids,
    )


def registry_access(settings: Settings) -> RegistryAccess:
    """The configured schema registry. Raises UsageError where there is none."""
    given = settings.registry
    if given.url is None:
        raise UsageError("no schema registry is configured: set registry.url")
    return RegistryAccess(
        url=given.url, username=given.username, password=given.password, token=given.token
    )


def projector_settings(settings: Settings) -> ProjectorSettings:
    """How this deployment is projected."""
    return replace(settings.projector, deployment_id=settings.deployment_id)


def relay_owner(settings: Settings) -> str:
    """A name for the relay of this process, which no other has."""
    return f"{producer_settings(settings).host}/{os.getpid()}/{uuid7(system_clock())}"


def context_of(settings: Settings) -> Context:
    """Who writes what the command line writes itself."""
    return replace(producer_settings(settings).context(), user_id=settings.user)


@contextmanager
def open_log(settings: Settings) -> Iterator[Log]:
    """The ledger, which is there. Raises UsageError, LogRefused, Unreachable."""
    with closing(_log(settings, open_embedded_log)) as log:
        yield log


@contextmanager
def open_or_create_log(settings: Settings) -> Iterator[Log]:
    """The ledger for who writes: an embedded one is made where there is none. Raises as above."""
    with closing(_log(settings, create_embedded_log)) as log:
        yield log


def kafka_settings(settings: Settings, ledger: KafkaLedger) -> "KafkaSettings":
    """How to reach the ledger's broker."""
    from metaledger.schemas.log.kafka import KafkaSettings  # noqa: PLC0415 (only where it is used)

    access = {one.name: getattr(settings.kafka, one.name) for one in fields(settings.kafka)}
    return KafkaSettings(bootstrap=ledger.bootstrap, topic=ledger.topic, **access)


def open_outbox(url: str) -> Engine:
    """A service's database. Raises UsageError.

    `postgresql://` means the driver that is installed with the command line, whatever SQLAlchemy
    has for its default (2.0: psycopg2, 2.1: psycopg).
    """
    bare = "postgresql://"
    engine = open_database(
        f"postgresql+psycopg2://{url.removeprefix(bare)}" if url.startswith(bare) else url
    )
    if "@" in (engine.url.host or ""):
        raise UsageError("the outbox's URL has a password with an @: write %40 for it")
    return engine


@contextmanager
def service_database(
    settings: Settings, service: str, url: str | None
) -> Iterator[tuple[Engine, tuple[Kind[Any], ...]]]:
    """A service's database with an outbox, by default the relay's, and what is in it.

    Raises UsageError, Unreachable.
    """
    if service not in _KINDS:
        raise UsageError(f"{service} is no service whose database is known: {', '.join(_KINDS)}")
    where = url or settings.relay.outbox
    if where is None:
        raise UsageError("which database? Give its URL, or set relay.outbox")
    engine = open_outbox(where)
    try:
        require_service(engine, service, _KINDS[service])
        yield engine, _KINDS[service]
    finally:
        engine.dispose()


@contextmanager
def relay_source(
    settings: Settings, url: str | None = None, spool: Path | None = None
) -> Iterator[tuple[Engine, Outbox]]:
    """What a relay empties: what the arguments name, else what the settings name.

    Raises UsageError, Unreachable.
    """
    if url is None and spool is None:
        url, spool = settings.relay.outbox, settings.relay.spool
    if (url is None) == (spool is None):
        raise UsageError(
            "relay what? Give the URL of an outbox's database, or --spool FILE, and not both; or "
            "set relay.outbox or relay.spool"
        )
    producer = producer_settings(settings)
    if spool is not None:
        of_spool = Spool(spool, producer)
        of_spool.install()
        engine, outbox = of_spool.engine, of_spool.outbox
    else:
        engine, outbox = open_outbox(url or ""), Outbox(producer, producer.codec())
    try:
        yield engine, outbox
    finally:
        engine.dispose()


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """The read model, for writing. Raises VersionMismatch, Unreachable."""
    engine = connect(settings.read_model)
    try:
        yield Store(engine)
    finally:
        engine.dispose()


def create_read_model(settings: Settings) -> None:
    """Makes the read model where there is nothing at all; another build's is left as it is."""
    engine = connect(settings.read_model)
    try:
        with translated(engine):
            if engine.dialect.name == "sqlite":
                absent = not Path(engine.url.database or "").exists()
            else:
                absent = SHARED not in inspect(engine).get_schema_names()
        if absent:
            readmodel.migrate(engine)
    finally:
        engine.dispose()


def _log(settings: Settings, embedded: Callable[[Path], Log]) -> Log:
    match ledger_of(settings.ledger):
        case EmbeddedLedger(path):
            return embedded(path)
        case KafkaLedger() as ledger:
            from metaledger.schemas.log.kafka import open_kafka_log  # noqa: PLC0415 (as above)

            return open_kafka_log(kafka_settings(settings, ledger))

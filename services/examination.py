"""What `doctor` looks at: each part by itself, then whether they agree with one another.

A check gives a sentence about what is there, or raises a MetaledgerError that says what is wrong;
one that needs another that failed is skipped. Nothing is changed, and nothing is made.
"""

import functools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from metaledger.producers import administration, nova_guard
from metaledger.producers.administration import OutboxStatus
from metaledger.producers.nova_compute.settings import SPOOL, ComputeSettings
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.projector import readmodel
from metaledger.projector.database import connect
from metaledger.projector.readmodel import ReadModel
from metaledger.schemas.catalogue import SCHEMAS
from metaledger.schemas.codec import EVENT_BYTES_MAX
from metaledger.schemas.errors import MetaledgerError, OperatorError, UsageError
from metaledger.schemas.framing import read_schema_ids
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.registry import look_up
from metaledger.services import parts, queries
from metaledger.services.health import RECONCILE
from metaledger.services.overlaps import LATELY, overlaps
from metaledger.services.reading import reading
from metaledger.services.service_conf import ServiceConf
from metaledger.services.settings import Settings, redacted

_DISTRIBUTIONS = (
    "fastavro",
    "sqlalchemy",
    "structlog",
    "kafka-python",
    "msgspec",
    "psycopg2-binary",
)
# The one that has no database.
NOVA_COMPUTE = "nova-compute"
_PLUGIN = "metaledger"
# As oslo.config reads a boolean.
_TRUE = ("true", "1", "on", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check's outcome. `fine` is None where it was skipped; `unreachable`: nobody answered."""

    check: str
    fine: bool | None
    text: str
    unreachable: bool = False


def examine(
    settings: Settings, hooked: Mapping[str, Sequence[Path]], clock: Clock = system_clock
) -> Iterator[Finding]:
    """All checks, in an order in which one explains the next. `hooked`: services' files by name, in
    the order in which the service reads them.

    The parts that may be away are asked at once: one by one they would take their time together.
    """
    yield _checked("versions", _versions)
    yield _checked("configuration", lambda: _configuration(settings))
    yield _checked("event size", lambda: _event_size(settings))
    with ThreadPoolExecutor() as looking:
        ledger = looking.submit(_checked, "ledger", lambda: _ledger(settings))
        model = looking.submit(_read_model, settings, is_needed=NOVA_COMPUTE not in hooked)
        others = []
        if settings.registry.schema_ids or settings.registry.url:
            registry = looking.submit(_checked, "schema registry", lambda: _registry(settings))
            others.append(registry)
        if settings.relay.outbox or settings.relay.spool:
            others.append(looking.submit(_checked, "outbox", lambda: _outbox(settings)))
        yield from _ledger_and_model(settings, ledger.result(), model.result(), clock)
        for other in others:
            yield other.result()
    for service, files in hooked.items():
        if service == NOVA_COMPUTE:
            yield from _hooked_compute(settings, files)
        else:
            yield from _hooked(settings, service, files)


def _checked(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check=name, fine=True, text=look())
    except MetaledgerError as error:
        return Finding(check=name, fine=False, text=str(error), unreachable=error.retriable)


def _versions() -> str:
    found = [f"{name} {_version(name)}" for name in ("metaledger", *_DISTRIBUTIONS)]
    return f"Python {platform.python_version()}, " + ", ".join(found)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _configuration(settings: Settings) -> str:
    file = settings.file or "no file, defaults and options alone"
    return (
        f"{file}; ledger {redacted(settings.ledger)}, read model {redacted(settings.read_model)}, "
        f"deployment {settings.deployment_id}"
    )


def _event_size(settings: Settings) -> str:
    if settings.event_bytes_max > EVENT_BYTES_MAX:
        raise UsageError(
            f"event_bytes_max is {settings.event_bytes_max:,}, and the log takes events of at most "
            f"{EVENT_BYTES_MAX:,} bytes: lower it"
        )
    return f"event_bytes_max is {settings.event_bytes_max:,}; producer, topic and reader allow it"


def _ledger_and_model(
    settings: Settings, ledger: Finding, model: Finding, clock: Clock
) -> Iterator[Finding]:
    yield from (ledger, model)
    if ledger.fine and model.fine:
        yield _checked("checkpoint", lambda: _checkpoint(settings))
    else:
        yield Finding(check="checkpoint", fine=None, text="needs the ledger and the read model")
    yield from _needing(model, "owners of event types", lambda: _owners(settings, clock))
    if settings.guard_streams:
        yield from _needing(model, "guard's streams", lambda: _guard_streams(settings))


def _needing(model: Finding, name: str, look: Callable[[], str]) -> Iterator[Finding]:
    if model.fine:
        yield _checked(name, look)
    else:
        yield Finding(check=name, fine=None, text="needs the read model")


def _ledger(settings: Settings) -> str:
    with parts.open_log(settings) as log:
        return f"log {log.topic_id}, partitions: {log.partitions}; its settings keep history"


def _read_model(settings: Settings, *, is_needed: bool) -> Finding:
    """A compute host needs none, unless its guard asks it."""
    if not is_needed and "read_model" not in settings.named:
        return Finding(check="read model", fine=None, text="the settings of this host name none")

    def look() -> str:
        _checked_model(settings)
        return f"format {readmodel.FORMAT}, revision {readmodel.REVISION}"

    return _checked("read model", look)


def _checked_model(settings: Settings) -> ReadModel:
    engine = connect(settings.read_model)
    try:
        return readmodel.check(engine)
    finally:
        engine.dispose()


def _checkpoint(settings: Settings) -> str:
    model = _checked_model(settings)
    if model.topic_id is None:
        return "nothing is projected yet: run `metaledger project`"
    with parts.open_log(settings) as log:
        if (model.topic_id, model.partitions) != (log.topic_id, log.partitions):
            raise OperatorError(
                f"the read model was made from log {model.topic_id} with {model.partitions} "
                f"partitions, and this is log {log.topic_id} with {log.partitions}"
            )
        bounds = log.bounds()
    with reading(settings.read_model) as connection:
        checkpoints = queries.ledger.checkpoints(connection)
    for row in checkpoints:
        first, end = bounds[row["log_partition"]]
        if not first <= row["next_offset"] <= end:
            raise OperatorError(
                f"partition {row['log_partition']} holds {first} to {end}, and the read model is "
                f"at {row['next_offset']}: history was deleted, or the log made anew"
            )
    lag = sum(bounds[row["log_partition"]][1] - row["next_offset"] for row in checkpoints)
    return f"within the log, {lag:,} records behind its end"


def _registry(settings: Settings) -> str:
    file = settings.registry.schema_ids
    ids = None
    if file is not None:
        ids = read_schema_ids(file)
        missing = [one for one in SCHEMAS if one.fingerprint not in ids.by_fingerprint]
        if missing:
            raise UsageError(
                f"{file} lacks the id of {missing[0].type} v{missing[0].version}: run "
                "`metaledger schema register`"
            )
    if settings.registry.url is None:
        return f"{file} has an id for each of {len(SCHEMAS)} schemas; no registry.url to compare"
    registered = look_up(parts.registry_access(settings))
    if ids is not None and dict(ids.by_fingerprint) != dict(registered.by_fingerprint):
        raise UsageError(f"{file} and the registry differ: run `metaledger schema register`")
    return f"it has {len(registered.by_fingerprint)} of {len(SCHEMAS)} schemas"


def _owners(settings: Settings, clock: Clock) -> str:
    with reading(settings.read_model) as connection:
        told = queries.ledger.tellers(connection, clock() - LATELY)
        reporting = {row["stream_id"] for row in queries.ledger.streams(connection)}
    if found := overlaps(told, reporting):
        more = f", and {len(found) - 1} more overlaps" if len(found) > 1 else ""
        raise OperatorError(
            f"{found[0]}{more}; what is over is forgotten here after {LATELY.days} days"
        )
    types = {row["event_type"] for row in told}
    return (
        f"{len(types)} event types observed in the last {LATELY.days} days, each from its one owner"
    )


def _guard_streams(settings: Settings) -> str:
    with reading(settings.read_model) as connection:
        reporting = {row["stream_id"] for row in queries.ledger.streams(connection)}
    unheard = [stream for stream in settings.guard_streams if stream not in reporting]
    if unheard:
        raise OperatorError(
            f"guard_streams names {', '.join(unheard)}, and none of that name ever reported, so "
            "the guard allows nothing: `metaledger outbox status` shows an outbox's stream"
        )
    return f"{len(settings.guard_streams)} named, and each has reported"


def _outbox(settings: Settings) -> str:
    with parts.relay_source(settings) as (engine, _):
        found = administration.status(engine)
    return (
        f"stream {found.stream_id}, epoch {found.epoch}, {found.rows_waiting:,} events wait"
        f"{_lacking(found)}"
    )


def _lacking(found: OutboxStatus) -> str:
    if not found.unrecorded_aggregates:
        return ""
    return f"; {found.unrecorded_aggregates:,} aggregates lack a change: run `{RECONCILE}`"


def _hooked(settings: Settings, service: str, files: Sequence[Path]) -> Iterator[Finding]:
    yield from _looked_at(
        files,
        {
            f"{service}: plugin": _plugin,
            f"{service}: [metaledger]": lambda conf: _hook_settings(settings, conf),
            f"{service}: outbox": lambda conf: _hook_outbox(settings, service, conf),
        },
    )


def _hooked_compute(settings: Settings, files: Sequence[Path]) -> Iterator[Finding]:
    yield from _looked_at(
        files,
        {
            f"{NOVA_COMPUTE}: driver": _driver,
            f"{NOVA_COMPUTE}: [metaledger]": lambda conf: _hook_settings(settings, conf),
            f"{NOVA_COMPUTE}: spool": lambda conf: _hook_spool(settings, conf),
        },
    )


def _looked_at(
    files: Sequence[Path], looks: Mapping[str, Callable[[ServiceConf], str]]
) -> Iterator[Finding]:
    """What each look finds; where the files cannot be read, that alone."""
    try:
        conf = ServiceConf(files)
    except UsageError as error:
        yield Finding(check=next(iter(looks)), fine=False, text=str(error))
        return
    for name, look in looks.items():
        yield _checked(name, functools.partial(look, conf))


def _plugin(conf: ServiceConf) -> str:
    query = urlsplit(conf.get("database", "connection")).query
    named = [
        name
        for text in (conf.get("database", "connection_parameters"), query)
        for value in parse_qs(text).get("plugin", [])
        for name in value.split(",")
    ]
    if _PLUGIN not in named:
        raise UsageError(
            f"{conf.name} does not load the plugin: in [database] set connection_parameters = "
            f"plugin={_PLUGIN}"
        )
    return f"{conf.name} loads it"


def _driver(conf: ServiceConf) -> str:
    notifications = "oslo_messaging_notifications"
    named = conf.every(notifications, "driver")
    if _PLUGIN not in named:
        raise UsageError(
            f"{conf.name} does not load the driver: in [{notifications}] add driver = {_PLUGIN}"
        )
    return f"{conf.name} loads it, with {len(named) - 1} others"


def _hook_settings(settings: Settings, conf: ServiceConf) -> str:
    given = conf.section("metaledger")
    known = {one.name for kind in (ProducerSettings, ComputeSettings) for one in fields(kind)}
    if unknown := sorted(given.keys() - known - nova_guard.OPTIONS):
        raise UsageError(f"{conf.name}: [metaledger] has no setting {unknown[0]}")
    if (given.get("guard") or "").lower() in _TRUE and not given.get("guard_command"):
        raise UsageError(
            f"{conf.name} sets the guard without a guard_command: nova-compute won't start"
        )
    deployment = given.get("deployment_id") or "default"
    if deployment != settings.deployment_id:
        raise UsageError(
            f"{conf.name} writes for deployment {deployment}, and this ledger is of "
            f"{settings.deployment_id}: its events would be quarantined"
        )
    largest = given.get("event_bytes_max") or str(EVENT_BYTES_MAX)
    if not largest.isdigit() or int(largest) > settings.event_bytes_max:
        raise UsageError(
            f"{conf.name} has event_bytes_max {largest}, and the readers here take at most "
            f"{settings.event_bytes_max}"
        )
    if bool(given.get("schema_ids_file")) and settings.registry.schema_ids is None:
        raise UsageError(
            f"{conf.name} writes the Confluent frame: set registry.schema_ids here too"
        )
    strict = (given.get("strict") or "").lower() in _TRUE
    return f"agrees with these settings{', strict' if strict else ''}"


def _hook_outbox(settings: Settings, service: str, conf: ServiceConf) -> str:
    url = conf.get("database", "connection")
    if not url:
        raise UsageError(f"{conf.name} has no [database] connection")
    with parts.service_database(settings, service, url.partition("?")[0]) as (engine, _):
        found = administration.status(engine)
    return (
        f"stream {found.stream_id} in {redacted(url)}, {found.rows_waiting:,} events wait"
        f"{_lacking(found)}"
    )


def _hook_spool(settings: Settings, conf: ServiceConf) -> str:
    path = Path(conf.get("metaledger", "spool") or SPOOL)
    if not path.is_file():
        raise UsageError(
            f"{path} is not there: nova-compute makes it when it starts, with its first event"
        )
    engine = Spool(path, parts.producer_settings(settings)).engine
    try:
        found = administration.status(engine)
    finally:
        engine.dispose()
    return f"stream {found.stream_id} in {path}, {found.rows_waiting:,} events wait"

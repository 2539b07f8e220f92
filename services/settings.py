"""The settings of a process: one frozen record, built once; nothing else reads the environment.

Each setting comes from the command line, else from its environment variable, else from the
configuration file, else from its default here. The file is TOML with the names of the records
below; a name or a type that is not one of them is refused. It is the one that `--config` or
METALEDGER_CONFIG names, else `metaledger/metaledger.toml` in the user's configuration folder, else
`/etc/metaledger/metaledger.toml`. A relative path in it is relative to it. Secrets stand in the
file alone, and nothing here prints them: `redacted` is what may be shown of a URL.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from metaledger.producers.settings import OUTBOX_ROWS_MAX, RelaySettings
from metaledger.projector.project import Settings as ProjectorSettings
from metaledger.schemas.codec import EVENT_BYTES_MAX
from metaledger.schemas.errors import UsageError
from metaledger.schemas.log.topic import PARTITIONS_DEFAULT, REPLICATION_DEFAULT

LEDGER_VARIABLE = "METALEDGER_LEDGER_URL"
READ_MODEL_VARIABLE = "METALEDGER_READ_MODEL_URL"
CONFIG_VARIABLE = "METALEDGER_CONFIG"
SQLITE_URL = "sqlite:///"
KAFKA_URL = "kafka://"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaAccess:
    """How a broker lets clients in: `schemas.log.kafka.KafkaSettings` without the ledger's URL."""

    tls: bool = False
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_key_password: str | None = field(default=None, repr=False)
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    send_timeout_s: float = 30.0
    session_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """How `topic create` makes a topic."""

    partitions: int = PARTITIONS_DEFAULT
    replication: int = REPLICATION_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """A schema registry with the Confluent-compatible API, and the file of the ids that it gave.

    Where `schema_ids` is set, records have the Confluent frame.
    """

    url: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    schema_ids: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySection(RelaySettings):
    """What `metaledger relay` empties, and how: a database's outbox (its URL) or a spool's file.

    `outbox_rows_max` is the limit that the service was given. `metrics_file` is written anew with
    each report, in Prometheus' text format.
    """

    outbox: str | None = field(default=None, repr=False)
    spool: Path | None = None
    outbox_rows_max: int = OUTBOX_ROWS_MAX
    metrics_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of it.

    `spool_folder` holds the operator's own spools, one for each ledger. `guard` calls a source
    fresh for `guard_source_lag_max_s` and waits `guard_wait_s` for the projector; `guard_streams`
    are the sources that place instances (none named: all that report). `user` is who runs this
    process, `file` the configuration file that was read, and `named` says which of `ledger` and
    `read_model` somebody chose.
    """

    ledger: str = field(default="sqlite:///metaledger.db", repr=False)
    read_model: str = field(default="sqlite:///metaledger-read.db", repr=False)
    deployment_id: str = "default"
    event_bytes_max: int = EVENT_BYTES_MAX
    spool_folder: Path
    # A relay reports every 20 s: of three reports one may be late.
    guard_source_lag_max_s: float = 60.0
    guard_wait_s: float = 5.0
    guard_streams: tuple[str, ...] = ()
    kafka: KafkaAccess = KafkaAccess()
    topic: TopicSettings = TopicSettings()
    registry: RegistrySettings = RegistrySettings()
    relay: RelaySection = RelaySection()
    projector: ProjectorSettings = field(default_factory=ProjectorSettings)
    user: str | None = None
    file: Path | None = None
    named: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EmbeddedLedger:
    """A SQLite file."""

    path: Path


@dataclass(frozen=True, slots=True)
class KafkaLedger:
    """A topic of a broker."""

    bootstrap: str
    topic: str


def load_settings(
    *,
    ledger: str | None,
    read_model: str | None,
    config: Path | None,
    environment: Mapping[str, str],
) -> Settings:
    """The settings of this process. Raises UsageError, which names the file and the setting."""
    file = _file(config, environment)
    given = _read(file) if file else {}
    settings = Settings(
        **{"spool_folder": _state_folder(environment) / "spool", **given},
        user=environment.get("SUDO_USER") or environment.get("USER"),
        file=file,
    )
    if settings.relay.lease_s <= settings.kafka.send_timeout_s:
        raise UsageError(
            f"relay.lease_s is {settings.relay.lease_s:g}, and a send may take "
            f"kafka.send_timeout_s, {settings.kafka.send_timeout_s:g}: each slow send would lose "
            "the lease; make the lease longer"
        )
    of_ledger = ledger or environment.get(LEDGER_VARIABLE) or given.get("ledger")
    of_model = read_model or environment.get(READ_MODEL_VARIABLE) or given.get("read_model")
    chosen = {"ledger": of_ledger, "read_model": of_model}
    _refuse_one_file(of_ledger or settings.ledger, of_model or settings.read_model)
    return replace(
        settings,
        ledger=of_ledger or settings.ledger,
        read_model=of_model or settings.read_model,
        named=frozenset(name for name, url in chosen.items() if url),
    )


def process_environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def ledger_of(url: str) -> EmbeddedLedger | KafkaLedger:
    """What a ledger's URL names. Raises UsageError."""
    if url.startswith(SQLITE_URL) and len(url) > len(SQLITE_URL):
        return EmbeddedLedger(Path(url.removeprefix(SQLITE_URL)))
    bootstrap, _, topic = url.removeprefix(KAFKA_URL).partition("/")
    if url.startswith(KAFKA_URL) and "@" in url:
        raise UsageError(
            f"the ledger {redacted(url)}: user and password stand in the configuration, [kafka]"
        )
    if url.startswith(KAFKA_URL) and bootstrap and re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic):
        return KafkaLedger(bootstrap, topic)
    raise UsageError(
        f"the ledger {redacted(url)} is neither sqlite:///FILE nor kafka://HOST:PORT/TOPIC"
    )


def _refuse_one_file(ledger: str, read_model: str) -> None:
    """The projector's batches would hold up who writes, and to drop the tables the truth."""
    files = [re.fullmatch(r"sqlite(?:\+\w+)?:///(.+)", url) for url in (ledger, read_model)]
    paths = [Path(found[1]) for found in files if found]
    try:
        is_one = len(paths) == len(files) and (
            paths[0].resolve() == paths[1].resolve() or paths[0].samefile(paths[1])
        )
    except (OSError, RuntimeError, ValueError):  # one is not there, or no name of a file
        return
    if is_one:
        raise UsageError(
            f"ledger and read model are one file, {paths[0]}: the read model needs a file of its "
            "own (--read-model, or read_model in the configuration)"
        )


def redacted(url: str) -> str:
    """The URL without its password and its query, either of which may hold a secret."""
    # Up to the last @: a password may hold one that nobody escaped.
    shown = re.sub(r"(//[^/@]*?):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"\?.*", "?***", shown)


def _file(config: Path | None, environment: Mapping[str, str]) -> Path | None:
    named = config or environment.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    usual = (Path(home), Path("/etc"))
    found = (folder / "metaledger" / "metaledger.toml" for folder in usual)
    return next((file for file in found if file.is_file()), None)


def _state_folder(environment: Mapping[str, str]) -> Path:
    given = environment.get("XDG_STATE_HOME")
    home = Path(environment.get("HOME", "/"))
    return (Path(given) if given else home / ".local" / "state") / "metaledger"


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # The system's own text names the file once more.
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the configuration file {file} cannot be read: {why}") from error
    try:
        given = _members(Settings, raw, "", file.absolute().parent)
    except UsageError as error:
        raise UsageError(f"the configuration file {file}: {error}") from None
    for name in ("ledger", "read_model"):
        if name in given:
            given[name] = _beside(given[name], file.absolute().parent)
    return given


def _beside(url: str, folder: Path) -> str:
    """The URL of a SQLite file with its path made absolute: the file's place is the reference."""
    path = url.removeprefix(SQLITE_URL)
    return f"{SQLITE_URL}{folder / path}" if path != url and path else url


# What a table of the file cannot say: it comes from the process, or stands elsewhere in the file.
_NOT_IN_FILE = {Settings: ("file", "user", "named"), ProjectorSettings: ("deployment_id",)}


def _members(cls: type, raw: Mapping[str, Any], path: str, folder: Path) -> dict[str, Any]:
    """The members of a settings record that a table of the file gives, typed."""
    not_here: tuple[str, ...] = _NOT_IN_FILE.get(cls, ())
    known = [one.name for one in fields(cls) if one.name not in not_here]
    hints = get_type_hints(cls)
    members = {}
    for name, value in raw.items():
        if name not in known:
            raise UsageError(f"{path}{name} is no setting; here are {', '.join(known)}")
        read = _strings if get_origin(hints[name]) is tuple else _value
        members[name] = read(hints[name], value, path + name, folder)
    return members


def _strings(_hint: Any, value: Any, path: str, _folder: Path) -> tuple[str, ...]:  # noqa: ANN401
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise UsageError(f"{path}: expected a list of strings, got {type(value).__name__}")


def _value(hint: Any, value: Any, path: str, folder: Path) -> Any:  # noqa: ANN401 (raw TOML)
    # `str | None` is one of several, and `Literal` stands for its words.
    types: list[Any] = [one for one in (get_args(hint) or (hint,)) if one is not type(None)]
    wanted = types[0]
    if get_origin(wanted) is Literal:
        if value in get_args(wanted):
            return value
        expected = "one of " + ", ".join(get_args(wanted))
    elif hasattr(wanted, "__dataclass_fields__"):
        if isinstance(value, dict):
            return wanted(**_members(wanted, value, path + ".", folder))
        expected = "a table"
    elif wanted is Path and isinstance(value, str):
        return folder / value
    elif type(value) is wanted or (wanted is float and type(value) is int):
        return wanted(value)
    else:
        expected = _EXPECTED[wanted]
    raise UsageError(f"{path}: expected {expected}, got {type(value).__name__}")


_EXPECTED = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Path: "a path",
}

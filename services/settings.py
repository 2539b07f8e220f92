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
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from metaledger.schemas.codec import EVENT_BYTES_MAX
from metaledger.schemas.errors import UsageError

LEDGER_VARIABLE = "METALEDGER_LEDGER_URL"
READ_MODEL_VARIABLE = "METALEDGER_READ_MODEL_URL"
CONFIG_VARIABLE = "METALEDGER_CONFIG"
_SQLITE = "sqlite:///"
_KAFKA = "kafka://"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """How clients reach the broker; the names are those of kafka-python."""

    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """How `topic create` makes a topic."""

    partitions: int = 12
    replication: int = 3
    min_insync_replicas: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """A schema registry with the Confluent-compatible API, and the file of the ids that it gave.

    Where `schema_ids` is set, records have the Confluent frame.
    """

    url: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    schema_ids: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """The outbox (a database's URL) or the spool (a file) that `metaledger relay` empties."""

    outbox: str | None = field(default=None, repr=False)
    spool: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of it. `spool_folder` holds the operator's own spools, one for each ledger."""

    ledger: str = field(default="sqlite:///metaledger.db", repr=False)
    read_model: str = field(default="sqlite:///metaledger-read.db", repr=False)
    deployment_id: str = "default"
    event_bytes_max: int = EVENT_BYTES_MAX
    spool_folder: Path
    kafka: KafkaSettings = KafkaSettings()
    topic: TopicSettings = TopicSettings()
    registry: RegistrySettings = RegistrySettings()
    relay: RelaySettings = RelaySettings()
    file: Path | None = None


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
        **{"spool_folder": _state_folder(environment) / "spool", **given, "file": file}
    )
    return replace(
        settings,
        ledger=ledger or environment.get(LEDGER_VARIABLE) or settings.ledger,
        read_model=read_model or environment.get(READ_MODEL_VARIABLE) or settings.read_model,
    )


def process_environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def process_user() -> str:
    """Who runs this process, as an event names its host's user; `unknown` where nobody says."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or "unknown"


def ledger_of(url: str) -> EmbeddedLedger | KafkaLedger:
    """What a ledger's URL names. Raises UsageError."""
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return EmbeddedLedger(Path(url.removeprefix(_SQLITE)))
    bootstrap, _, topic = url.removeprefix(_KAFKA).partition("/")
    if url.startswith(_KAFKA) and bootstrap and re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic):
        return KafkaLedger(bootstrap, topic)
    raise UsageError(
        f"the ledger {redacted(url)} is neither sqlite:///FILE nor kafka://HOST:PORT/TOPIC"
    )


def redacted(url: str) -> str:
    """The URL without its password and its query, either of which may hold a secret."""
    shown = re.sub(r"(//[^/@]*?):[^@]*@", r"\1:***@", url)
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
        raise UsageError(f"the configuration file {file} cannot be read: {error}") from error
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
    path = url.removeprefix(_SQLITE)
    return f"{_SQLITE}{folder / path}" if path != url and path else url


def _members(cls: type, raw: Mapping[str, Any], path: str, folder: Path) -> dict[str, Any]:
    """The members of a settings record that a table of the file gives, typed."""
    known: dict[str, Field[Any]] = {one.name: one for one in fields(cls) if one.name != "file"}
    hints = get_type_hints(cls)
    members = {}
    for name, value in raw.items():
        if name not in known:
            raise UsageError(f"{path}{name} is no setting; here are {', '.join(known)}")
        members[name] = _value(hints[name], value, path + name, folder)
    for name, one in known.items():
        if path and one.default is MISSING and name not in members:
            raise UsageError(f"{path}{name} is missing")
    return members


def _value(hint: Any, value: Any, path: str, folder: Path) -> Any:  # noqa: ANN401 (raw TOML)
    types = get_args(hint) or (hint,)
    if Path in types and isinstance(value, str):
        return folder / value
    for cls in (str, int):
        if cls in types and type(value) is cls:
            return value
    record = types[0]
    if isinstance(value, dict) and hasattr(record, "__dataclass_fields__"):
        return record(**_members(record, value, path + ".", folder))
    expected = {str: "a string", int: "an integer", Path: "a path"}.get(record, "a table")
    raise UsageError(f"{path}: expected {expected}, got {type(value).__name__}")

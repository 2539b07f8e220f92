"""What the reader, the writer and the administration of Kafka share: settings, errors, life-cycle.

Rules: every client is made late, in the process and thread that uses it, and none is left behind
when its making fails; kafka-python's log is silent unless the operator gave the logger `kafka` a
level, since each failure is told by an error of ours; even then it does not tell what goes over the
wire, for that has the password in it.
"""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

from kafka import errors
from kafka.codec import has_zstd
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

from metaledger.schemas.errors import LogRefused, MetaledgerError, Unreachable, UsageError

# Together below the 10 s in which a start has to say that nobody is there: the connection, and then
# two requests (metadata and settings).
CONNECT_TIMEOUT_S: Final = 4.0
REQUEST_TIMEOUT_S: Final = 2.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Where the log is and how to be let in. `bootstrap` is `host:port`, several with commas.

    With SASL a name and a password are asked for; TLS is on with `tls` or any of its files. An
    append waits `send_timeout_s` at most; a member of a group that died is given up after
    `session_timeout_s`.
    """

    bootstrap: str
    topic: str
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


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """The part of a client's configuration that all of them have. Raises UsageError."""
    files = (settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
    tls = settings.tls or any(files)
    if not has_zstd():
        raise UsageError("Kafka needs its compression: pip install 'metaledger[kafka]'")
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "bootstrap_timeout_ms": int(CONNECT_TIMEOUT_S * 1000),
        "reconnect_backoff_max_ms": 1_000,
        "security_protocol": ("SASL_" if settings.sasl_mechanism else "")
        + ("SSL" if tls else "PLAINTEXT"),
    }
    if tls:
        config["ssl_context"] = _tls_context(settings)
    if settings.sasl_mechanism:
        if not settings.sasl_username or not settings.sasl_password:
            raise UsageError(f"SASL {settings.sasl_mechanism} needs a user name and a password")
        config["sasl_mechanism"] = settings.sasl_mechanism
        config["sasl_plain_username"] = settings.sasl_username
        config["sasl_plain_password"] = settings.sasl_password
    return config


def _tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
        if settings.tls_cert_file:
            context.load_cert_chain(
                settings.tls_cert_file,
                settings.tls_key_file,
                # An empty one rather than none: OpenSSL would ask at the terminal.
                settings.tls_key_password or "",
            )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError(f"the TLS files for Kafka cannot be used: {error}") from error
    return context


def connected(make: Callable[..., _T], config: dict[str, Any]) -> _T:
    """The client, connected. Raises what kafka-python ran into, and leaves nothing running then:
    a client whose constructor fails has started a thread, and cannot be closed.
    """
    started: list[KafkaNetClient] = []

    def start(**given: Any) -> KafkaNetClient:  # noqa: ANN401 (kafka-python's own form)
        net = NetworkSelector(**given)
        started.append(KafkaNetClient(net, _Connections(net, **given)))
        return started[-1]

    try:
        return make(kafka_client=start, **config)
    except BaseException as error:
        causes = [client._manager.last_failure for client in started]  # noqa: SLF001
        for client in started:
            client.close()
        if isinstance(error, errors.KafkaTimeoutError) and any(causes):
            raise causes[0] from error
        raise


class _Connections(KafkaConnectionManager):  # type: ignore[misc] # kafka-python has no types
    """Remembers why nobody could be reached; kafka-python says only that the time is over."""

    last_failure: errors.KafkaError | None = None

    def __init__(self, net: NetworkSelector, **given: Any) -> None:  # noqa: ANN401 (as above)
        super().__init__(net, **given)
        # kafka-python 3.0.12 takes this setting and gives it to nobody: to ask for a topic that is
        # gone made it anew, with the broker's defaults.
        asked = given.get("allow_auto_create_topics", False)
        self.cluster.config["allow_auto_create_topics"] = asked

    def get_connection(self, node_id: Any, **how: Any) -> Any:  # noqa: ANN401
        connection = super().get_connection(node_id, **how)
        if not connection.init_future.is_done:
            connection.init_future.add_errback(self._remember)
        return connection

    def _remember(self, error: Exception) -> None:
        # After a refusal the broker lets the next attempts wait: that is not the cause.
        if isinstance(error, errors.KafkaError) and not isinstance(self.last_failure, _NOT_ALLOWED):
            self.last_failure = error


class PerProcess(Generic[_T]):
    """Something that is made when it is first wanted, and again in a process forked since."""

    def __init__(self, make: Callable[[], _T]) -> None:
        """`make` may raise; then the next `get` tries again."""
        self._make = make
        self._held: tuple[int, _T] | None = None

    def get(self) -> _T:
        """This process's own."""
        if self._held is None or self._held[0] != os.getpid():
            if self._held is not None:
                # Never closed here: its connections are the parent's.
                _INHERITED.append(self._held)
            self._held = (os.getpid(), self._make())
        return self._held[1]

    def take(self) -> _T | None:
        """Hands it over to be closed, if this process has made one."""
        held, self._held = self._held, None
        return held[1] if held is not None and held[0] == os.getpid() else None


_INHERITED: list[Any] = []


@contextmanager
def kafka_errors(settings: KafkaSettings) -> Iterator[None]:
    """Says in one sentence, by whose fault, what kafka-python ran into."""
    try:
        yield
    except errors.KafkaError as error:
        raise _translated(error, settings) from error
    except ValueError as error:  # a port that is no number; a name with a blank
        raise UsageError(f"{settings.bootstrap!r} is no address of Kafka: {error}") from error


_NOT_IN_THE_LOG: Final = (
    errors.OffsetOutOfRangeError,
    errors.NoOffsetForPartitionError,
    errors.LogTruncationError,
)
_NOT_ALLOWED: Final = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
)


def _translated(error: errors.KafkaError, settings: KafkaSettings) -> MetaledgerError:
    topic, broker = f"topic {settings.topic}", f"Kafka at {settings.bootstrap}"
    said = said_by(error)
    if isinstance(error, _NOT_IN_THE_LOG):
        return LogRefused(
            f"{topic} does not hold the position to read from ({said}): its beginning was deleted, "
            "or it is not the log that this position was taken in"
        )
    if isinstance(error, errors.CorruptRecordError):
        return LogRefused(f"{topic} holds a record that no client can read ({said})")
    if isinstance(error, _NOT_ALLOWED):
        return UsageError(
            f"{broker} does not allow this ({said}): look at user and password, and at its rights"
        )
    # Behind TLS kafka-python 3.0.12 mostly sees a wrong password as a closed connection.
    hint = "; if it is up, look at user and password" if settings.sasl_mechanism else ""
    return Unreachable(f"{broker} cannot be reached or does not answer ({said}){hint}")


def said_by(error: errors.KafkaError) -> str:
    """The error on one line, cut short: some have a whole request in them."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _SAID_CHARS_MAX else text[: _SAID_CHARS_MAX - 1] + "…"


_SAID_CHARS_MAX: Final = 200


class _LenientBatch(DefaultRecordBatch):  # type: ignore[misc] # kafka-python has no types
    """Reads a record whose header names are not UTF-8, without its headers.

    kafka-python raises there, before the record can be put aside, and cannot get past it.
    """

    __slots__ = ()

    def _read_msg(self, *varint: Any) -> DefaultRecord:  # noqa: ANN401
        try:
            return super()._read_msg(*varint)
        except UnicodeDecodeError:
            return self._read_without_headers()

    def _read_without_headers(self) -> DefaultRecord:
        length, start = decode_varint(self._buffer, self._pos)  # type: ignore[has-type]
        at = start
        head = []
        for _ in ("attributes", "timestamp", "offset"):
            number, at = decode_varint(self._buffer, at)
            head.append(number)
        parts = []
        for _ in ("key", "value"):
            size, at = decode_varint(self._buffer, at)
            parts.append(bytes(self._buffer[at : at + size]) if size >= 0 else None)
            at += max(size, 0)
        self._pos = start + length  # type: ignore[misc]
        offset = self.base_offset + head[2]
        return DefaultRecord(length, offset, self.max_timestamp, self.timestamp_type, *parts, [])


memory_records.DefaultRecordBatch = _LenientBatch

_LOGGER = logging.getLogger("kafka")
if _LOGGER.level == logging.NOTSET:
    _LOGGER.setLevel(logging.CRITICAL)
for _name in ("admin.client", "net.connection", "net.sasl", "protocol.parser"):
    _LOGGER.getChild(_name).addFilter(lambda record: record.levelno > logging.DEBUG)

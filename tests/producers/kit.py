"""What the tests of the writing side are made of: a small service, its events, a log that fails."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    make_url,
    select,
)

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.emitter import Emitter
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings, RelaySettings
from metaledger.producers.tables import METADATA, outbox
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Draft, Event
from metaledger.schemas.image import ImageUpdated, Mode, PropertyChange
from metaledger.schemas.log import LogRecord, LogWriter, NewRecord, Outcome, Refused, Unsent
from metaledger.schemas.log.embedded import EmbeddedLog
from metaledger.schemas.meta import Context, Origin

SQLITE = pytest.param("sqlite")
POSTGRESQL = pytest.param("postgres", marks=pytest.mark.postgres)
MARIADB = pytest.param("mariadb", marks=pytest.mark.mariadb)
DATABASES = (SQLITE, POSTGRESQL, MARIADB)

SETTINGS = ProducerSettings(service="shop", host="shop-1")
CODEC = Codec()
START = datetime(2026, 1, 1, tzinfo=UTC)

changes = Table(
    "changes",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("image", String(64), nullable=False),
    Column("value", String(64), nullable=False),
)


class Clock:
    """A clock that goes on by a microsecond each time it is read, and by what a test adds."""

    def __init__(self) -> None:
        self.now = START
        self._ticking = threading.Lock()

    def __call__(self) -> datetime:
        # Two threads that tick at once could turn it back.
        with self._ticking:
            self.now += timedelta(microseconds=1)
            return self.now

    def add(self, seconds: float) -> None:
        with self._ticking:
            self.now += timedelta(seconds=seconds)


@dataclass
class Service:
    """A program with a database of its own, which emits with its changes."""

    url: str
    settings: ProducerSettings = SETTINGS
    engines: list[Engine] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.settings, CODEC, clock=self.clock)
        self.emitter = Emitter(self.outbox)
        self.engine = self.new_engine()

    def new_engine(self, **options: object) -> Engine:
        return self.listened(create_engine(self.url, **options))

    def listened(self, engine: Engine) -> Engine:
        """An engine of the service's, just made."""
        self.outbox.listen(engine)
        self.engines.append(engine)
        return engine

    def with_settings(self, **changed: object) -> "Service":
        """Another process of the same service, with other settings."""
        settings = replace(self.settings, **changed)
        return Service(self.url, settings, self.engines, self.clock)

    def change(self, connection: Connection, image: str, value: str) -> None:
        """The service's own change, with its event."""
        connection.execute(insert(changes), {"image": image, "value": value})
        self.emitter.emit(connection, [draft(image, value)])

    def commit_change(self, image: str, value: str) -> None:
        with self.engine.begin() as connection:
            self.change(connection, image, value)

    def values(self) -> list[tuple[str, str]]:
        with self.engine.connect() as connection:
            query = select(changes.c.image, changes.c.value).order_by(changes.c.id)
            return [(image, value) for image, value in connection.execute(query)]

    def waiting(self) -> list[Event]:
        """The events in the outbox, in the order of their numbers."""
        columns = (outbox.c.value, outbox.c.sha256)
        query = select(*columns).order_by(outbox.c.aggregate, outbox.c.epoch, outbox.c.stream_seq)
        with self.engine.connect() as connection:
            return [CODEC.decode(bytes(v), bytes(h)) for v, h in connection.execute(query)]

    def status(self) -> administration.OutboxStatus:
        return administration.status(self.engine)

    def drop_tables(self) -> None:
        METADATA.drop_all(self.engine)

    def install(self) -> None:
        administration.install(self.engine, clock=self.clock)


@contextmanager
def serving(request: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    """A service whose database, of the kind that the fixture's parameter says, has an outbox."""
    name = request.param
    made = Service(
        sqlite_url(folder) if name == "sqlite" else request.getfixturevalue(f"{name}_url")
    )
    changes.metadata.create_all(made.engine)
    made.install()
    yield made
    for engine in made.engines:
        engine.dispose()


def on(*databases: ParameterSet) -> pytest.MarkDecorator:
    """Runs a test with `service` on these databases alone."""
    return pytest.mark.parametrize("service", databases, indirect=True)


def draft(image: str, value: str = "x", *, origin: Origin = Origin.OBSERVED) -> Draft:
    change = PropertyChange(mode=Mode.MERGE, set={"key": value})
    data = ImageUpdated(image_id=image, change=change)
    context = Context(service="shop", host="shop-1")
    return Draft(data=data, aggregate=data.aggregate, context=context, origin=origin)


def told(events: Iterable[Event]) -> list[tuple[str, str]]:
    """What the events of `draft` tell: image and value."""
    pairs = []
    for it in events:
        assert isinstance(it.data, ImageUpdated)
        pairs.append((it.data.image_id, str(it.data.change.set["key"])))
    return pairs


def numbers(events: Iterable[Event]) -> list[tuple[str, int, int]]:
    return [(it.meta.aggregate, it.meta.epoch, it.meta.stream_seq) for it in events]


class Halted(Exception):
    """The relay's process ends here."""


def halt() -> None:
    raise Halted


@dataclass
class FailingLog:
    """A real log's writer that a test lets fail: refuse keys, lose answers, end the process."""

    writer: LogWriter
    refused: set[str] = field(default_factory=set)
    unsent: bool = False
    unanswered: bool = False
    before: Callable[[], None] = lambda: None
    behind: Callable[[], None] = lambda: None
    appends: list[list[str]] = field(default_factory=list)

    def append(self, records: Sequence[NewRecord]) -> Sequence[Outcome]:
        self.appends.append([record.key for record in records])
        self.before()
        if self.unsent:
            return [Unsent("the log is away")] * len(records)
        # As logs do: behind a refused record those of its key are not taken.
        taken = [record for record in records if record.key not in self.refused]
        answers = iter(self.writer.append(taken))
        self.behind()
        if self.unanswered:
            return [Unsent("no answer")] * len(records)
        outcomes: list[Outcome] = []
        for record in records:
            if record.key not in self.refused:
                outcomes.append(next(answers))
            elif record.key in {it.key for it in records[: len(outcomes)]}:
                outcomes.append(Unsent("behind a refused record"))
            else:
                outcomes.append(Refused("too large"))
        return outcomes

    def close(self) -> None:
        self.writer.close()


def logged(log: EmbeddedLog) -> list[LogRecord]:
    """Everything in the log but the sources' progress."""
    return [it for it in log.read(0, records_max=100_000) if not str(it.key).startswith("stream:")]


def logged_events(log: EmbeddedLog) -> list[Event]:
    return [CODEC.decode(it.value, it.sha256) for it in logged(log)]


def first_times(log: EmbeddedLog) -> list[Event]:
    """What a reader keeps: repeats dropped by their id."""
    seen: dict[str, Event] = {}
    for it in logged_events(log):
        seen.setdefault(it.meta.event_id, it)
    return list(seen.values())


def assert_runs_without_holes(log: EmbeddedLog) -> None:
    """Each aggregate's numbers are 1, 2, 3 … where a reader sees them first."""
    last: dict[tuple[str, str, int], int] = {}
    for it in first_times(log):
        lane = (it.meta.aggregate, it.meta.stream_id, it.meta.epoch)
        assert it.meta.stream_seq == last.get(lane, 0) + 1, lane
        last[lane] = it.meta.stream_seq


def new_relay(
    service: Service, writer: LogWriter, *, owner: str = "relay-1", **options: object
) -> Relay:
    engine = open_database(service.engine.url)
    service.engines.append(engine)
    return Relay(
        engine,
        writer,
        service.outbox,
        partitions=1,
        owner=owner,
        settings=RelaySettings(**options),  # type: ignore[arg-type]
        clock=service.clock,
    )


@contextmanager
def halting_before(engine: Engine, words: str) -> Iterator[None]:
    """The process ends just before a statement with these words (COMMIT is one)."""

    def statement(_c: object, _cursor: object, text: str, *_rest: object) -> None:
        if words in text:
            raise Halted

    def commit(_connection: object) -> None:
        if words == "COMMIT":
            raise Halted

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", statement)
        event.remove(engine, "commit", commit)


def sqlite_url(folder: Path) -> str:
    path = folder / "service.db"
    path.touch()
    return make_url(f"sqlite:///{path}?timeout=30").render_as_string(hide_password=False)

"""A hooked service that has run for a while is killed between any two statements, and its
transaction is run again.
"""

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)

from metaledger.producers.administration import install, status
from metaledger.schemas.events import Event
from metaledger.schemas.instance import InstanceSystemMetadataSaved

from ..glance.ledger import live_properties, recorded
from ..nova.cell import with_plugin
from ..producers.hooked import GLANCE, KEPT, NOVA, Shape

pytestmark = pytest.mark.slow

ID, WARMING = "killed-a", "killed-warming"
EDITED, REMOVED, ADDED = "image_changed", "image_removed", "image_added"
CHANGED = {KEPT: "1", EDITED: "2", ADDED: "1"}
KILLED, COLD = 9, 10
# From then on statements are prepared where they can be, and the next number is known.
WARM = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A service whose changes tell `told`, as it is killed.

    `kept` is how many statements a change shows to be those of a service that has run for a while,
    by the words in them: an event that is alone is written at once with its number, and PostgreSQL
    keeps the one that reads before and after, and the one that writes.
    """

    shape: Shape
    told: Sequence[str]
    kept: Mapping[str, tuple[str, int]]

    def register(self, engine: Engine, name: str) -> None:
        its = self.shape
        with engine.begin() as connection:
            row = {its.key: name, **dict.fromkeys(its.columns, "n"), **its.row}
            connection.execute(insert(its.table).values(row))
            for part in (KEPT, EDITED, REMOVED):
                self._add(connection, name, part)

    def change(self, engine: Engine, name: str) -> None:
        its = self.shape
        of_it = its.part.c[its.part_key] == name
        part = its.part.c[its.part_name]
        with engine.begin() as connection:
            self._set(connection, name, "m", **its.beside)
            connection.execute(update(its.part).where(of_it, part == EDITED).values(value="2"))
            with connection.begin_nested():
                connection.execute(delete(its.part).where(of_it, part == REMOVED))
            self._add(connection, name, ADDED)

    def warm_up(self, engine: Engine, name: str) -> None:
        for number in range(WARM):
            with engine.begin() as connection:
                self._set(connection, name, f"{os.getpid()} {number}")

    def is_changed(self, engine: Engine, name: str) -> bool:
        its = self.shape
        with engine.connect() as connection:
            query = select(its.table.c[its.columns[0]]).where(its.table.c[its.key] == name)
            return connection.scalar(query) == "m"

    def _set(self, connection: Connection, name: str, value: str, **beside: object) -> None:
        its = self.shape
        of_it = its.table.c[its.key] == name
        values = dict.fromkeys(its.columns, value) | beside
        connection.execute(update(its.table).where(of_it).values(values))

    def _add(self, connection: Connection, name: str, part: str) -> None:
        its = self.shape
        row = {its.part_key: name, its.part_name: part, "value": "1"}
        connection.execute(insert(its.part).values(**row, deleted=its.row["deleted"]))


KILLED_GLANCE = Killed(
    shape=GLANCE,
    told=["ImageUpdated"],
    kept={
        "postgresql": ("EXECUTE", 3),
        **dict.fromkeys(("sqlite", "mysql"), ("UPDATE metaledger_counters SET epoch", 1)),
    },
)
# A rebuild with its save and a move, whose events are numbered together.
KILLED_NOVA = Killed(
    shape=NOVA,
    told=["InstanceRebuilt", "InstanceSystemMetadataSaved", "InstanceRelocated"],
    kept={
        "postgresql": ("EXECUTE", 2),
        **dict.fromkeys(("sqlite", "mysql"), ("UPDATE metaledger_counters SET epoch", 0)),
    },
)


@pytest.fixture(params=[KILLED_GLANCE, KILLED_NOVA], ids=["glance", "nova"])
def service(request: pytest.FixtureRequest) -> Killed:
    found: Killed = request.param
    return found


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path, service: Killed) -> str:
    """A database with the service's tables and the outbox."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/service.sqlite"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    engine = create_engine(url)
    service.shape.table.metadata.create_all(engine)
    install(engine)
    engine.dispose()
    return url


def change_until_killed(url: str, service: Killed, name: str, steps: int) -> None:
    """Ends without a word in front of the statement (or the commit) of this number."""
    engine = create_engine(with_plugin(url))
    service.warm_up(engine, WARMING)
    left, seen = steps, list[str]()

    def step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(KILLED)

    event.listen(engine, "before_cursor_execute", step)
    event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    # Behind the plugin's own listener: all is written, and nothing is committed.
    event.listen(engine, "commit", step)
    service.change(engine, name)
    words, times = service.kept[engine.dialect.name]
    os._exit(0 if sum(words in it for it in seen) == times else COLD)


def moments(url: str, service: Killed) -> Iterator[str]:
    """A name for each moment in which its service is killed; the last one comes through."""
    context = multiprocessing.get_context("fork")
    hooked = create_engine(with_plugin(url))
    service.register(hooked, WARMING)
    for steps in range(100):
        name = f"{ID}-{steps}"
        service.register(hooked, name)
        hooked.dispose()
        given = (url, service, name, steps)
        child = context.Process(target=change_until_killed, args=given, daemon=True)
        child.start()
        child.join(60)
        yield name
        if child.exitcode == 0:
            return
        assert child.exitcode == KILLED
    pytest.fail("it never came through")


def events_of(url: str, name: str) -> list[Event]:
    return [it for it in recorded(url) if it.meta.aggregate.endswith(f":{name}")]


def held(events: Sequence[Event]) -> Mapping[str, str | None]:
    """The properties, or the metadata, that the events leave."""
    saves = [it.data for it in events if isinstance(it.data, InstanceSystemMetadataSaved)]
    return saves[-1].after if saves else live_properties(events)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_killed_between_any_two_statements_and_run_again_it_tells_all_once(
    url: str, service: Killed
) -> None:
    stock = create_engine(url)
    hooked = create_engine(with_plugin(url))
    killed = 0
    for name in moments(url, service):
        before = events_of(url, name)
        if service.is_changed(stock, name):
            assert len(before) == 1 + len(service.told)
        else:
            killed += 1
            assert len(before) == 1
            service.change(hooked, name)
            hooked.dispose()
        registered, *events = events_of(url, name)
        assert [one.type for one in events] == service.told
        assert [one.meta.stream_seq for one in events] == [*range(2, 2 + len(events))]
        assert {one.meta.missed for one in (registered, *events)} == {0}
        assert {one.meta.origin.value for one in (registered, *events)} == {"OBSERVED"}
        assert held([registered, *events]) == CHANGED
    # The service's own statements and savepoints, ours (on MariaDB most travel with those), and the
    # commit.
    assert killed >= 10
    assert status(stock).unrecorded_aggregates == 0
    stock.dispose()

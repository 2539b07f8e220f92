"""A hooked service that has run for a while is killed between any two statements, and its
transaction is run again.
"""

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Connection,
    Engine,
    Table,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)

from metaledger.producers.administration import install, status
from metaledger.producers.glance.tables import IMAGES, PROPERTIES
from metaledger.producers.nova.tables import INSTANCES, SYSTEM_METADATA
from metaledger.schemas.events import Event
from metaledger.schemas.instance import InstanceSystemMetadataSaved

from ..glance.ledger import live_properties, recorded
from ..nova.cell import with_plugin

ID, WARMING = "killed-a", "killed-warming"
# Nova's metadata is recorded where it begins so.
KEPT, EDITED, REMOVED, ADDED = "image_kept", "image_changed", "image_removed", "image_added"
CHANGED = {KEPT: "1", EDITED: "2", ADDED: "1"}
KILLED, COLD = 9, 10
# From then on statements are prepared where they can be, and the next number is known.
WARM = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A service's rows: `column` is set by a change, and `beside` with it; `told` is what it tells.

    `kept` is how many statements a change shows to be those of a service that has run for a while,
    by the words in them: an event that is alone is written at once with its number, and PostgreSQL
    keeps the one that reads before and after, and the one that writes.
    """

    table: Table
    key: str
    column: str
    row: Mapping[str, Any]
    beside: Mapping[str, Any]
    part: Table
    part_key: str
    part_name: str
    told: Sequence[str]
    kept: Mapping[str, tuple[str, int]]

    def register(self, engine: Engine, name: str) -> None:
        with engine.begin() as connection:
            row = {self.key: name, self.column: "n", **self.row}
            connection.execute(insert(self.table).values(row))
            for part in (KEPT, EDITED, REMOVED):
                self._add(connection, name, part)

    def change(self, engine: Engine, name: str) -> None:
        of_it = self.part.c[self.part_key] == name
        part = self.part.c[self.part_name]
        with engine.begin() as connection:
            self._set(connection, name, "m", **self.beside)
            connection.execute(update(self.part).where(of_it, part == EDITED).values(value="2"))
            with connection.begin_nested():
                connection.execute(delete(self.part).where(of_it, part == REMOVED))
            self._add(connection, name, ADDED)

    def warm_up(self, engine: Engine, name: str) -> None:
        for number in range(WARM):
            with engine.begin() as connection:
                self._set(connection, name, f"{os.getpid()} {number}")

    def is_changed(self, engine: Engine, name: str) -> bool:
        with engine.connect() as connection:
            query = select(self.table.c[self.column]).where(self.table.c[self.key] == name)
            return connection.scalar(query) == "m"

    def _set(self, connection: Connection, name: str, value: str, **beside: object) -> None:
        of_it = self.table.c[self.key] == name
        values = {self.column: value, **beside}
        connection.execute(update(self.table).where(of_it).values(values))

    def _add(self, connection: Connection, name: str, part: str) -> None:
        row = {self.part_key: name, self.part_name: part, "value": "1"}
        connection.execute(insert(self.part).values(**row, deleted=self.row["deleted"]))


GLANCE = Shape(
    table=IMAGES,
    key="id",
    column="name",
    row={
        "status": "queued",
        "visibility": "private",
        "min_disk": 0,
        "min_ram": 0,
        "protected": False,
        "os_hidden": False,
        "deleted": False,
    },
    beside={},
    part=PROPERTIES,
    part_key="image_id",
    part_name="name",
    told=["ImageUpdated"],
    kept={
        "postgresql": ("EXECUTE", 3),
        **dict.fromkeys(("sqlite", "mysql"), ("UPDATE metaledger_counters SET epoch", 1)),
    },
)
# A rebuild with its save and a move, whose events are numbered together.
NOVA = Shape(
    table=INSTANCES,
    key="uuid",
    column="host",
    row={"image_ref": "image-a", "vm_state": "active", "hidden": False, "deleted": 0},
    beside={"image_ref": "image-b", "task_state": "rebuilding"},
    part=SYSTEM_METADATA,
    part_key="instance_uuid",
    part_name="key",
    told=["InstanceRebuilt", "InstanceSystemMetadataSaved", "InstanceRelocated"],
    kept={
        "postgresql": ("EXECUTE", 2),
        **dict.fromkeys(("sqlite", "mysql"), ("UPDATE metaledger_counters SET epoch", 0)),
    },
)


@pytest.fixture(params=[GLANCE, NOVA], ids=["glance", "nova"])
def shape(request: pytest.FixtureRequest) -> Shape:
    found: Shape = request.param
    return found


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path, shape: Shape) -> str:
    """A database with the service's tables and the outbox."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/service.sqlite"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    engine = create_engine(url)
    shape.table.metadata.create_all(engine)
    install(engine)
    engine.dispose()
    return url


def change_until_killed(url: str, shape: Shape, name: str, steps: int) -> None:
    """Ends without a word in front of the statement (or the commit) of this number."""
    engine = create_engine(with_plugin(url))
    shape.warm_up(engine, WARMING)
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
    shape.change(engine, name)
    words, times = shape.kept[engine.dialect.name]
    os._exit(0 if sum(words in it for it in seen) == times else COLD)


def moments(url: str, shape: Shape) -> Iterator[str]:
    """A name for each moment in which its service is killed; the last one comes through."""
    context = multiprocessing.get_context("fork")
    hooked = create_engine(with_plugin(url))
    shape.register(hooked, WARMING)
    for steps in range(100):
        name = f"{ID}-{steps}"
        shape.register(hooked, name)
        hooked.dispose()
        given = (url, shape, name, steps)
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
    url: str, shape: Shape
) -> None:
    stock = create_engine(url)
    hooked = create_engine(with_plugin(url))
    killed = 0
    for name in moments(url, shape):
        before = events_of(url, name)
        if shape.is_changed(stock, name):
            assert len(before) == 1 + len(shape.told)
        else:
            killed += 1
            assert len(before) == 1
            shape.change(hooked, name)
            hooked.dispose()
        registered, *events = events_of(url, name)
        assert [one.type for one in events] == shape.told
        assert [one.meta.stream_seq for one in events] == [*range(2, 2 + len(events))]
        assert {one.meta.missed for one in (registered, *events)} == {0}
        assert {one.meta.origin.value for one in (registered, *events)} == {"OBSERVED"}
        assert held([registered, *events]) == CHANGED
    # The service's own statements and savepoints, ours (on MariaDB most travel with those), and the
    # commit.
    assert killed >= 10
    assert status(stock).unrecorded_aggregates == 0
    stock.dispose()

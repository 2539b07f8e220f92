"""A hooked service that has run for a while is killed between any two statements, and its
transaction is run again.
"""

import multiprocessing
import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, delete, event, insert, select, update

from metaledger.producers.administration import install, status
from metaledger.producers.glance.tables import IMAGES, PROPERTIES

from ..glance.ledger import live_properties, recorded

ID, WARMING = "image-a", "image-warming"
CHANGED = {"kept": "1", "changed": "2", "added": "1"}
KILLED, COLD = 9, 10
# From then on statements are prepared where they can be, and the next number is known.
WARM = 8


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path) -> str:
    """A database with Glance's tables and the outbox."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/glance.sqlite"
    else:
        url = request.getfixturevalue("postgres_url")
    engine = create_engine(url)
    IMAGES.metadata.create_all(engine)
    install(engine)
    engine.dispose()
    return url


def register(engine: Engine, image_id: str) -> None:
    with engine.begin() as connection:
        values = {"name": "n", "status": "queued", "visibility": "private", "deleted": False}
        numbers = {"min_disk": 0, "min_ram": 0, "protected": False, "os_hidden": False}
        connection.execute(insert(IMAGES).values(id=image_id, **values, **numbers))
        for name in ("kept", "changed", "removed"):
            add(connection, image_id, name)


def add(connection, image_id, name) -> None:
    row = {"image_id": image_id, "name": name, "value": "1", "deleted": False}
    connection.execute(insert(PROPERTIES).values(row))


def change(engine: Engine, image_id: str) -> None:
    of_image = PROPERTIES.c.image_id == image_id
    with engine.begin() as connection:
        connection.execute(update(IMAGES).where(IMAGES.c.id == image_id).values(name="m"))
        connection.execute(
            update(PROPERTIES).where(of_image, PROPERTIES.c.name == "changed").values(value="2")
        )
        with connection.begin_nested():
            connection.execute(delete(PROPERTIES).where(of_image, PROPERTIES.c.name == "removed"))
        add(connection, image_id, "added")


def warm_up(engine: Engine, image_id: str) -> None:
    for number in range(WARM):
        with engine.begin() as connection:
            of_it = IMAGES.c.id == image_id
            connection.execute(update(IMAGES).where(of_it).values(name=f"{os.getpid()} {number}"))


def change_until_killed(url: str, image_id: str, steps: int) -> None:
    """Ends without a word in front of the statement (or the commit) of this number."""
    engine = create_engine(f"{url}{'&' if '?' in url else '?'}plugin=metaledger")
    warm_up(engine, WARMING)
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
    change(engine, image_id)
    words, times = _AT_ONCE[engine.dialect.name]
    os._exit(0 if sum(words in it for it in seen) == times else COLD)


# By how many statements a change shows that it was recorded at once: PostgreSQL keeps the one that
# reads before and after, and the one that writes.
_AT_ONCE = {"postgresql": ("EXECUTE", 3), "sqlite": ("UPDATE metaledger_counters SET epoch", 1)}


def moments(url: str) -> Iterator[str]:
    """An image for each moment in which its service is killed; the last one comes through."""
    context = multiprocessing.get_context("fork")
    hooked = create_engine(f"{url}{'&' if '?' in url else '?'}plugin=metaledger")
    register(hooked, WARMING)
    for steps in range(100):
        image_id = f"{ID}-{steps}"
        register(hooked, image_id)
        hooked.dispose()
        child = context.Process(target=change_until_killed, args=(url, image_id, steps))
        child.start()
        child.join(60)
        yield image_id
        if child.exitcode == 0:
            return
        assert child.exitcode == KILLED
    pytest.fail("it never came through")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_killed_between_any_two_statements_and_run_again_it_tells_all_once(url: str) -> None:
    stock = create_engine(url)
    hooked = create_engine(f"{url}{'&' if '?' in url else '?'}plugin=metaledger")
    killed = 0
    for image_id in moments(url):
        with stock.connect() as connection:
            name = connection.scalar(select(IMAGES.c.name).where(IMAGES.c.id == image_id))
        before = recorded(url, image_id)
        if name == "m":
            assert len(before) == 2
        else:
            killed += 1
            assert len(before) == 1
            change(hooked, image_id)
            hooked.dispose()
        events = recorded(url, image_id)
        assert [one.meta.stream_seq for one in events] == [1, 2]
        assert [one.meta.missed for one in events] == [0, 0]
        assert [one.meta.origin.value for one in events] == ["OBSERVED", "OBSERVED"]
        assert live_properties(events) == CHANGED
    # The service's own five statements and savepoints, ours, and the commit.
    assert killed > 10
    assert status(stock).unrecorded_aggregates == 0
    stock.dispose()

"""A disk that is full: what the outbox cannot hold is marked, or with `strict` fails the change.

The disk is real, and small: a tmpfs, which only root can mount. PostgreSQL's and MariaDB's outbox
stands on it alone. A SQLite database cannot be parted, and ends a transaction that finds it full:
to the service that is the error that it would see without us, a little earlier. All of it holds of
an emitter and of the plugin.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import (
    Connection,
    Engine,
    NullPool,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import OperationalError

from metaledger.schemas.errors import Unrecorded

from ..conftest import Servers
from .hooked import SERVICES, Hooked, MakeHooked, choose
from .kit import MARIADB, POSTGRESQL, SQLITE, Service, changes, draft, on, sqlite_url, told
from .stories import still_open

pytestmark = pytest.mark.slow

EVENTS, MANY = 200, 20
SERVERS = pytest.mark.parametrize("cramped", [POSTGRESQL, MARIADB], indirect=True)


@contextmanager
def small_disk(servers: Servers, *, megabytes: int) -> Iterator[Path]:
    """A disk that a file, `ballast`, fills by a quarter."""
    folder = Path(tempfile.mkdtemp(prefix="metaledger-disk-"))
    folder.chmod(0o755)
    options = f"size={megabytes}m,mode=0777"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        folder.rmdir()
        servers.lacking("a small disk", done.stderr.strip())
    try:
        (folder / "ballast").write_bytes(bytes(megabytes * 2**20 // 4))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@dataclass(frozen=True, slots=True)
class Cramped:
    """A service whose outbox stands on a small disk."""

    service: Service
    disk: Path


@pytest.fixture
def cramped(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Cramped]:
    """The MariaDB is the test's own, for it may not survive."""
    if request.param == "postgres":
        url, move, megabytes = request.getfixturevalue("postgres_url"), move_on_postgresql, 6
    else:
        url = request.getfixturevalue("own_mariadb").create_database()
        # A table of InnoDB that grew only little keeps no pages back for the rollback of what did
        # not fit, and MariaDB 10.11 then ends itself.
        move, megabytes = move_on_mariadb, 40
    service = Service(url)
    changes.metadata.create_all(service.engine)
    service.install()
    operator = service.new_engine(isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with small_disk(servers, megabytes=megabytes) as disk:
        with operator.connect() as connection:
            move(connection, disk)
        yield Cramped(service, disk)
        service.drop_tables()
        if request.param == "postgres":
            with operator.connect() as connection:
                connection.execute(text("DROP TABLESPACE small"))
    for engine in service.engines:
        engine.dispose()


def move_on_postgresql(connection: Connection, disk: Path) -> None:
    folder = disk / "outbox"
    folder.mkdir()
    shutil.chown(folder, Path(str(connection.scalar(text("SHOW data_directory")))).stat().st_uid)
    connection.execute(text(f"CREATE TABLESPACE small LOCATION '{folder}'"))
    connection.execute(text("ALTER TABLE metaledger_outbox SET TABLESPACE small"))


def move_on_mariadb(connection: Connection, disk: Path) -> None:
    _, made = connection.exec_driver_sql("SHOW CREATE TABLE metaledger_outbox").one()
    connection.exec_driver_sql("DROP TABLE metaledger_outbox")
    connection.exec_driver_sql(f"{made} DATA DIRECTORY='{disk}'")


def change(service: Service, turn: int) -> None:
    """A change with many events."""
    image, value = f"image-{turn:03}", str(turn)
    noise = Random(turn).randbytes(EVENTS * 800).hex()  # nobody compresses it
    parts = [noise[start : start + 1_600] for start in range(0, len(noise), 1_600)]
    with service.engine.begin() as connection:
        connection.execute(insert(changes), {"image": image, "value": value})
        service.emitter.emit(connection, [draft(image, part) for part in parts])


def fill(service: Service) -> int:
    """Changes until one cannot be recorded; returns which."""
    for turn in range(1_000):
        change(service, turn)
        if service.outbox.failures:
            return turn
    raise AssertionError("the disk was not full")


def recorded(service: Service) -> list[str]:
    """The images whose events are in the outbox, all of them."""
    images = [image for image, _ in told(service.waiting())]
    assert all(images.count(image) == EVENTS for image in set(images))
    return sorted(set(images))


def changed(service: Service) -> list[str]:
    return [image for image, _ in service.values()]


def register_many(shop: Hooked, engine: Engine, turn: int) -> None:
    """A transaction with many events of the plugin's, in all a little larger than a `change`."""
    shape, noise = shop.shape, Random(turn)
    names = [f"{turn:03}-{number:03}" for number in range(MANY)]
    parts = [
        {**shop.part_row(it, f"image_{number}"), "value": noise.randbytes(120).hex()}
        for it in names
        for number in range(80)
    ]
    with engine.begin() as connection:
        connection.execute(insert(shape.table), [shop.row(it, "0") for it in names])
        connection.execute(insert(shape.part), parts)


def register_until_full(shop: Hooked, engine: Engine) -> None:
    for turn in range(100):
        register_many(shop, engine, turn)


def registered(shop: Hooked) -> set[str]:
    """The aggregates that the service has, of those that were made in many."""
    with shop.service.engine.connect() as connection:
        key = shop.shape.table.c[shop.shape.key]
        return {shop.aggregate(it) for it in connection.scalars(select(key)) if "-" in it}


def told_of(shop: Hooked) -> set[str]:
    """The aggregates of which the outbox tells, of those that were made in many."""
    of_all = {it.meta.aggregate for it in shop.service.waiting()}
    return {it for it in of_all if "image-" not in it and "-" in it}


@SERVERS
def test_what_the_disk_has_no_room_for_goes_through_and_is_marked(
    cramped: Cramped,
) -> None:
    service = cramped.service
    last = fill(service)
    assert len(changed(service)) == last + 1
    assert recorded(service) == changed(service)[:-1] != []
    assert [it.aggregate for it in service.status().unrecorded] == [f"image:image-{last:03}"]
    assert still_open(service) == 0
    (cramped.disk / "ballast").unlink()
    service.commit_change("next", "1")
    (event_,) = [it for it in service.waiting() if it.meta.aggregate == "image:next"]
    assert event_.meta.missed == 1


@SERVERS
def test_strict_fails_what_the_disk_has_no_room_for(cramped: Cramped) -> None:
    strict = cramped.service.with_settings(strict=True)
    with pytest.raises(Unrecorded):
        fill(strict)
    assert recorded(strict) == changed(strict) != []
    assert strict.status().unrecorded_aggregates == 0
    assert still_open(strict) == 0


@SERVICES
@SERVERS
def test_the_plugin_marks_what_the_disk_has_no_room_for_and_with_strict_fails_it(
    cramped: Cramped, hooked: MakeHooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = cramped.service
    shop = hooked(service, emits=True)
    shop.prepare()
    fill(service)
    before = service.status().unrecorded_aggregates
    engine = create_engine(shop.url)
    choose(monkeypatch, strict=True)
    strict = create_engine(shop.url)
    with pytest.raises(Unrecorded):
        register_until_full(shop, strict)
    fitted = registered(shop)
    assert told_of(shop) == fitted
    assert service.status().unrecorded_aggregates == before
    assert still_open(service) == 0
    register_many(shop, engine, 200)
    assert len(registered(shop)) == len(fitted) + MANY
    assert told_of(shop) == fitted
    assert service.status().unrecorded_aggregates == before + MANY
    assert still_open(service) == 0
    (cramped.disk / "ballast").unlink()
    for number, it in enumerate((strict, engine)):
        register_many(shop, it, 300 + number)
        it.dispose()
    assert len(told_of(shop)) == len(fitted) + 2 * MANY
    assert sum(it.meta.missed for it in service.waiting()) == MANY


@SERVICES
@pytest.mark.parametrize("strict", [False, True], ids=["swallowing", "strict"])
def test_a_sqlite_database_on_a_full_disk_ends_a_hooked_service_s_transaction(
    servers: Servers, hooked: MakeHooked, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, strict=strict)
    with small_disk(servers, megabytes=6) as disk:
        service = Service(sqlite_url(disk))
        changes.metadata.create_all(service.engine)
        service.install()
        shop = hooked(service, emits=True)
        shop.prepare()
        engine = create_engine(shop.url)
        with pytest.raises(OperationalError, match="full"):
            register_until_full(shop, engine)
        assert told_of(shop) == registered(shop) != set()
        assert still_open(service) == 0
        (disk / "ballast").unlink()
        register_many(shop, engine, 100)
        assert told_of(shop) == registered(shop)
        assert service.status().unrecorded_aggregates == 0
        for it in (engine, *service.engines):
            it.dispose()


@pytest.mark.parametrize("strict", [False, True], ids=["swallowing", "strict"])
def test_a_sqlite_database_on_a_full_disk_fails_the_service_s_own_commit(
    servers: Servers, strict: bool
) -> None:
    """Its pages are written by the commit: nothing of ours has failed by then."""
    with small_disk(servers, megabytes=6) as disk:
        service = Service(sqlite_url(disk)).with_settings(strict=strict)
        changes.metadata.create_all(service.engine)
        service.install()
        with pytest.raises(OperationalError, match="full"):
            fill(service)
        assert recorded(service) == changed(service) != []
        assert service.outbox.failures == 0
        assert still_open(service) == 0
        (disk / "ballast").unlink()
        service.commit_change("next", "1")
        assert changed(service)[-1] == "next"
        for engine in service.engines:
            engine.dispose()


@pytest.mark.parametrize("strict", [False, True], ids=["swallowing", "strict"])
@on(SQLITE)
def test_a_sqlite_database_that_may_not_grow_ends_the_transaction(
    service: Service, strict: bool
) -> None:
    """Here it is the outbox's own statement that is refused."""
    small = service.with_settings(strict=strict)
    event.listen(
        small.engine, "connect", lambda driver, _: driver.execute("PRAGMA max_page_count=1000")
    )
    with pytest.raises(OperationalError, match="full") as raised:
        fill(small)
    assert "metaledger_outbox" in str(raised.value.statement)
    assert recorded(small) == changed(small) != []
    assert small.outbox.failures == 0
    assert still_open(small) == 0


@SERVICES
@pytest.mark.parametrize("strict", [False, True], ids=["swallowing", "strict"])
@on(SQLITE)
def test_a_sqlite_database_that_may_not_grow_ends_a_hooked_service_s_transaction(
    service: Service, hooked: MakeHooked, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a change that is small, of an image whose event is large."""
    choose(monkeypatch, strict=strict)
    shop = hooked(service, emits=True)
    shop.prepare()
    engine = create_engine(shop.url)
    event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA max_page_count=1000"))
    register_many(shop, engine, 1)
    waiting = len(service.waiting())
    with pytest.raises(OperationalError, match="full") as raised:
        edit_until_full(shop, engine, "001-000")
    engine.dispose()
    assert "metaledger_outbox" in str(raised.value.statement)
    assert still_open(service) == 0
    assert len(service.waiting()) - waiting == len(service.values()) != 0
    assert service.status().unrecorded_aggregates == 0


def edit_until_full(shop: Hooked, engine: Engine, image: str) -> None:
    """Each change has one event."""
    part = shop.shape.part
    of_it = (part.c[shop.shape.part_key] == image) & (part.c[shop.shape.part_name] == "image_0")
    for number in range(1_000):
        with engine.begin() as connection:
            connection.execute(update(part).where(of_it).values(value=str(number)))
            connection.execute(insert(changes), {"image": image, "value": str(number)})

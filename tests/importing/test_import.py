"""The promises of a cold start, on the databases that Glance runs on."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, event

from metaledger.producers import administration
from metaledger.producers.glance.tables import IMAGES, PROPERTIES
from metaledger.producers.source import find_undated
from metaledger.schemas.errors import OutboxFull, Unreachable, UsageError
from metaledger.schemas.identity import system_clock
from metaledger.schemas.image import ImageDeleted, ImageRegistered
from tests.proofs.proof import running
from tests.servers import choice

from .kit import (
    IMAGE,
    SETTINGS,
    Cloud,
    Halted,
    halting,
    put_image,
    put_property,
    put_tag,
    rename,
)

YESTERDAY = datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC)
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


def fill(cloud: Cloud, count: int) -> list[str]:
    """So many images with a property each."""
    names = [f"image-{number:04}" for number in range(count)]
    with cloud.stock.begin() as connection:
        for name in names:
            put_image(connection, name)
            put_property(connection, name, "key", name)
    return names


def registrations(cloud: Cloud) -> list[str]:
    return [it.data.image_id for it in cloud.events() if isinstance(it.data, ImageRegistered)]


def small(cloud: Cloud) -> None:
    """An outbox of 60 events: an import writes three images at once, and waits at 30."""
    cloud.settings = replace(SETTINGS, outbox_rows_max=60)


def test_what_a_database_held_before_is_in_the_read_model(cloud: Cloud) -> None:
    with cloud.stock.begin() as connection:
        put_image(connection, "a", name="A", protected=True, min_ram=4, checksum="c")
        put_property(connection, "a", "k", "v")
        put_property(connection, "a", "null", None)
        put_property(connection, "a", "removed", "x", deleted=True)
        put_tag(connection, "a", "t")
        put_tag(connection, "a", "old", LONG_AGO)
        put_image(connection, "b", status="queued", size=None)
    done = cloud.bring()
    assert (done.total, done.imported, done.known, done.in_flight) == (2, 2, 0, 0)
    cloud.project()
    assert cloud.told() == cloud.holds()
    told = [(it.type, it.meta.origin.value) for it in cloud.events()]
    assert told == [("ImageRegistered", "IMPORTED")] * 2


def test_a_deleted_image_is_told_as_it_last_was(cloud: Cloud) -> None:
    with cloud.stock.begin() as connection:
        put_image(connection, "a", status="deleted", deleted=True, deleted_at=YESTERDAY)
        put_property(connection, "a", "k", "v", deleted=True)
        put_tag(connection, "a", "last", YESTERDAY)
        put_tag(connection, "a", "removed", LONG_AGO)
    cloud.bring()
    registered, *_, deleted = (it.data for it in cloud.events())
    assert isinstance(registered, ImageRegistered)
    assert (registered.properties, registered.tags) == ({"k": "v"}, ("last",))
    assert isinstance(deleted, ImageDeleted)
    assert deleted.deleted_at == YESTERDAY
    cloud.project()
    assert cloud.told() == cloud.holds() == {"a": ("deleted", {"k": "v"})}


def test_a_deletion_without_a_time_is_named(cloud: Cloud) -> None:
    with cloud.stock.begin() as connection:
        put_image(connection, "a")
        put_image(connection, "b", status="deleted", deleted=True)
        put_image(connection, "c", status="deleted", deleted=True, deleted_at=YESTERDAY)
    for _ in range(2):
        cloud.bring()
        found = find_undated(cloud.operator, IMAGE)
        assert (found.count, found.named) == (1, ["b"])
    cloud.project()
    assert cloud.told()["b"] == ("deleted", {})


def test_twice_adds_nothing(cloud: Cloud) -> None:
    names = fill(cloud, 5)
    cloud.bring()
    before = len(cloud.events())
    again = cloud.bring()
    assert (again.imported, again.events, again.known) == (0, 0, 5)
    assert len(cloud.events()) == before
    assert registrations(cloud) == names


def test_what_a_hook_told_is_known(cloud: Cloud) -> None:
    names = fill(cloud, 3)
    with cloud.hooked.begin() as connection:
        rename(connection, names[1], "new")
    assert cloud.bring().known == 1
    assert sorted(registrations(cloud)) == names
    cloud.project()
    assert cloud.told() == cloud.holds()


def test_broken_off_anywhere_it_goes_on(cloud: Cloud) -> None:
    small(cloud)
    names = fill(cloud, 7)
    for commits in (0, 1, 0, 1):
        with pytest.raises(Halted), halting(cloud.operator, commits):
            cloud.bring()
    cloud.bring()
    assert registrations(cloud) == names
    cloud.project()
    assert cloud.told() == cloud.holds()


def test_it_leaves_half_of_the_outbox_to_the_service(cloud: Cloud) -> None:
    small(cloud)
    names = fill(cloud, 40)
    cloud.relay()
    waited: list[int] = []
    assert cloud.bring(on_wait=lambda found: waited.append(found.rows_waiting)).imported == 40
    assert waited
    assert max(waited) <= 30
    assert registrations(cloud) == names


def test_without_a_relay_it_says_so_and_what_it_did_stands(cloud: Cloud) -> None:
    small(cloud)
    names = fill(cloud, 40)
    with pytest.raises(OutboxFull, match=r"no relay drains it\. Start `metaledger relay`"):
        cloud.bring(pause=pytest.fail)
    waiting = administration.status(cloud.stock).rows_waiting
    assert 20 < waiting <= 30
    cloud.relay()
    cloud.bring()
    assert registrations(cloud) == names


def test_a_relay_that_sends_nothing_is_not_waited_for_forever(cloud: Cloud) -> None:
    small(cloud)
    fill(cloud, 40)
    cloud.relay()
    minutes = itertools.count()

    def clock() -> datetime:
        return system_clock() + timedelta(minutes=next(minutes))

    with pytest.raises(OutboxFull, match="its relay sends nothing"):
        cloud.bring(pause=lambda: None, clock=clock)


def test_several_transactions_at_once_tell_each_image_once(cloud: Cloud) -> None:
    names = fill(cloud, 1_000)
    done = cloud.bring(jobs=3)
    assert (done.imported, done.known, done.lacking) == (1_000, 0, 0)
    assert sorted(registrations(cloud)) == names
    cloud.project()
    assert cloud.told() == cloud.holds()
    assert cloud.anomalies() == []


def test_several_at_once_leave_half_of_the_outbox_too(cloud: Cloud) -> None:
    small(cloud)
    names = fill(cloud, 40)
    cloud.relay()
    waiting: list[int] = []

    def look(_connection: object) -> None:
        waiting.append(administration.status(cloud.stock).rows_waiting)

    event.listen(cloud.operator, "rollback", look)
    done = cloud.bring(jobs=3)
    assert (done.imported, done.lacking) == (40, 0)
    assert 10 <= max(waiting) <= 30
    assert sorted(registrations(cloud)) == names


def test_what_ends_one_of_several_ends_all_and_what_they_did_stands(cloud: Cloud) -> None:
    names = fill(cloud, 1_000)
    for commits in (1, 3):
        with pytest.raises(Halted), halting(cloud.operator, commits):
            cloud.bring(jobs=3)
    assert cloud.bring(jobs=3).lacking == 0
    assert sorted(registrations(cloud)) == names
    cloud.project()
    assert cloud.told() == cloud.holds()


def test_an_image_that_no_event_can_tell_holds_up_no_other(cloud: Cloud) -> None:
    names = fill(cloud, 4)
    with cloud.stock.begin() as connection:
        rows = [
            {"image_id": names[2], "name": f"p{number}", "value": "", "deleted": False}
            for number in range(10_001)
        ]
        connection.execute(PROPERTIES.insert(), rows)
    done = cloud.bring()
    assert (done.imported, done.untold) == (3, 1)
    assert registrations(cloud) == [name for name in names if name != names[2]]


def test_an_image_that_is_purged_meanwhile_is_not_missed(cloud: Cloud) -> None:
    small(cloud)
    names = fill(cloud, 40)
    cloud.relay()

    def purge(_found: object) -> None:
        with cloud.stock.begin() as connection:
            connection.execute(delete(PROPERTIES).where(PROPERTIES.c.image_id == names[-1]))
            connection.execute(delete(IMAGES).where(IMAGES.c.id == names[-1]))

    done = cloud.bring(on_wait=purge)
    assert (done.imported, done.known, done.lacking) == (39, 1, 0)
    assert registrations(cloud) == names[:-1]


def test_an_outbox_too_small_for_an_import_is_refused(cloud: Cloud) -> None:
    cloud.settings = replace(SETTINGS, outbox_rows_max=19)
    with pytest.raises(UsageError, match="needs 20"):
        cloud.bring()


def test_what_is_in_flight_is_left_aside_and_told_once(cloud: Cloud) -> None:
    if cloud.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer, from its first statement to its commit")
    names = fill(cloud, 9)
    connection = cloud.hooked.connect()
    rename(connection, names[4], "new")
    seen: list[list[str]] = []

    def end() -> None:
        if not connection.closed:
            seen.append(registrations(cloud))
            connection.commit()
            connection.close()

    done = cloud.bring(pause=end)
    assert seen == [[name for name in names if name != names[4]]]
    assert (done.imported, done.known, done.lacking) == (8, 1, 0)
    assert sorted(registrations(cloud)) == names
    types = [(it.type, it.meta.origin.value) for it in cloud.events(names[4])]
    assert types[0] == ("ImageRegistered", "IMPORTED")
    assert types[-1] == ("ImageUpdated", "OBSERVED")
    cloud.project()
    assert cloud.told() == cloud.holds()


def test_what_was_in_flight_and_came_to_nothing_is_imported(cloud: Cloud) -> None:
    if cloud.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer, from its first statement to its commit")
    names = fill(cloud, 3)
    connection = cloud.hooked.connect()
    rename(connection, names[1], "never")

    def end() -> None:
        connection.rollback()

    assert cloud.bring(pause=end).imported == 3
    connection.close()
    assert sorted(registrations(cloud)) == names
    cloud.project()
    assert cloud.told() == cloud.holds()


def test_what_stays_in_flight_is_counted(cloud: Cloud) -> None:
    if cloud.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer, from its first statement to its commit")
    names = fill(cloud, 3)
    with cloud.hooked.connect() as connection:
        rename(connection, names[1], "new")
        done = cloud.bring()
        assert (done.imported, done.in_flight, done.done) == (2, 1, 3)
        connection.commit()
    assert cloud.bring().lacking == 0
    assert sorted(registrations(cloud)) == names


def test_a_service_that_goes_on_meanwhile_is_told_once_and_whole(cloud: Cloud) -> None:
    """Threads of the service change images that the import is just coming to."""
    cloud.settings = replace(SETTINGS, outbox_rows_max=200)
    names = fill(cloud, 60)
    cloud.relay()

    def work(number: int) -> None:
        for at in range(number, len(names), 3):
            with cloud.hooked.begin() as connection:
                rename(connection, names[at], f"by {number}")
                put_property(connection, names[at], f"added-{number}", "1")

    with ThreadPoolExecutor(max_workers=2) as pool:
        workers = [pool.submit(work, number) for number in range(2)]
        cloud.bring()
        for worker in workers:
            worker.result()
    # What was in flight each time that it was tried.
    assert cloud.bring().lacking == 0
    assert sorted(registrations(cloud)) == names
    cloud.project()
    assert cloud.told() == cloud.holds()
    assert cloud.anomalies() == []


def test_what_a_hook_tells_just_before_the_lock_is_told_once(cloud: Cloud) -> None:
    if cloud.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer, from its first statement to its commit")
    names = fill(cloud, 3)
    told: list[str] = []

    def tell(_c: object, _cursor: object, words: str, *_rest: object) -> None:
        if "INSERT INTO metaledger_counters" in words and not told:
            told.append(names[1])
            with cloud.hooked.begin() as connection:
                rename(connection, names[1], "new")

    event.listen(cloud.operator, "before_cursor_execute", tell)
    done = cloud.bring()
    assert (told, done.imported, done.known) == ([names[1]], 2, 1)
    assert sorted(registrations(cloud)) == names


@pytest.mark.postgres
def test_a_database_that_crashes_on_the_way_is_gone_on_with(tmp_path: Path) -> None:
    """At the commit of the third transaction of 200 images."""
    with running(choice.new_postgres) as server:
        cloud = Cloud(server.create_database(), tmp_path)
        names = fill(cloud, 700)
        commits = itertools.count(1)

        def crash(_connection: object) -> None:
            if next(commits) == 3:
                server.crash()

        event.listen(cloud.operator, "commit", crash)
        with pytest.raises(Unreachable):
            cloud.bring()
        server.start()
        # The test's own connections; the import's come back by themselves.
        cloud.stock.dispose()
        again = cloud.bring()
        assert (again.known, again.imported) == (400, 300)
        assert registrations(cloud) == names
        cloud.project()
        assert cloud.told() == cloud.holds()
        cloud.close()

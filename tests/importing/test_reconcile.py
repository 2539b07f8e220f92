"""The promises of reconciliation: what differs is said, mended, and then differs no more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, text, update

from metaledger.producers import administration, counters
from metaledger.producers.counters import Counter
from metaledger.producers.glance.rows import ImageState
from metaledger.producers.glance.tables import IMAGES, LOCATIONS, PROPERTIES, TAGS
from metaledger.producers.mending import Mender
from metaledger.producers.tables import counters as counters_table
from metaledger.projector.database import connect
from metaledger.schemas.meta import Origin
from metaledger.services.comparison import Difference
from metaledger.services.reading import reading
from metaledger.services.reconciling import ELSEWHERE, IN_FLIGHT, Patience, Reconciliation

from .kit import IMAGE, Cloud, put_image, put_property, put_tag, rename

IDS = ("a", "b", "c")
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def known(cloud: Cloud) -> Cloud:
    """Three images that the ledger knows as they are."""
    with cloud.stock.begin() as connection:
        for image_id in IDS:
            put_image(connection, image_id, min_disk=3)
            put_property(connection, image_id, "k", "v")
            put_tag(connection, image_id, "t")
    cloud.bring()
    cloud.project()
    return cloud


def compare(cloud: Cloud, *, mend: bool = False) -> tuple[list[Difference], dict[str, int], int]:
    return cloud.compare(IMAGE, mend=mend)


def differing(cloud: Cloud) -> set[tuple[str, str, str]]:
    return {(it.aggregate, it.what, it.key) for it in compare(cloud)[0]}


def assert_mended(cloud: Cloud) -> None:
    """After mending nothing differs, and the read model is what the database holds."""
    compare(cloud, mend=True)
    cloud.project()
    assert compare(cloud) == ([], {}, 0)
    assert cloud.told() == cloud.holds()
    assert cloud.anomalies() == []


def test_nothing_differs_after_an_import(known: Cloud) -> None:
    assert compare(known) == ([], {}, 0)
    before = len(known.events())
    assert compare(known, mend=True)[2] == 0
    assert len(known.events()) == before


def test_what_was_done_behind_the_hook_differs_and_is_mended(known: Cloud) -> None:
    with known.stock.begin() as connection:
        of_a = PROPERTIES.c.image_id == "a"
        connection.execute(update(PROPERTIES).where(of_a).values(value="w"))
        put_property(connection, "a", "new", None)
        rename(connection, "a", "other")
        connection.execute(update(TAGS).where(TAGS.c.image_id == "b").values(deleted=True))
        connection.execute(insert(LOCATIONS).values(image_id="b", deleted=False))
        connection.execute(
            update(PROPERTIES).where(PROPERTIES.c.image_id == "c").values(deleted=True)
        )
        connection.execute(update(IMAGES).where(IMAGES.c.id == "c").values(min_disk=0, size=None))
    assert differing(known) == {
        ("image:a", "property", "k"),
        ("image:a", "property", "new"),
        ("image:a", "attribute", "name"),
        ("image:b", "tag", "t"),
        ("image:b", "attribute", "location_count"),
        ("image:c", "property", "k"),
        ("image:c", "attribute", "min_disk"),
        ("image:c", "attribute", "size"),
    }
    compare(known, mend=True)
    known.project()
    assert compare(known) == ([], {}, 0)
    assert known.anomalies() == []
    (mended,) = known.events("a")[-1:]
    assert mended.meta.origin is Origin.RECONCILED
    assert mended.data.change.before is None  # type: ignore[union-attr]
    assert mended.data.change.after == {"k": "w", "new": None}  # type: ignore[union-attr]


def test_an_image_that_nobody_told_of_is_told(known: Cloud) -> None:
    with known.stock.begin() as connection:
        put_image(connection, "d")
        put_image(connection, "e", status="deleted", deleted=True)
    assert {(it.aggregate, it.ledger, it.database) for it in compare(known)[0]} == {
        ("image:d", "unknown", "there"),
        ("image:e", "unknown", "deleted"),
    }
    assert_mended(known)


def test_a_deletion_and_a_purge_that_nobody_told_of_are_told(known: Cloud) -> None:
    with known.stock.begin() as connection:
        gone = {"status": "deleted", "deleted": True}
        connection.execute(update(IMAGES).where(IMAGES.c.id == "a").values(gone))
        for table, column in ((PROPERTIES, "image_id"), (TAGS, "image_id"), (IMAGES, "id")):
            connection.execute(delete(table).where(table.c[column] == "b"))
    assert {(it.aggregate, it.ledger, it.database) for it in compare(known)[0]} == {
        ("image:a", "there", "deleted"),
        ("image:b", "there", "purged"),
    }
    compare(known, mend=True)
    known.project()
    assert compare(known) == ([], {}, 0)
    assert known.told()["b"][0] == "deleted"


def test_an_image_that_came_back_is_told(known: Cloud) -> None:
    with known.hooked.begin() as connection:
        gone = {"status": "deleted", "deleted": True}
        connection.execute(update(IMAGES).where(IMAGES.c.id == "a").values(gone))
    known.project()
    with known.stock.begin() as connection:
        back = {"status": "active", "deleted": False}
        connection.execute(update(IMAGES).where(IMAGES.c.id == "a").values(back))
    assert differing(known) == {("image:a", "state", "")}
    assert_mended(known)


def test_what_was_not_sent_or_not_projected_is_in_flight(known: Cloud) -> None:
    with known.hooked.begin() as connection:
        rename(connection, "a", "told")
    assert compare(known) == ([], {IN_FLIGHT: 1}, 0)
    known.relay()
    assert compare(known) == ([], {IN_FLIGHT: 1}, 0)
    known.project()
    assert compare(known) == ([], {}, 0)


def test_what_changed_since_it_was_compared_is_not_mended(known: Cloud) -> None:
    with known.stock.begin() as connection:
        rename(connection, "a", "behind the hook")
    mender = Mender(writer=known.writer(), context=known.settings.context())
    with reading(known.read_model_url) as read_model:
        both = Reconciliation(engine=known.operator, read_model=read_model)
        (page,) = both.pages(IMAGE)
    with known.hooked.begin() as connection:
        rename(connection, "a", "told")
    assert mender.mend(IMAGE, page.differing).told == 0
    known.project()
    assert compare(known) == ([], {}, 0)


def test_what_changed_in_another_epoch_is_not_mended(known: Cloud) -> None:
    """Its numbers begin anew there, and may have come as far."""
    for name in ("one", "two"):
        with known.hooked.begin() as connection:
            rename(connection, "a", name)
    known.project()
    with known.stock.begin() as connection:
        rename(connection, "a", "behind the hook")
    mender = Mender(writer=known.writer(), context=known.settings.context())
    with reading(known.read_model_url) as read_model:
        both = Reconciliation(engine=known.operator, read_model=read_model)
        (page,) = both.pages(IMAGE)
    administration.reseed(known.stock)
    for name in ("three", "four", "five"):
        with known.hooked.begin() as connection:
            rename(connection, "a", name)
        if last_number(known) == page.differing["image:a"].seq:
            break
    assert last_number(known) == page.differing["image:a"].seq
    assert mender.mend(IMAGE, page.differing).told == 0


def test_after_a_reseed_what_agrees_lacks_nothing_and_is_not_told_again(known: Cloud) -> None:
    with known.hooked.begin() as connection:
        gone = {"status": "deleted", "deleted": True}
        connection.execute(update(IMAGES).where(IMAGES.c.id == "b").values(gone))
    known.project()
    before = len(known.events())
    administration.reseed(known.stock)
    assert known.unrecorded() == ["image:a", "image:b", "image:c"]
    assert compare(known) == ([], {}, 0)
    assert len(known.unrecorded()) == 3
    assert compare(known, mend=True) == ([], {}, 0)
    assert known.unrecorded() == []
    assert len(known.events()) == before


def test_after_a_reseed_what_is_gone_from_both_lacks_nothing(known: Cloud) -> None:
    with known.hooked.begin() as connection:
        gone = {"status": "deleted", "deleted": True}
        connection.execute(update(IMAGES).where(IMAGES.c.id == "b").values(gone))
    known.project()
    with known.stock.begin() as connection:
        for table, column in ((PROPERTIES, "image_id"), (TAGS, "image_id"), (IMAGES, "id")):
            connection.execute(delete(table).where(table.c[column] == "b"))
        # And what nobody ever told of.
        counters.take(connection, {"image:x": 1})
    administration.reseed(known.stock)
    assert compare(known, mend=True) == ([], {}, 0)
    assert known.unrecorded() == []


def test_after_a_reseed_what_differs_is_told_and_lacks_nothing(known: Cloud) -> None:
    administration.reseed(known.stock)
    with known.stock.begin() as connection:
        rename(connection, "a", "restored")
    assert compare(known, mend=True)[2] == 1
    assert known.unrecorded() == []
    (told,) = known.events("a")[-1:]
    assert (told.meta.origin, told.meta.epoch, told.meta.stream_seq) == (Origin.RECONCILED, 2, 1)
    assert_mended(known)


def test_what_waits_to_be_sent_keeps_its_mark(known: Cloud) -> None:
    with known.hooked.begin() as connection:
        rename(connection, "a", "told")
    administration.reseed(known.stock)
    assert compare(known, mend=True) == ([], {IN_FLIGHT: 1}, 0)
    assert known.unrecorded() == ["image:a"]
    known.project()
    assert compare(known, mend=True) == ([], {}, 0)
    assert known.unrecorded() == []


def test_what_a_lost_time_told_and_is_not_projected_keeps_all_marks(known: Cloud) -> None:
    """The counters of a restored database do not know of it, and seem to have been seen."""
    before = counter(known, "image:a")
    with known.hooked.begin() as connection:
        rename(connection, "a", "lost")
    known.relay()
    with known.stock.begin() as connection:
        rename(connection, "a", "n")
        connection.execute(update(counters_table).values(seq=before.seq))
    administration.reseed(known.stock)
    assert compare(known, mend=True) == ([], {IN_FLIGHT: 3}, 0)
    assert len(known.unrecorded()) == 3
    known.project()
    assert {it.ledger for it in compare(known, mend=True)[0]} == {"lost"}
    assert known.unrecorded() == []
    assert_mended(known)


def test_a_projector_that_is_just_behind_is_waited_for(known: Cloud) -> None:
    with known.hooked.begin() as connection:
        rename(connection, "a", "told")
    known.relay()
    administration.reseed(known.stock)
    pauses = []

    def pause() -> None:
        pauses.append(1)
        if len(pauses) == 2:
            known.project()

    with reading(known.read_model_url) as read_model:
        both = Reconciliation(
            engine=known.operator,
            read_model=read_model,
            log=known.log,
            patience=Patience(3, pause),
        )
        (page,) = both.pages(IMAGE)
    assert sorted(page.agreeing) == ["image:a", "image:b", "image:c"]


def test_a_projector_that_does_not_come_is_waited_for_once(known: Cloud) -> None:
    with known.hooked.begin() as connection:
        rename(connection, "a", "told")
    known.relay()
    administration.reseed(known.stock)
    pauses: list[int] = []
    with reading(known.read_model_url) as read_model:
        both = Reconciliation(
            engine=known.operator,
            read_model=read_model,
            log=known.log,
            patience=Patience(3, lambda: pauses.append(1)),
        )
        for _ in range(2):
            (page,) = both.pages(IMAGE)
            assert page.left_out == {IN_FLIGHT: 3}
    assert len(pauses) == 3


@pytest.mark.parametrize("recorded", [True, False])
def test_what_changed_since_it_was_compared_keeps_its_mark(known: Cloud, recorded: bool) -> None:
    """A change that could not be recorded moves no number, and an older mark stands for it too."""
    administration.reseed(known.stock)
    mender = Mender(writer=known.writer(), context=known.settings.context())
    with reading(known.read_model_url) as read_model:
        both = Reconciliation(engine=known.operator, read_model=read_model, log=known.log)
        (page,) = both.pages(IMAGE)
    with known.stock.begin() as connection:
        if recorded:
            # There and back, and the second one may be on its way.
            counters.take(connection, {"image:a": 1})
        else:
            rename(connection, "a", "changed")
            counters.mark(connection, ["image:a"], CREATED)
    assert mender.settle(IMAGE, page.agreeing) == 2
    assert known.unrecorded() == ["image:a"]


def test_another_log_is_told_all_after_a_reseed(known: Cloud, tmp_path: Path) -> None:
    """It has none of the numbers that were given."""
    administration.reseed(known.stock)
    folder = tmp_path / "moved"
    folder.mkdir()
    moved = Cloud(known.url, folder)
    try:
        assert {(it.ledger, it.database) for it in compare(moved, mend=True)[0]} == {
            ("unknown", "there")
        }
        assert moved.unrecorded() == []
        assert_mended(moved)
    finally:
        moved.close()


def counter(cloud: Cloud, name: str) -> Counter:
    with cloud.stock.connect() as connection:
        return counters.read(connection, [name])[name]


def last_number(cloud: Cloud) -> int:
    return counter(cloud, "image:a").seq


def test_what_somebody_holds_is_not_mended_and_not_waited_for(known: Cloud) -> None:
    if known.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer, from its first statement to its commit")
    with known.stock.begin() as connection:
        rename(connection, "a", "behind the hook")
        rename(connection, "b", "behind the hook")
    with known.hooked.connect() as connection:
        rename(connection, "a", "told")
        assert compare(known, mend=True)[2] == 1
        connection.commit()
    known.project()
    assert compare(known) == ([], {}, 0)


def test_a_value_too_large_for_an_event_is_no_difference(cloud: Cloud) -> None:
    with cloud.stock.begin() as connection:
        put_image(connection, "a")
        for number in range(20):
            put_property(connection, "a", f"large-{number}", f"{number}" + 60_000 * "x")
    cloud.bring()
    cloud.project()
    assert compare(cloud) == ([], {}, 0)
    with cloud.stock.begin() as connection:
        rename(connection, "a", "behind the hook")
    compare(cloud, mend=True)
    cloud.project()
    assert compare(cloud) == ([], {}, 0)


def test_what_another_source_told_is_not_this_databases_to_end(known: Cloud) -> None:
    with connect(known.read_model_url).begin() as connection:
        row = "INSERT INTO images (image_id, image_type, last_event_id) VALUES ('x', 'image', 'x')"
        connection.execute(text(row))
    assert compare(known) == ([], {ELSEWHERE: 1}, 0)


def test_more_images_than_a_page_are_all_compared(known: Cloud) -> None:
    names = [f"many-{number:03}" for number in range(450)]
    with known.stock.begin() as connection:
        row = {"name": "n", "status": "queued", "visibility": "private", "deleted": False}
        connection.execute(insert(IMAGES), [{"id": name, **row} for name in names])
    assert len(compare(known)[0]) == 450
    known.bring()
    known.project()
    assert compare(known) == ([], {}, 0)
    with known.stock.begin() as connection:
        connection.execute(delete(IMAGES).where(IMAGES.c.id.startswith("many-")))
    assert len(compare(known)[0]) == 450


def test_what_changes_while_it_is_compared_is_in_flight(known: Cloud) -> None:
    """Only a counter that is read behind its rows says that they are newer than the read model."""
    real = IMAGE.read

    def read(connection: Connection, keys: Sequence[str]) -> Mapping[str, ImageState]:
        with known.hooked.begin() as other:
            rename(other, "a", "told")
        return real(connection, keys)

    assert known.compare(replace(IMAGE, read=read)) == ([], {IN_FLIGHT: 1}, 0)

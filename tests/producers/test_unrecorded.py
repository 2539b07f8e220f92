"""What the hook does with a change that it cannot record, of Glance and of Nova alike.

With `strict` the service's transaction fails; otherwise it goes on, and the miss is marked, logged
and mended. Missing tables and a full outbox stand here, a full disk in `test_full_disk`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import Engine, Table, create_engine, delete, insert, select, text
from structlog.testing import capture_logs

from metaledger.producers.tables import METADATA, counters, outbox, relay, sent
from metaledger.schemas.errors import Unrecorded
from metaledger.schemas.meta import Meta, Origin

from .hooked import KEPT, SERVICES, Hooked, MakeHooked, choose, nova
from .kit import Service
from .stories import IMAGES as IDS
from .stories import still_open

EVERY_TABLE = pytest.mark.parametrize("table", METADATA.sorted_tables, ids=lambda it: it.name)
# What a table is to the hook, it is whatever the service.
ONE_SERVICE = pytest.mark.parametrize("hooked", [nova])
# Written by the relay alone: a service does without them.
OF_THE_RELAY = (sent, relay)
# Above what mending one instance takes.
ROWS_MAX = 8


@contextmanager
def missing(service: Service, table: Table) -> Iterator[None]:
    """While it holds, the table is not there."""
    rename = "ALTER TABLE {} RENAME TO {}"
    with service.engine.begin() as connection:
        connection.execute(text(rename.format(table.name, "elsewhere")))
    try:
        yield
    finally:
        with service.engine.begin() as connection:
            connection.execute(text(rename.format("elsewhere", table.name)))


def prepared(service: Service, hooked: MakeHooked) -> Hooked:
    shop = hooked(service, emits=True)
    shop.prepare()
    return shop


def change(shop: Hooked, engine: Engine, image: str, value: str) -> None:
    with engine.begin() as connection:
        shop.change(connection, image, value)


def assert_told(shop: Hooked, image: str, value: str) -> None:
    """The last that the ledger is told of the image, column by column."""
    told = shop.told()
    assert {dict(told[column]).get(image) for column in ("part", *shop.shape.columns)} == {value}


def origins(shop: Hooked, image: str) -> list[Origin]:
    """Those of the image's events, each once, in order."""
    return list(dict.fromkeys(it.origin for it in metas(shop, image)))


def missed(shop: Hooked, image: str) -> int:
    """How many changes its events say that the ledger lacks."""
    return sum(it.missed for it in metas(shop, image))


def metas(shop: Hooked, image: str) -> list[Meta]:
    name = shop.aggregate(image)
    return [it.meta for it in shop.service.waiting() if it.meta.aggregate == name]


@ONE_SERVICE
@EVERY_TABLE
def test_strict_fails_a_change_for_a_missing_table_that_it_needs(
    service: Service, hooked: MakeHooked, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, strict=True)
    shop = prepared(service, hooked)
    engine = shop.engine()
    with missing(service, table):
        if table in OF_THE_RELAY:
            change(shop, engine, "a", "1")
        else:
            with pytest.raises(Unrecorded, match=f"`strict` is set: .*{table.name}"):
                change(shop, engine, "a", "1")
            # The pool's next user gets the same connection, and commits.
            with engine.begin() as connection:
                assert connection.scalar(select(shop.shape.part.c.value).limit(1)) == "0"
        assert still_open(service) == 0
    assert shop.values()[0] == ("1" if table in OF_THE_RELAY else "0")
    change(shop, engine, "a", "2")
    assert origins(shop, "a") == [Origin.IMPORTED, Origin.OBSERVED]
    assert_told(shop, "a", "2")
    assert missed(shop, "a") == 0
    assert service.status().unrecorded_aggregates == 0


@ONE_SERVICE
@EVERY_TABLE
def test_a_missing_table_leaves_the_service_alone_and_the_miss_is_marked_logged_and_mended(
    service: Service, hooked: MakeHooked, table: Table
) -> None:
    shop = prepared(service, hooked)
    engine = shop.engine()
    change(shop, engine, "a", "1")
    with missing(service, table), capture_logs() as logs:
        change(shop, engine, "a", "2")
    assert still_open(service) == 0
    assert shop.values()[0] == "2"
    if table in OF_THE_RELAY:
        assert logs == []
        assert_told(shop, "a", "2")
        return
    (line,) = logs
    assert (line["event"], line["aggregates"]) == ("changes not recorded", [shop.aggregate("a")])
    assert table.name in line["error"]
    # What the database could not be told then, it is told with the next event.
    change(shop, engine, "b", "1")
    assert missed(shop, "b") == 1
    assert [it.aggregate for it in service.status().unrecorded] == [shop.aggregate("a")]
    change(shop, engine, "a", "3")
    assert origins(shop, "a") == [Origin.IMPORTED, Origin.OBSERVED, Origin.RECONCILED]
    assert_told(shop, "a", "3")
    assert service.status().unrecorded_aggregates == 0


@SERVICES
def test_strict_in_the_middle_refuses_the_commit_even_of_a_service_that_swallows_it(
    service: Service, hooked: MakeHooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, strict=True)
    shop = prepared(service, hooked)
    engine = shop.engine()
    with missing(service, counters), engine.connect() as connection:
        with suppress(Unrecorded):
            shop.change(connection, "a", "1")
        with pytest.raises(Unrecorded, match="a change of this transaction"):
            connection.commit()
    assert still_open(service) == 0
    assert shop.values()[0] == "0"


@SERVICES
def test_strict_fails_a_statement_that_names_nothing(
    service: Service, hooked: MakeHooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, strict=True)
    shop = prepared(service, hooked)
    shape, engine = shop.shape, create_engine(shop.url)
    computed = select(shape.table.c[shape.key]).limit(1).scalar_subquery()
    row = {**shop.part_row("a", KEPT), "value": "1", shape.part_key: computed}
    with pytest.raises(Unrecorded), engine.begin() as connection:
        connection.execute(insert(shape.part).values(row))
    engine.dispose()
    assert still_open(service) == 0
    # No part was added: there is one each.
    assert shop.values() == ["0"] * len(IDS)


def fill(shop: Hooked, engine: Engine) -> str:
    """Changes of one image until one is not recorded; returns its value."""
    for value in map(str, range(1, 2 * ROWS_MAX)):
        waiting = len(shop.service.waiting())
        change(shop, engine, "a", value)
        if len(shop.service.waiting()) == waiting:
            return value
    raise AssertionError("the outbox was not full")


def drain(service: Service) -> None:
    """As a relay does that has sent everything."""
    with service.engine.begin() as connection:
        connection.execute(delete(outbox))


@SERVICES
def test_strict_fails_what_a_full_outbox_has_no_room_for(
    service: Service, hooked: MakeHooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, strict=True, outbox_rows_max=ROWS_MAX)
    shop = prepared(service, hooked)
    engine = create_engine(shop.url)
    with pytest.raises(Unrecorded, match=f"outbox_rows_max = {ROWS_MAX}"):
        fill(shop, engine)
    assert still_open(service) == 0
    assert 0 < len(service.waiting()) <= ROWS_MAX
    last = shop.values()[0]
    assert_told(shop, "a", last)
    drain(service)
    change(shop, engine, "a", "drained")
    engine.dispose()
    assert origins(shop, "a") == [Origin.OBSERVED]
    assert_told(shop, "a", "drained")
    assert missed(shop, "a") == service.status().unrecorded_aggregates == 0


@SERVICES
def test_what_a_full_outbox_has_no_room_for_goes_through_and_is_marked_logged_and_mended(
    service: Service, hooked: MakeHooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, outbox_rows_max=ROWS_MAX)
    shop = prepared(service, hooked)
    engine = create_engine(shop.url)
    with capture_logs() as logs:
        last = fill(shop, engine)
    assert [line["event"] for line in logs] == ["outbox full"]
    assert shop.values()[0] == last
    assert 0 < len(service.waiting()) <= ROWS_MAX
    assert still_open(service) == 0
    assert [it.aggregate for it in service.status().unrecorded] == [shop.aggregate("a")]
    drain(service)
    change(shop, engine, "a", "drained")
    engine.dispose()
    assert origins(shop, "a") == [Origin.RECONCILED, Origin.OBSERVED]
    assert missed(shop, "a") >= 1
    assert_told(shop, "a", "drained")
    assert service.status().unrecorded_aggregates == 0

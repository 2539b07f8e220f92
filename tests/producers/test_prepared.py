"""What PostgreSQL keeps parsed and planned answers as what it does not."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import OperationalError

from metaledger.producers.counters import Counter
from metaledger.producers.outbox import Outbox
from metaledger.producers.prepared import Prepared
from tests.servers.process import HOST
from tests.servers.proxy import Proxy

from .kit import CODEC, POSTGRESQL, SETTINGS, Service, changes, draft, numbers, on

OFTEN = 20
# With a parameter, and with a constant.
OF_IMAGE = Prepared(
    select(changes.c.value).where(changes.c.image == bindparam("image"), changes.c.id > 0)
)


class Pooler(Proxy):
    """Names its own backends to its clients, as PgBouncer does (protocol: BackendKeyData)."""

    def passing(self, piece: bytes, *, is_answer: bool) -> bytes:
        if not is_answer:
            return piece
        return re.sub(rb"(?s)K\0\0\0\x0c....", b"K\0\0\0\x0c\0\0\0\1", piece, count=1)


def value_of(connection: Connection, image: str) -> str:
    (value,) = OF_IMAGE.execute(connection, {"image": image}).scalars()
    assert isinstance(value, str)
    return value


def kept(connection: Connection) -> list[str]:
    """The statements that its backend keeps."""
    return list(connection.scalars(text("SELECT statement FROM pg_prepared_statements")))


@contextmanager
def pooled(service: Service) -> Iterator[Engine]:
    url = make_url(service.url)
    assert url.port is not None
    pooler = Pooler()
    pooler.forward_to(url.port)
    pooler.open()
    engine = create_engine(url.set(host=HOST, port=pooler.port))
    yield engine
    engine.dispose()
    pooler.close()


def test_it_answers_the_same_however_often_it_is_asked(service: Service) -> None:
    for image in ("a", "b"):
        service.commit_change(image, f"of {image}: 100 %")
    with service.engine.connect() as connection:
        answers = [value_of(connection, image) for image in "ab" * OFTEN]
    assert answers == ["of a: 100 %", "of b: 100 %"] * OFTEN


@on(POSTGRESQL)
def test_a_connection_that_asks_often_has_its_backend_keep_it(service: Service) -> None:
    service.commit_change("a", "1")
    with service.engine.connect() as connection:
        value_of(connection, "a")
        assert kept(connection) == []
        for _ in range(OFTEN):
            value_of(connection, "a")
            connection.rollback()
        (statement,) = kept(connection)
    assert "FROM changes" in statement


@on(POSTGRESQL)
def test_behind_a_pooler_nothing_is_kept(service: Service) -> None:
    service.commit_change("a", "1")
    with pooled(service) as engine, engine.connect() as connection:
        assert {value_of(connection, "a") for _ in range(OFTEN)} == {"1"}
        assert kept(connection) == []


class Foreign(Exception):
    """As oslo.db's, which are none of SQLAlchemy's."""


def raise_foreign(_context: ExceptionContext) -> None:
    raise Foreign


@on(POSTGRESQL)
@pytest.mark.parametrize(
    "disturbance",
    ["DEALLOCATE ALL", "ALTER TABLE changes ALTER COLUMN value TYPE text"],
    ids=["deallocated", "migrated"],
)
def test_what_a_backend_lost_is_asked_without(service: Service, disturbance: str) -> None:
    service.commit_change("a", "1")
    with service.engine.connect() as connection:
        for _ in range(OFTEN):
            value_of(connection, "a")
        connection.execute(text(disturbance))
        connection.commit()
        event.listen(service.engine, "handle_error", raise_foreign)
        with pytest.raises(Foreign):
            value_of(connection, "a")
        event.remove(service.engine, "handle_error", raise_foreign)
        connection.rollback()
        assert value_of(connection, "a") == "1"


@on(POSTGRESQL)
def test_a_connection_that_is_lost_raises_what_its_driver_did(service: Service) -> None:
    with service.engine.connect() as connection:
        for _ in range(OFTEN):
            OF_IMAGE.execute(connection, {"image": "a"})
        connection.rollback()
        with service.new_engine().begin() as other:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
            other.execute(text("SELECT pg_terminate_backend(:it, 10000)"), {"it": backend})
        with pytest.raises(OperationalError):
            value_of(connection, "a")


def test_events_are_numbered_the_same_when_it_is_kept(service: Service) -> None:
    outbox = Outbox(SETTINGS, CODEC)
    with service.engine.connect() as connection:
        for number in range(OFTEN):
            with connection.begin():
                held = outbox.lock(connection, ["image:a"])
                connection.execute(insert(changes), {"image": "a", "value": str(number)})
                outbox.record(connection, [draft("a", str(number))], held=held)
    assert numbers(service.waiting()) == [("image:a", 1, seq) for seq in range(1, OFTEN + 1)]


@on(POSTGRESQL)
@pytest.mark.parametrize("moment", ["before it is read", "before it is written"])
@pytest.mark.parametrize("strict", [False, True], ids=["swallowing", "strict"])
def test_a_change_whose_statements_were_lost_is_recorded_all_the_same(
    service: Service, moment: str, strict: bool
) -> None:
    hooked = service.with_settings(strict=strict)
    with hooked.engine.connect() as connection:
        for number in range(OFTEN):
            disturbed = moment if number == OFTEN - 2 else None
            with connection.begin():
                change_as_a_hook_sees_it(hooked, connection, str(number), disturbed)
    assert hooked.outbox.failures == 0
    made = service.waiting()
    assert numbers(made) == [("image:a", 1, seq) for seq in range(1, OFTEN + 1)]
    assert {it.meta.missed for it in made} == {0}


def change_as_a_hook_sees_it(
    service: Service, connection: Connection, value: str, disturbed: str | None
) -> None:
    outbox = service.outbox
    if disturbed == "before it is read":
        connection.execute(text("DEALLOCATE ALL"))
    with outbox.shield(connection, ["image:a"]) as body:
        held = body.run(lambda: held_and_read(service, connection))
    connection.execute(insert(changes), {"image": "a", "value": value})
    if disturbed == "before it is written":
        connection.execute(text("DEALLOCATE ALL"))
    with outbox.shield_commit(connection, ["image:a"]) as body:
        body.run(lambda: outbox.record(connection, [draft("a", value)], held=held))


def held_and_read(service: Service, connection: Connection) -> Mapping[str, Counter]:
    held = service.outbox.lock(connection, ["image:a"])
    OF_IMAGE.execute(connection, {"image": "a"}).all()
    return held


@on(POSTGRESQL)
def test_what_was_missed_is_told_by_a_change_whose_statements_were_lost(service: Service) -> None:
    with service.engine.connect() as connection:
        for number in range(OFTEN):
            with connection.begin():
                change_as_a_hook_sees_it(service, connection, str(number), None)
        service.outbox.missed(2)
        with connection.begin():
            change_as_a_hook_sees_it(service, connection, "last", "before it is written")
    assert service.waiting()[-1].meta.missed == 2

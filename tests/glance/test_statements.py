"""Which images a statement touches: every form in which SQLAlchemy hands a change to an engine."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Connection,
    String,
    create_engine,
    delete,
    event,
    insert,
    literal,
    select,
    text,
    true,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.expression import UpdateBase

from metaledger.producers.glance.service import TABLES
from metaledger.producers.glance.tables import IMAGES, LOCATIONS, PROPERTIES, TAGS
from metaledger.producers.watching.statements import named, query_of_ids, target_of

A, B = "image-a", "image-b"


class Base(DeclarativeBase):
    metadata = IMAGES.metadata


class Image(Base):
    __table__ = IMAGES


class Property(Base):
    __table__ = PROPERTIES


class Seen:
    """What the engine's event saw: for each statement the named images, else those found."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, set[str]]] = []
        self.owners: dict[tuple[str, object], str] = {}

    def __call__(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, _: Any
    ) -> None:
        target = target_of(statement, multiparams, params, TABLES)
        if target is None:
            return
        its = named(target, self.owners)
        if its is not None:
            self.statements.append(("named", {it.removeprefix("image:") for it in its}))
            return
        query = query_of_ids(target)
        assert query is not None
        found = {it for row in target.rows for it in connection.scalars(query, row)}
        self.statements.append(("found", found))


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    IMAGES.metadata.create_all(engine)
    with engine.connect() as connection:
        for image_id, key in ((A, 1), (B, 2)):
            row = {"id": key, "image_id": image_id, "deleted": False, "value": "v"}
            connection.execute(
                insert(IMAGES).values(id=image_id, name="n", status="queued", deleted=False)
            )
            connection.execute(insert(PROPERTIES).values(name="k", **row))
            connection.execute(insert(TAGS).values(**row))
            connection.execute(insert(LOCATIONS).values(id=key, image_id=image_id, deleted=False))
        yield connection
    engine.dispose()


@pytest.fixture
def seen(connection: Connection) -> Seen:
    seen = Seen()
    event.listen(connection, "before_execute", seen)
    return seen


def test_core_statements_that_name_the_image(connection: Connection, seen: Seen) -> None:
    for statement in (
        update(IMAGES).where(IMAGES.c.id == A).values(name="m"),
        update(IMAGES).where(IMAGES.c.id == A, IMAGES.c.status == "queued").values(name="m"),
        delete(PROPERTIES).where(PROPERTIES.c.name == "k", PROPERTIES.c.image_id == A),
        insert(TAGS).values(id=9, image_id=A, value="t", deleted=False),
        update(TAGS).where(TAGS.c.image_id.in_([A])).values(value="u"),
    ):
        connection.execute(statement)
    assert seen.statements == [("named", {A})] * 5


def test_many_rows_at_once(connection: Connection, seen: Seen) -> None:
    rows = [{"id": 8, "image_id": A, "deleted": False}, {"id": 9, "image_id": B, "deleted": False}]
    connection.execute(insert(LOCATIONS), rows)
    connection.execute(delete(LOCATIONS).where(LOCATIONS.c.id > 7))
    connection.execute(insert(LOCATIONS).values(rows))
    connection.execute(update(IMAGES).where(IMAGES.c.id.in_([A, B])).values(name="m"))
    assert seen.statements == [
        ("named", {A, B}),
        ("found", {A, B}),
        ("named", {A, B}),
        ("named", {A, B}),
    ]


def test_a_flush_of_the_orm(connection: Connection, seen: Seen) -> None:
    with Session(connection) as session:
        image = session.get_one(Image, A)
        image.name = "m"  # type: ignore[attr-defined]
        session.flush()
        row = session.get_one(Property, 2)
        row.value = "w"  # type: ignore[attr-defined]
        session.flush()
        seen.owners[PROPERTIES.name, 2] = f"image:{B}"
        row.value = "x"  # type: ignore[attr-defined]
        session.flush()
        session.add(Property(id=3, image_id=A, name="l", deleted=False))
        session.flush()
    assert seen.statements == [
        ("named", {A}),
        ("found", {B}),
        ("named", {B}),
        ("named", {A}),
    ]


@pytest.mark.parametrize("synchronize", ["fetch", "evaluate", False])
def test_a_bulk_update_of_the_orm(connection: Connection, seen: Seen, synchronize: Any) -> None:
    with Session(connection) as session:
        session.query(Image).filter_by(id=A).update({"name": "m"}, synchronize_session=synchronize)
        session.query(Image).filter_by(status="queued").update(
            {"name": "o"}, synchronize_session=synchronize
        )
    assert seen.statements == [("named", {A}), ("found", {A, B})]


def test_a_where_that_names_no_image_is_asked_for(connection: Connection, seen: Seen) -> None:
    named_b = select(IMAGES.c.id).where(IMAGES.c.id == B)
    connection.execute(update(PROPERTIES).where(PROPERTIES.c.image_id.in_(named_b)).values(value=1))
    connection.execute(update(PROPERTIES).where(PROPERTIES.c.image_id != A).values(value="2"))
    connection.execute(update(PROPERTIES).values(value="3"))
    either = (PROPERTIES.c.image_id == A) | (PROPERTIES.c.image_id == B)
    connection.execute(update(PROPERTIES).where(either).values(value="4"))
    # The column of another table, and a value that is no parameter, name nothing.
    connection.execute(
        update(PROPERTIES)
        .where(PROPERTIES.c.image_id == IMAGES.c.id, IMAGES.c.id == A)
        .values(value="5")
    )
    connection.execute(
        update(PROPERTIES).where(PROPERTIES.c.image_id == literal(A, String) + "").values(value="6")
    )
    assert seen.statements == [
        ("found", {B}),
        ("found", {B}),
        ("found", {A, B}),
        ("found", {A, B}),
        ("found", {A}),
        ("found", {A}),
    ]


def test_deleting_rows_that_are_no_longer_live_touches_nothing(
    connection: Connection, seen: Seen
) -> None:
    connection.execute(update(TAGS).where(TAGS.c.image_id == A).values(deleted=True))
    connection.execute(delete(TAGS).where(TAGS.c.id > 0))
    assert seen.statements == [("named", {A}), ("found", {B})]


class DeleteFromSelect(UpdateBase):
    """The shape of Glance's own construct of this name."""

    inherit_cache = False

    def __init__(self, table: Any, select: Any, column: Any) -> None:
        self.table, self.select, self.column = table, select, column


def test_a_purge_of_deleted_rows_touches_what_is_live() -> None:
    old = select(PROPERTIES.c.id).where(PROPERTIES.c.value == "old").limit(10)
    target = target_of(DeleteFromSelect(PROPERTIES, old, PROPERTIES.c.id), [], {}, TABLES)
    assert target is not None
    assert named(target, {}) is None
    engine = create_engine("sqlite://")
    IMAGES.metadata.create_all(engine)
    with engine.connect() as connection:
        for key, image_id, value, dead in ((1, A, "old", 0), (2, A, "new", 0), (3, B, "old", 1)):
            row = {"id": key, "image_id": image_id, "name": str(key), "value": value}
            connection.execute(insert(PROPERTIES).values(**row, deleted=dead == 1))
        query = query_of_ids(target)
        assert query is not None
        assert connection.scalars(query).all() == [A]
    engine.dispose()


def test_reads_text_and_other_tables_are_no_targets() -> None:
    assert target_of(select(IMAGES), [], {}, TABLES) is None
    assert target_of(text("DELETE FROM images"), [], {}, TABLES) is None
    assert target_of(select(true()), [], {}, TABLES) is None

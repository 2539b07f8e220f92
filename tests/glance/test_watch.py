"""The promises of the engine plugin inside a transaction, on engines that load it by its name.

Statements are Core on tables of Glance's shape: what matters here is when a transaction commits,
fails, rolls back or goes through a savepoint, and what the ledger then says.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Engine,
    Insert,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    false,
    insert,
    literal,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError, SADeprecationWarning, StatementError

from metaledger.producers.administration import install, status
from metaledger.producers.glance import intents
from metaledger.producers.glance.tables import IMAGES, LOCATIONS, PROPERTIES, TAGS
from metaledger.producers.tables import METADATA as OUTBOX_TABLES
from metaledger.producers.watching import settings
from metaledger.schemas.events import Event
from metaledger.schemas.image import ImageDeleted, ImageRegistered, Mode
from metaledger.schemas.meta import Origin

from .ledger import live_properties, recorded

ID, OTHER = "image-a", "image-b"


def with_plugin(url: str, **options: str) -> URL:
    return make_url(url).update_query_dict({"plugin": "metaledger", **options})


@dataclass(frozen=True, slots=True)
class Service:
    """A database with Glance's tables and the outbox, and its two kinds of engines."""

    url: str
    hooked: Engine
    stock: Engine

    def events(self, image_id: str = ID) -> list[Event]:
        return recorded(self.url, image_id)


DATABASES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(params=DATABASES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/glance.sqlite"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    stock = create_engine(url)
    hooked = create_engine(with_plugin(url))
    IMAGES.metadata.create_all(stock)
    install(stock)
    yield Service(url, hooked, stock)
    hooked.dispose()
    stock.dispose()


def register(connection: Connection, image_id: str = ID, **properties: str) -> None:
    connection.execute(
        insert(IMAGES).values(
            id=image_id,
            name="n",
            status="queued",
            visibility="private",
            min_disk=0,
            min_ram=0,
            protected=False,
            os_hidden=False,
            deleted=False,
        )
    )
    for name, value in properties.items():
        add(connection, name, value, image_id)


def add(connection: Connection, name: str, value: str, image_id: str = ID) -> None:
    connection.execute(
        insert(PROPERTIES).values(image_id=image_id, name=name, value=value, deleted=False)
    )


def rename(connection: Connection, name: str, image_id: str = ID) -> None:
    connection.execute(update(IMAGES).where(IMAGES.c.id == image_id).values(name=name))


def types(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.type, event.meta.origin.value) for event in events]


DEFAULTING = Table(
    "images",
    MetaData(),
    Column("id", String(36), primary_key=True, default=lambda: ID),
    *(Column(name, String(30)) for name in ("name", "status")),
    Column("deleted", Boolean),
)


def upsert(dialect: str) -> Insert:
    if dialect == "mysql":
        statement = mysql.insert(IMAGES)
        return statement.on_duplicate_key_update(name=statement.inserted.name)
    statement = {"sqlite": sqlite, "postgresql": postgresql}[dialect].insert(IMAGES)
    changes = {"name": statement.excluded.name}
    return statement.on_conflict_do_update(index_elements=["id"], set_=changes)


REGISTERED = ("ImageRegistered", "OBSERVED")
IMPORTED = ("ImageRegistered", "IMPORTED")
UPDATED = ("ImageUpdated", "OBSERVED")
RECONCILED = ("ImageUpdated", "RECONCILED")


def test_a_transaction_is_one_event_an_image(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection, k="v")
        connection.execute(insert(TAGS).values(image_id=ID, value="t", deleted=False))
        connection.execute(insert(LOCATIONS).values(image_id=ID, deleted=False))
        rename(connection, "m")
        register(connection, OTHER)
    (first,) = service.events()
    assert isinstance(first.data, ImageRegistered)
    assert (first.data.name, first.data.properties, first.data.tags) == ("m", {"k": "v"}, ("t",))
    assert first.data.attributes == {"location_count": "1"}
    assert types(service.events(OTHER)) == [REGISTERED]
    assert first.meta.service == "glance"


def test_what_is_rolled_back_is_told_by_nobody(service: Service) -> None:
    with service.hooked.connect() as connection:
        register(connection)
        connection.rollback()
        register(connection, OTHER)
        connection.commit()
    assert service.events() == []
    assert types(service.events(OTHER)) == [REGISTERED]


def test_a_savepoint_that_is_rolled_back_is_told_by_nobody(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection, k="v")
    with service.hooked.begin() as connection:
        inner = connection.begin_nested()
        add(connection, "phantom", "1")
        rename(connection, "phantom")
        inner.rollback()
        with connection.begin_nested():
            register(connection, OTHER)
    assert types(service.events()) == [REGISTERED]
    assert types(service.events(OTHER)) == [REGISTERED]


def test_a_touch_after_a_rolled_back_savepoint_reads_again(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection, k="v")
    with service.hooked.begin() as connection:
        inner = connection.begin_nested()
        rename(connection, "phantom")
        inner.rollback()
        rename(connection, "real")
    _, event = service.events()
    assert event.data.attributes == {"name": "real"}  # type: ignore[union-attr]


def test_a_registration_that_failed_in_a_savepoint_is_told_by_nobody(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection, k="v")
    with service.hooked.begin() as connection:
        with pytest.raises(IntegrityError), connection.begin_nested():
            register(connection)
        register(connection, OTHER)
    assert types(service.events()) == [REGISTERED]
    assert types(service.events(OTHER)) == [REGISTERED]


def test_a_failure_behind_a_savepoint_is_forgotten_with_it(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection)
    with service.hooked.begin() as connection:
        inner = connection.begin_nested()
        event.listen(service.hooked, "before_cursor_execute", fail_at_counters)
        rename(connection, "unrecorded")
        event.remove(service.hooked, "before_cursor_execute", fail_at_counters)
        inner.rollback()
        rename(connection, "recorded")
    *earlier, last = service.events()
    assert last.data.attributes == {"name": "recorded"}  # type: ignore[union-attr]
    assert [event.meta.missed for event in earlier] == [0, 1]


def test_what_others_did_after_a_rolled_back_savepoint_was_there_before(service: Service) -> None:
    if service.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer, from its first statement to its commit")
    with service.hooked.begin() as connection:
        register(connection)
    with service.hooked.begin() as connection:
        inner = connection.begin_nested()
        add(connection, "phantom", "1")
        inner.rollback()
        with service.hooked.begin() as other:
            add(other, "theirs", "1")
        add(connection, "mine", "1")
    *_, theirs, mine = service.events()
    assert theirs.data.change.after == {"theirs": "1"}  # type: ignore[union-attr]
    assert mine.data.change.before == {"theirs": "1"}  # type: ignore[union-attr]
    assert mine.data.change.set == {"mine": "1"}  # type: ignore[union-attr]


def test_what_others_did_since_the_transaction_began_was_there_before(service: Service) -> None:
    """Under MariaDB's repeatable read a plain read sees nothing of it: `before` would be wrong, and
    `after` too, of which the ledger would make a lost update that never was."""
    with service.hooked.begin() as connection:
        register(connection, k="v", gone="1")
    with service.hooked.connect() as connection:
        connection.execute(select(PROPERTIES)).all()
        with service.hooked.begin() as other:
            add(other, "theirs", "1")
            other.execute(
                delete(PROPERTIES).where(PROPERTIES.c.image_id == ID, PROPERTIES.c.name == "gone")
            )
        add(connection, "mine", "1")
        connection.commit()
    *_, mine = service.events()
    assert mine.data.change.before == {"k": "v", "theirs": "1"}  # type: ignore[union-attr]
    assert mine.data.change.after == {  # type: ignore[union-attr]
        "k": "v",
        "theirs": "1",
        "mine": "1",
    }
    assert live_properties(service.events()) == mine.data.change.after  # type: ignore[union-attr]


def test_a_bulk_update_tells_of_images_that_others_brought_under_its_where(
    service: Service,
) -> None:
    with service.hooked.begin() as connection:
        register(connection, k="old")
        register(connection, OTHER)
    with service.hooked.connect() as connection:
        connection.execute(select(PROPERTIES)).all()
        with service.hooked.begin() as other:
            add(other, "k", "old", OTHER)
        connection.execute(
            update(PROPERTIES).where(PROPERTIES.c.value == "old").values(value="mended")
        )
        connection.commit()
    for image_id in (ID, OTHER):
        assert live_properties(service.events(image_id)) == {"k": "mended"}


def test_two_phases_record_with_or_without_a_prepare(service: Service) -> None:
    if service.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one phase")
    with service.hooked.connect() as connection:
        for image_id in (ID, OTHER):
            transaction = connection.begin_twophase()
            register(connection, image_id)
            if image_id == ID:
                transaction.prepare()
            transaction.commit()
    assert types(service.events()) == types(service.events(OTHER)) == [REGISTERED]


def test_an_image_older_than_the_ledger_is_imported_at_its_first_change(service: Service) -> None:
    with service.stock.begin() as connection:
        register(connection, k="v")
    with service.hooked.begin() as connection:
        rename(connection, "n")  # changes nothing
    assert service.events() == []
    with service.hooked.begin() as connection:
        rename(connection, "m")
    imported, updated = service.events()
    assert types([imported, updated]) == [IMPORTED, UPDATED]
    assert imported.data.properties == {"k": "v"}  # type: ignore[union-attr]
    assert imported.data.name == "n"  # type: ignore[union-attr]
    assert updated.data.attributes == {"name": "m"}  # type: ignore[union-attr]
    with service.hooked.begin() as connection:
        connection.execute(update(IMAGES).where(IMAGES.c.id == ID).values(status="deleted"))
    assert isinstance(service.events()[-1].data, ImageDeleted)


def test_a_bulk_update_tells_of_every_image_that_it_changed(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection, k="old")
        register(connection, OTHER, k="new")
    with service.hooked.begin() as connection:
        connection.execute(
            update(PROPERTIES).where(PROPERTIES.c.value == "old").values(value="mended")
        )
    assert live_properties(service.events()) == {"k": "mended"}
    assert types(service.events(OTHER)) == [REGISTERED]


def test_a_deletion_by_name_is_a_decision_and_one_by_age_is_none(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection, a="1", b="2")
    with service.hooked.begin() as connection:
        connection.execute(
            delete(PROPERTIES).where(PROPERTIES.c.image_id == ID, PROPERTIES.c.name == "a")
        )
    with service.hooked.begin() as connection:
        connection.execute(delete(PROPERTIES).where(PROPERTIES.c.id > 0))
    _, named, swept = service.events()
    assert named.data.change.removed == ("a",)  # type: ignore[union-attr]
    assert swept.data.change.mode is Mode.PURGE  # type: ignore[union-attr]
    assert swept.data.change.removed is None  # type: ignore[union-attr]


def test_what_an_error_hid_is_mended_by_the_next_touch(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection, k="v")
    with broken(service), service.hooked.begin() as connection:
        add(connection, "hidden", "1")
    assert live_properties(service.events()) == {"k": "v"}
    with service.hooked.begin() as connection:
        add(connection, "seen", "1")
    _, mended, updated = service.events()
    assert types([mended, updated]) == [RECONCILED, UPDATED]
    assert mended.data.change.after == {"k": "v", "hidden": "1"}  # type: ignore[union-attr]
    assert mended.data.change.before is None  # type: ignore[union-attr]
    assert updated.data.change.before == {"k": "v", "hidden": "1"}  # type: ignore[union-attr]
    assert mended.meta.missed == 1
    assert status(service.stock).unrecorded_aggregates == 0


@pytest.mark.parametrize("strict", [False, True], ids=["swallowing", "strict"])
@pytest.mark.parametrize(
    "disturbance",
    ["DEALLOCATE ALL", "ALTER TABLE image_properties ALTER COLUMN name TYPE text"],
    ids=["deallocated", "migrated"],
)
def test_what_a_warm_connection_kept_and_is_no_more_fails_no_change(
    service: Service, monkeypatch: pytest.MonkeyPatch, disturbance: str, strict: bool
) -> None:
    if service.stock.dialect.name != "postgresql":
        pytest.skip("PostgreSQL alone keeps statements")
    hooked = strict_engine(service, monkeypatch) if strict else service.hooked
    with hooked.begin() as connection:
        register(connection, k="v")
    names = [f"name-{number}" for number in range(10)]
    for name in names:
        with hooked.begin() as connection:
            rename(connection, name)
    with hooked.begin() as connection:
        connection.execute(text(disturbance))
    with hooked.begin() as connection:
        rename(connection, "last")
    hooked.dispose()
    _, *events = service.events()
    told = [it.data.attributes["name"] for it in events]  # type: ignore[union-attr]
    assert told == [*names, "last"]
    assert {it.meta.missed for it in events} == {0}


def test_what_a_failed_commit_undid_is_told_with_the_event_after(service: Service) -> None:
    if service.stock.dialect.name == "mysql":
        pytest.skip("MariaDB checks nothing at the commit")
    if service.stock.dialect.name == "sqlite":
        event.listen(service.hooked, "connect", lambda it, _: it.execute("PRAGMA foreign_keys=ON"))
    with service.stock.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE late (id int PRIMARY KEY,"
                " other int REFERENCES late (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        )
    OUTBOX_TABLES.drop_all(service.stock)
    with service.hooked.begin() as connection:
        register(connection)
    install(service.stock)

    def in_vain() -> None:
        with service.hooked.begin() as connection:
            register(connection, OTHER)
            connection.execute(text("INSERT INTO late VALUES (1, 2)"))

    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        in_vain()
    with service.hooked.begin() as connection:
        register(connection, OTHER)
    (event_,) = service.events(OTHER)
    assert event_.meta.missed == 1


def test_a_transaction_that_lost_a_deadlock_ends_with_that_error(service: Service) -> None:
    """SQLite's busy stands for it here; the service is told what it knows how to retry."""
    if service.stock.dialect.name != "sqlite":
        pytest.skip("PostgreSQL waits where SQLite is busy")
    hooked = create_engine(with_plugin(service.url, timeout="0"))
    with service.stock.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"), hooked.begin() as connection:
            register(connection)
    assert status(service.stock).unrecorded_aggregates == 0
    hooked.dispose()


def test_without_an_outbox_the_service_goes_on(service: Service) -> None:
    OUTBOX_TABLES.drop_all(service.stock)
    with service.hooked.begin() as connection:
        register(connection, k="v")
    install(service.stock)
    with service.hooked.begin() as connection:
        rename(connection, "m")
    imported, updated = service.events()
    assert types([imported, updated]) == [IMPORTED, UPDATED]
    assert imported.meta.missed >= 1


def test_an_image_whose_id_is_a_default_is_known_once_it_has_one(service: Service) -> None:
    with service.hooked.begin() as connection:
        connection.execute(insert(DEFAULTING).values(name="n", status="queued", deleted=False))
    assert types(service.events()) == [REGISTERED]


def test_an_image_that_was_there_is_not_registered_again_by_an_upsert(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection)
    with service.hooked.begin() as connection:
        row = {"id": ID, "name": "m", "status": "queued", "deleted": False}
        connection.execute(upsert(service.stock.dialect.name).values(row))
    assert types(service.events()) == [REGISTERED, UPDATED]


def test_rows_that_a_query_finds_are_told(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection)
        register(connection, OTHER)
    with service.hooked.begin() as connection:
        found = select(literal("k"), IMAGES.c.id, literal("v"), false()).where(IMAGES.c.id == ID)
        columns = ["name", "image_id", "value", "deleted"]
        connection.execute(insert(PROPERTIES).from_select(columns, found))
    assert live_properties(service.events()) == {"k": "v"}
    assert types(service.events(OTHER)) == [REGISTERED]


def test_a_statement_that_names_no_image_is_counted(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection)
    with service.hooked.begin() as connection:
        computed = select(IMAGES.c.id).where(IMAGES.c.id == ID).scalar_subquery()
        connection.execute(
            insert(PROPERTIES).values(image_id=computed, name="k", value="v", deleted=False)
        )
        rename(connection, "m")
    event = service.events()[-1]
    assert event.meta.missed == 1
    assert event.data.attributes == {"name": "m"}  # type: ignore[union-attr]


def test_a_default_id_that_nobody_can_ask_for_is_counted(service: Service) -> None:
    with service.hooked.begin() as connection:
        statement = insert(DEFAULTING).values(name="n", status="queued", deleted=False)
        assert connection.scalar(statement.returning(DEFAULTING.c.name)) == "n"
    with service.hooked.begin() as connection:
        register(connection, OTHER)
    assert service.events(OTHER)[0].meta.missed == 1


def test_a_change_in_autocommit_mode_goes_through_and_is_counted(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection)
    hooked = create_engine(with_plugin(service.url), isolation_level="AUTOCOMMIT")
    with hooked.connect() as connection:
        rename(connection, "m")
    hooked.dispose()
    with service.stock.connect() as connection:
        assert connection.scalar(select(IMAGES.c.name)) == "m"
    assert types(service.events()) == [REGISTERED]


def test_a_change_of_more_images_than_an_outbox_holds_is_marked_and_not_read(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.hooked.begin() as connection:
        register(connection)
        register(connection, OTHER)
    chosen = replace(settings.load("glance"), outbox_rows_max=1)
    monkeypatch.setattr(settings, "load", lambda _service: chosen)
    hooked = create_engine(with_plugin(service.url))
    seen: list[str] = []
    event.listen(hooked, "before_cursor_execute", lambda *args: seen.append(args[2]))
    with hooked.begin() as connection:
        connection.execute(update(IMAGES).values(name="all"))
    hooked.dispose()
    assert not [words for words in seen if "FROM image_properties" in words]
    assert status(service.stock).unrecorded_aggregates == 2


def test_the_caller_is_named(service: Service) -> None:
    class Request:
        request_id, user_id, project_id, global_request_id = "req-1", "u", "p", None

    token = intents.REQUEST.set(Request())
    try:
        with service.hooked.begin() as connection:
            register(connection)
    finally:
        intents.REQUEST.reset(token)
    (event,) = service.events()
    assert (event.meta.request_id, event.meta.user_id) == ("req-1", "u")
    assert (event.meta.project_id, event.meta.global_request_id) == ("p", None)
    assert event.meta.origin is Origin.OBSERVED


def test_other_engines_and_tables_see_no_effect(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/other.sqlite?plugin=metaledger")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (1)"))
        assert connection.scalar(text("SELECT count(*) FROM t")) == 1
    assert "plugin" not in engine.url.query
    engine.dispose()


def fail_at_counters(_c: object, _cursor: object, words: str, *_rest: object) -> None:
    # On MariaDB the lock travels with the reading of the image, unseen.
    if "INSERT INTO metaledger_counters" in words or "UNION ALL" in words:
        raise ArithmeticError


@contextmanager
def broken(service: Service) -> Iterator[None]:
    """While it holds, the outbox takes nothing: what is written into it fails in the database."""
    with service.stock.begin() as connection:
        connection.execute(text("ALTER TABLE metaledger_outbox RENAME TO metaledger_gone"))
    try:
        yield
    finally:
        with service.stock.begin() as connection:
            connection.execute(text("ALTER TABLE metaledger_gone RENAME TO metaledger_outbox"))


def strict_engine(service: Service, monkeypatch: pytest.MonkeyPatch) -> Engine:
    chosen = replace(settings.load("glance"), strict=True)
    monkeypatch.setattr(settings, "load", lambda _service: chosen)
    return create_engine(with_plugin(service.url))


@pytest.mark.parametrize(
    "name",
    [
        '"\\"\\\\\' %s :x {}[],\\u0041\\n\\',
        "".join(map(chr, range(1, 32))) + "\x7f\x80\u2028\ufeff\ufffe",
        "\u202e\U0001f4be \U0010ffff e\u0301 \u00e9",
        " a ",
        "",
        None,
    ],
)
def test_an_images_columns_are_told_exactly(service: Service, name: str | None) -> None:
    numbers = {"min_disk": 2**31 - 1, "min_ram": 0}
    with service.hooked.begin() as connection:
        row = {"id": ID, "name": name, "status": "queued", "deleted": False, **numbers}
        connection.execute(insert(IMAGES), {**row, "protected": True})
        connection.execute(insert(IMAGES), {**row, "id": OTHER})
    for image_id, protected in ((ID, True), (OTHER, None)):
        (made,) = service.events(image_id)
        assert isinstance(made.data, ImageRegistered)
        assert (made.data.name, made.data.protected) == (name, protected)
        assert (made.data.min_disk, made.data.min_ram) == tuple(numbers.values())


@pytest.mark.parametrize("refused", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
def test_an_id_that_the_driver_refuses_undoes_no_other_change(
    service: Service, refused: str
) -> None:
    with service.hooked.begin() as connection:
        register(connection)
        register(connection, OTHER)
    with service.hooked.begin() as connection:
        rename(connection, "new")
        rename(connection, "new", OTHER)
        # What a driver does with it is its own; what SQLite and MariaDB take finds no image.
        with suppress(ValueError, StatementError):
            rename(connection, "new", refused)
    with service.stock.connect() as connection:
        assert set(connection.scalars(select(IMAGES.c.name))) == {"new"}
    assert [len(service.events(it)) for it in (ID, OTHER)] == [2, 2]


def test_an_id_that_no_table_can_hold_does_not_silence_the_hook(service: Service) -> None:
    with service.hooked.begin() as connection:
        register(connection)
    with service.hooked.begin() as connection:
        rename(connection, "new", "x" * 300)
    for number in range(3):
        with service.hooked.begin() as connection:
            rename(connection, f"new {number}")
    assert len(service.events()) == 4


def test_a_service_with_cursors_on_the_server_is_recorded(service: Service) -> None:
    if service.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has no server")
    with pytest.warns(SADeprecationWarning):
        engine = create_engine(with_plugin(service.url), server_side_cursors=True)
    with engine.begin() as connection:
        register(connection)
    with engine.begin() as connection:
        rename(connection, "new")
    engine.dispose()
    assert len(service.events()) == 2

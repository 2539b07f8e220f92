"""The read model as a whole: made, known by its version, refused where it is another."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from metaledger.projector import readmodel
from metaledger.projector.database import connect
from metaledger.projector.readmodel import REVISION, check, migrate
from metaledger.projector.store import Store
from metaledger.schemas.errors import Unreachable, UsageError, VersionMismatch
from metaledger.schemas.tables import METADATA, PRIVATE, SHARED, SHARED_TABLES, TABLES, VIEWS

from .readmodels import BACKENDS, engine_of

SHARED_NAMES = {table.name for table in SHARED_TABLES}


def names(engine: Engine) -> set[str]:
    schema = None if engine.dialect.name == "sqlite" else SHARED
    found = inspect(engine)
    return {*found.get_table_names(schema=schema), *found.get_view_names(schema=schema)}


def test_migrating_an_empty_database_makes_the_read_model(url: str) -> None:
    with engine_of(url) as engine:
        with pytest.raises(VersionMismatch, match="metaledger migrate"):
            check(engine)
        made = migrate(engine)
        assert made == check(engine)
        public = {table.name for table in TABLES} - PRIVATE | {view.name for view in VIEWS}
        assert public | SHARED_NAMES <= names(engine)


def test_an_engine_without_a_read_model_opens_no_store(url: str) -> None:
    with engine_of(url) as engine:
        with pytest.raises(VersionMismatch, match="metaledger migrate"):
            Store(engine)
        migrate(engine)
        Store(engine)


def test_migrating_twice_changes_nothing(url: str) -> None:
    with engine_of(url) as engine:
        migrate(engine)
        with engine.begin() as connection:
            place = "" if engine.dialect.name == "sqlite" else "ml_g1."
            connection.execute(
                text(f"INSERT INTO {place}checkpoints (log_partition, next_offset) VALUES (0, 7)")
            )
        migrate(engine)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT next_offset FROM checkpoints")).scalar() == 7


def test_what_a_missing_file_is_asked_does_not_make_it(tmp_path: Path) -> None:
    with (
        engine_of(f"sqlite:///{tmp_path}/none.db") as engine,
        pytest.raises(VersionMismatch, match="metaledger migrate"),
    ):
        check(engine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sabotage", "word"),
    [
        ("UPDATE {}alembic_version SET version_num = '9999'", "newer"),
        ("DELETE FROM {}alembic_version", "metaledger migrate"),
        ("UPDATE {}read_model SET format = 0", "metaledger migrate"),
        ("UPDATE {}read_model SET format = 99", "newer"),
        ("DELETE FROM {}read_model", "metaledger migrate"),
    ],
)
def test_another_version_is_refused(url: str, sabotage: str, word: str) -> None:
    with engine_of(url) as engine:
        migrate(engine)
        with engine.begin() as connection:
            place = "" if engine.dialect.name == "sqlite" else f"{SHARED}."
            connection.execute(text(sabotage.format(place)))
        with pytest.raises(VersionMismatch, match=word):
            check(engine)
        if word == "newer":
            with pytest.raises(VersionMismatch, match="newer"):
                migrate(engine)


def test_a_generation_of_an_older_form_is_made_anew(url: str) -> None:
    with engine_of(url) as engine:
        migrate(engine)
        with engine.begin() as connection:
            on_sqlite = engine.dialect.name == "sqlite"
            shared, own = ("", "") if on_sqlite else (f"{SHARED}.", "ml_g1.")
            for statement in (
                f"UPDATE {shared}read_model SET format = 0, topic_id = 'a-log', partitions = 1",
                f"INSERT INTO {own}checkpoints (log_partition, next_offset) VALUES (0, 7)",
                f"INSERT INTO {shared}quarantined_bytes VALUES (0, 1, '', '')",
                f"CREATE TABLE {own}of_the_older_form (x integer)",
            ):
                connection.execute(text(statement))
        assert migrate(engine).topic_id is None
        with engine.connect() as connection:
            for table in ("checkpoints", "quarantined_bytes"):
                assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
        assert "of_the_older_form" not in inspect(engine).get_table_names(
            schema=None if on_sqlite else "ml_g1"
        )


def test_a_migration_that_fails_leaves_what_was_there(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of(url) as engine:
        monkeypatch.setattr(readmodel, "VIEWS", [None])
        with pytest.raises(AttributeError):
            migrate(engine)
        assert not names(engine)
        with pytest.raises(VersionMismatch, match="metaledger migrate"):
            check(engine)


@pytest.mark.parametrize("place", BACKENDS[1:], indirect=True)
def test_what_is_migrated_on_postgresql_is_what_the_tables_say(url: str) -> None:
    with engine_of(url) as engine:
        migrate(engine)
    # On the search path, tables would be reflected as if they had no schema.
    with engine_of(f"{url}?options=-csearch_path=public") as engine, engine.connect() as connection:
        options = {
            "include_schemas": True,
            "include_object": lambda _thing, name, kind, _reflected, _other: (
                kind != "table" or name in SHARED_NAMES
            ),
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []


@pytest.mark.parametrize("place", BACKENDS[:1], indirect=True)
def test_what_is_migrated_on_sqlite_has_the_tables_columns(url: str) -> None:
    with engine_of(url) as engine:
        migrate(engine)
        found = inspect(engine)
        for table in SHARED_TABLES:
            there = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            assert there == {column.name: column.nullable for column in table.columns}
            assert len(found.get_indexes(table.name)) == len(table.indexes)


def test_the_revision_is_the_newest_migration() -> None:
    folder = Path(readmodel.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == REVISION


@pytest.mark.parametrize("table", [*SHARED_TABLES, *TABLES], ids=lambda table: table.name)
def test_every_table_and_column_has_a_comment(table) -> None:
    assert table.comment
    assert [column.name for column in table.columns if not column.comment] == []


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_view_and_its_columns_have_comments(view) -> None:
    assert view.comment
    assert list(view.columns) == list(view.select.selected_columns.keys())
    assert all(view.columns.values())


@pytest.mark.parametrize("place", BACKENDS[:1], indirect=True)
def test_every_view_answers_in_a_file_that_is_attached_by_another_name(url: str) -> None:
    with engine_of(url) as engine:
        migrate(engine)
        path = engine.url.database
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("ATTACH ? AS ledger", (path,))
        for view in VIEWS:
            assert connection.execute(f"SELECT * FROM ledger.{view.name}").fetchall() == []


@pytest.mark.parametrize("place", BACKENDS[1:], indirect=True)
def test_postgresql_shows_the_comments_of_every_public_name(url: str) -> None:
    with engine_of(url) as engine:
        migrate(engine)
        with engine.connect() as connection:
            silent = connection.execute(
                text(
                    "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a"
                    " ON a.attrelid = c.oid AND a.attnum > 0"
                    " WHERE c.relnamespace IN ('metaledger'::regnamespace, 'ml_g1'::regnamespace)"
                    " AND c.relkind IN ('r', 'v') AND c.relname <> 'alembic_version'"
                    " AND (col_description(c.oid, a.attnum) IS NULL"
                    "      OR obj_description(c.oid, 'pg_class') IS NULL)"
                )
            ).all()
        assert silent == []


def test_another_programs_file_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (x)")
    connection.close()
    before = path.read_bytes()
    with engine_of(f"sqlite:///{path}") as engine:
        with pytest.raises(UsageError, match="another program"):
            migrate(engine)
        with pytest.raises(UsageError, match="another program"):
            check(engine)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("no database at all, but long enough to be looked at " * 40)
    with engine_of(f"sqlite:///{path}") as engine:
        for ask in (check, migrate):
            with pytest.raises(UsageError, match=r"text\.db.*damaged or of another") as caught:
                ask(engine)
            assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    with engine_of(f"sqlite:///{whole}") as engine:
        migrate(engine)
    torn = tmp_path / "torn.db"
    shutil.copy(whole, torn)
    torn.write_bytes(torn.read_bytes()[:5000])
    with engine_of(f"sqlite:///{torn}") as engine, pytest.raises(UsageError, match="damaged"):
        check(engine)


def test_a_database_that_does_not_answer_is_unreachable_and_keeps_its_password() -> None:
    with engine_of("postgresql://reader:hunter2@127.0.0.1:1/none") as engine:
        for ask in (check, migrate):
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1") as caught:
                ask(engine)
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://", "nonsense", "sqlite:///:memory:"])
def test_a_url_that_is_no_read_models_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        connect(url)

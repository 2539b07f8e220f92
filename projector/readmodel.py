"""The read model as a whole: created, brought up to date, known by its version.

Alembic (`migrations/`) owns what all generations share; a generation's tables and views are created
whole, and made anew where this build's are of another form, for their data comes from a replay.
Everything here is one transaction: a migration that fails leaves what was there. On PostgreSQL a
generation stands in `ml_g<N>`, and `metaledger` has its public names as views.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, inspect, select, text, update
from sqlalchemy.sql import quoted_name

from metaledger.projector.database import schema_of, translated, writing
from metaledger.schemas.errors import NewerVersion, UsageError, VersionMismatch
from metaledger.schemas.tables import (
    METADATA,
    PRIVATE,
    SHARED,
    SHARED_TABLES,
    TABLES,
    VIEWS,
    View,
)
from metaledger.schemas.tables.ledger import ledger_events, quarantined_bytes, read_model

# The version of a generation's tables; raised with any change to them or to a fold's state.
FORMAT = 8
# The newest of `migrations/versions`; a test compares.
REVISION = "0001"
_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that no other program takes: two migrations at once wait for one another.
_LOCK = 0x6D6C6564


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """What a read model says of itself; `topic_id` is None until a log was projected into it."""

    generation: int
    topic_id: str | None
    partitions: int | None


def check(engine: Engine) -> ReadModel:
    """What is there, if it is of this build's version. Raises VersionMismatch; writes nothing."""
    if _absent(engine):
        raise VersionMismatch(_EMPTY)
    with translated(engine), engine.connect() as connection:
        return _checked(connection)


def migrate(engine: Engine) -> ReadModel:
    """Creates the read model in an empty database, or brings it up to this build's version.

    Where the generation's tables change, they are empty afterwards and `project` fills them again.
    Raises NewerVersion where a newer build made it, UsageError in another program's SQLite file.
    """
    with translated(engine):
        if engine.dialect.name == "sqlite":
            _claim(engine)
        with writing(engine, 1).begin() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SHARED}"))
            found = _revision(connection)
            if found not in (None, *_known()):
                raise NewerVersion(_NEWER)
            if found != REVISION:
                _upgrade(connection)
            _bring_generation(connection)
    return check(engine)


_EMPTY = "there is no read model yet: run `metaledger migrate`"
_OLDER = "the read model is of an older version than this build: run `metaledger migrate`"
_NEWER = (
    "the read model was made by a newer build: upgrade Metaledger; `metaledger migrate` of this "
    "build cannot go back"
)


def _absent(engine: Engine) -> bool:
    """Whether it is a file that is not there, which connecting would create."""
    return engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists()


def _claim(engine: Engine) -> None:
    """Makes the file's journal WAL, which no transaction can; refuses another program's file."""
    with engine.connect() as connection:
        _refuse_foreign(connection)
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        raw.close()


def _refuse_foreign(connection: Connection) -> None:
    tables = inspect(connection).get_table_names()
    if tables and "read_model" not in tables:
        name = Path(connection.engine.url.database or "").name
        raise UsageError(
            f"{name} holds tables of another program: a read model is a file of its own"
        )


def _checked(connection: Connection) -> ReadModel:
    found = _revision(connection)
    if found is None:
        if connection.dialect.name == "sqlite":
            _refuse_foreign(connection)
        raise VersionMismatch(_EMPTY)
    if found != REVISION:
        raise VersionMismatch(_OLDER) if found in _known() else NewerVersion(_NEWER)
    on = connection.execution_options(schema_translate_map=_places(connection))
    row = on.execute(select(read_model)).one_or_none()
    if row is None or row.format != FORMAT:
        is_newer = row is not None and row.format > FORMAT
        raise NewerVersion(_NEWER) if is_newer else VersionMismatch(_OLDER)
    return ReadModel(generation=row.generation, topic_id=row.topic_id, partitions=row.partitions)


def _places(connection: Connection) -> dict[str | None, str | None]:
    return {SHARED: None} if connection.dialect.name == "sqlite" else {}


def _revision(connection: Connection) -> str | None:
    """Alembic's revision; None where it has never run."""
    schema = None if connection.dialect.name == "sqlite" else SHARED
    if not inspect(connection).has_table("alembic_version", schema=schema):
        return None
    place = "alembic_version" if schema is None else f"{schema}.alembic_version"
    return connection.execute(text(f"SELECT version_num FROM {place}")).scalar_one_or_none()


def _known() -> set[str]:
    return {path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")}


def _upgrade(connection: Connection) -> None:
    # Alembic takes a fifth of a second to import, and only a migration needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    # The option is a format string.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _bring_generation(connection: Connection) -> None:
    """Creates the generation, or creates it anew where this build's tables are others."""
    row = connection.execute(select(read_model)).one_or_none()
    if row is None:
        connection.execute(read_model.insert().values(format=FORMAT, generation=1))
    elif row.format > FORMAT:
        raise NewerVersion(_NEWER)
    elif row.format < FORMAT:
        _drop_generation(connection)
        # The replay admits every event again.
        connection.execute(delete(ledger_events))
        connection.execute(delete(quarantined_bytes))
        connection.execute(update(read_model).values(format=FORMAT, topic_id=None, partitions=None))
    else:
        return
    _create_generation(connection, 1 if row is None else row.generation)


def _create_generation(connection: Connection, generation: int) -> None:
    schema = None if connection.dialect.name == "sqlite" else schema_of(generation)
    if schema is not None:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    METADATA.create_all(connection, tables=TABLES, checkfirst=False)
    if schema is not None:
        for table in TABLES:
            if fillfactor := table.info.get("fillfactor"):
                connection.execute(
                    text(f"ALTER TABLE {schema}.{table.name} SET (fillfactor = {fillfactor})")
                )
    statements = [line for view in VIEWS for line in _view_statements(connection, view, schema)]
    if schema is not None:
        statements += _public_names(connection, schema)
    for statement in statements:
        # A percent sign in a comment or a literal is no parameter.
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _view_statements(connection: Connection, view: View, schema: str | None) -> Iterator[str]:
    quote = connection.dialect.identifier_preparer.quote
    name = quote(view.name) if schema is None else f"{schema}.{quote(view.name)}"
    # This style alone leaves percent signs as they are.
    dialect = type(connection.dialect)(paramstyle="named")  # type: ignore[call-arg]
    placed = {
        "schema_translate_map": connection.get_execution_options()["schema_translate_map"],
        "render_schema_translate": True,
    }
    if schema is None:
        # The map would name SQLite's `main`, and whoever attaches the file calls it otherwise.
        dialect.identifier_preparer.schema_for_object = lambda _table: ""
        placed = {}
    body = view.select.compile(dialect=dialect, compile_kwargs={"literal_binds": True}, **placed)
    yield f"CREATE VIEW {name} AS {body}"
    if schema is not None:
        yield from _comments(connection, name, view.comment, view.columns)


def _public_names(connection: Connection, schema: str) -> Iterator[str]:
    """Each public table and view of the generation as a view, with its comments."""
    quote = connection.dialect.identifier_preparer.quote
    tables = {
        table.name: (table.comment, {column.name: column.comment for column in table.columns})
        for table in TABLES
        if table.name not in PRIVATE
    }
    views = {view.name: (view.comment, dict(view.columns)) for view in VIEWS}
    for name, (comment, columns) in (tables | views).items():
        public = f"{SHARED}.{quote(name)}"
        names = ", ".join(quote(column) for column in columns)
        yield f"CREATE VIEW {public} AS SELECT {names} FROM {schema}.{quote(name)}"
        yield from _comments(connection, public, comment, columns)


def _comments(
    connection: Connection, name: str, comment: str | None, columns: Mapping[str, str | None]
) -> Iterator[str]:
    quote = connection.dialect.identifier_preparer.quote
    yield f"COMMENT ON VIEW {name} IS {_literal(comment)}"
    for column, words in columns.items():
        yield f"COMMENT ON COLUMN {name}.{quote(column)} IS {_literal(words)}"


def _literal(words: str | None) -> str:
    return "'" + (words or "").replace("'", "''") + "'"


def _drop_generation(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        generation = connection.execute(select(read_model.c.generation)).scalar_one()
        # The public names are views on it, and go with it.
        connection.execute(text(f"DROP SCHEMA {schema_of(generation)} CASCADE"))
        return
    # What stands there may be of an older form than METADATA knows.
    shared = {table.name for table in SHARED_TABLES} | {"alembic_version"}
    for name in inspect(connection).get_view_names():
        connection.exec_driver_sql(f"DROP VIEW {_quoted(connection, name)}")
    for name in inspect(connection).get_table_names():
        if name not in shared:
            connection.exec_driver_sql(f"DROP TABLE {_quoted(connection, name)}")


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(quoted_name(name, quote=None))

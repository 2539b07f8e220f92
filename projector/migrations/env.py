"""Runs the migrations of what all generations share, on the connection that `migrate` opened."""

from alembic import context

from metaledger.schemas.tables import SHARED

connection = context.config.attributes["connection"]
on_sqlite = connection.dialect.name == "sqlite"
context.configure(
    connection=connection,
    version_table_schema=None if on_sqlite else SHARED,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()

"""Read models for the benchmarks: empty ones, the rows of one batch by batch, and a bare COPY."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, select, text

from metaledger.projector.database import connect, writing
from metaledger.projector.readmodel import migrate
from metaledger.schemas.tables import SHARED_TABLES, TABLES
from metaledger.schemas.tables.image import (
    image_attribute_history,
    image_property_history,
    images,
)
from metaledger.schemas.tables.ledger import (
    aggregate_states,
    anomalies,
    ledger_events,
    read_model,
)
from metaledger.schemas.tables.lineage import snapshot_uploads
from tests.servers.interface import Postgres

# What the workload fills. Of the others nothing may have a row.
FILLED = (
    ledger_events,
    images,
    image_property_history,
    image_attribute_history,
    anomalies,
    aggregate_states,
    snapshot_uploads,
)
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows that a batch of records brings, in their last form."""

    records: int
    next_offset: int
    last_recorded_at: datetime | str
    rows: Mapping[Table, Sequence[Row]]


@contextmanager
def new_read_model(postgres: Postgres) -> Iterator[Engine]:
    """An empty read model in a database of its own."""
    url = postgres.create_database()
    engine = connect(url)
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()
        postgres.drop_database(url)


def rows_by_batch(engine: Engine, *, batch_records: int) -> list[Batch]:
    """All rows of a read model of one partition; a row comes with the event that it names.

    SQLite's as the driver gives and takes them, PostgreSQL's as Python values.
    """
    with writing(engine, 1).begin() as connection:
        found = {table: _rows(connection, table) for table in FILLED}
    events = sorted(found[ledger_events], key=itemgetter(1))
    offset_of = {row[2]: row[1] for row in events}
    last = {f"image:{row[0]}": offset_of[row[-1]] for row in found[images]}
    offset_by = {
        ledger_events: lambda row: row[1],
        images: lambda row: offset_of[row[-1]],
        image_property_history: lambda row: offset_of[row[6]],
        image_attribute_history: lambda row: offset_of[row[6]],
        anomalies: lambda row: offset_of[row[5]],
        aggregate_states: lambda row: last[row[0]],
        snapshot_uploads: lambda row: offset_of[row[3]],
    }
    batches = []
    for first in range(0, len(events), batch_records):
        of_batch = events[first : first + batch_records]
        rows: dict[Table, list[Row]] = {table: [] for table in FILLED}
        batches.append(Batch(len(of_batch), of_batch[-1][1] + 1, of_batch[-1][11], rows))
    for table, those in found.items():
        for row in those:
            batches[offset_by[table](row) // batch_records].rows[table].append(row)
    return batches


def _rows(connection: Connection, table: Table) -> list[Row]:
    if connection.dialect.name == "sqlite":
        return list(connection.exec_driver_sql(f"SELECT * FROM {table.name}").cursor.fetchall())
    return [tuple(row) for row in connection.execute(select(table))]


def write(connection: Connection, batch: Batch) -> None:
    """The batch's rows and its checkpoint, with nothing else done about them."""
    for table, rows in batch.rows.items():
        if rows:
            _copy(connection, table, rows)
    connection.execute(
        text(
            "UPDATE ml_g1.checkpoints SET next_offset = :next_offset, last_recorded_at = :at "
            "WHERE log_partition = 0"
        ),
        {"next_offset": batch.next_offset, "at": batch.last_recorded_at},
    )


def _copy(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    lines = StringIO()
    lines.writelines(_line(row) for row in rows)
    lines.seek(0)
    place = f"{table.schema or 'ml_g1'}.{table.name}"
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {place} FROM STDIN", lines, 1 << 16)


def _line(row: Row) -> str:
    """Nothing of the workload's has to be escaped but a backslash."""
    fields = [_TEXT[type(value)](value) for value in row]
    return "\t".join(fields) + "\n"


_TEXT = {
    str: lambda value: value.replace("\\", "\\\\") if "\\" in value else value,
    type(None): lambda _: "\\N",
    int: str,
    datetime: datetime.isoformat,
    memoryview: lambda value: "\\\\x" + value.hex(),
    bytes: lambda value: "\\\\x" + value.hex(),
    dict: lambda value: json.dumps(value).replace("\\", "\\\\"),
}


def compare(bare: Engine, ours: Engine) -> None:
    """Raises where the two read models differ in a row of any table but the log's name."""
    for table in (*SHARED_TABLES, *TABLES):
        if table is read_model:
            continue
        place = f"{table.schema or 'ml_g1'}.{table.name}"
        if (one := _digest(bare, place)) != (other := _digest(ours, place)):
            raise RuntimeError(f"{table.name} differs: {one} and {other} (rows, digest)")


def _digest(engine: Engine, place: str) -> tuple[int, str]:
    number = "('x' || left(md5(t::text), 15))::bit(60)::bigint"
    statement = f"SELECT count(*), coalesce(sum({number}), 0)::text FROM {place} AS t"
    with engine.connect() as connection:
        rows, digest = connection.execute(text(statement)).one()
        return rows, digest


def compare_files(bare: Path, ours: Path) -> None:
    """As `compare`, of two SQLite files."""
    with closing(sqlite3.connect(ours)) as connection:
        connection.execute("ATTACH ? AS bare", (str(bare),))
        for table in (*SHARED_TABLES, *TABLES):
            if table is read_model:
                continue
            counts = [
                connection.execute(f"SELECT count(*) FROM {place}.{table.name}").fetchone()
                for place in ("main", "bare")
            ]
            differ = connection.execute(
                f"SELECT count(*) FROM "
                f"(SELECT * FROM main.{table.name} EXCEPT SELECT * FROM bare.{table.name})"
            ).fetchone()
            if counts[0] != counts[1] or differ != (0,):
                raise RuntimeError(f"{table.name} differs: {counts}, {differ[0]} rows")

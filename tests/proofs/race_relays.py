"""Two relays that look right and are not, kept to show that the race finds them out.

Both keep a high-water mark and delete nothing (docs/RELIABILITY.md, "Outbox"). Rows become visible
in another order than that of their ids, so `id > cursor` loses what is committed behind the mark.
To wait for the oldest transaction that still runs mends that, and puts the rows in the order in
which their transactions began, which is not the order of an aggregate's numbers.
"""

from collections.abc import Sequence
from threading import Event as Flag
from typing import Any

from sqlalchemy import Connection, Engine, select, text

from metaledger.producers.tables import outbox
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import LogWriter, NewRecord

_ROWS_MAX = 1_000
_POLL_S = 0.01
_COLUMNS = (
    outbox.c.id,
    outbox.c.aggregate,
    outbox.c.stream_id,
    outbox.c.epoch,
    outbox.c.stream_seq,
    outbox.c.event_id,
    outbox.c.value,
    outbox.c.sha256,
)


class CursorRelay:
    """Reads on from the highest id that it has seen."""

    def __init__(self, engine: Engine, writer: LogWriter) -> None:
        self._engine = engine
        self._writer = writer
        self._cursor: Any = 0

    def run(self, stop: Flag) -> None:
        """Sends until it is stopped."""
        while not stop.is_set():
            if not self._round():
                stop.wait(_POLL_S)

    def drain(self) -> None:
        """Sends what it still finds."""
        while self._round():
            pass

    def _round(self) -> int:
        with self._engine.connect() as connection:
            rows = self._rows(connection)
        self._writer.append([_record(row) for row in rows])
        return len(rows)

    def _rows(self, connection: Connection) -> Sequence[Any]:
        query = select(*_COLUMNS).where(outbox.c.id > self._cursor).order_by(outbox.c.id)
        rows = connection.execute(query.limit(_ROWS_MAX)).all()
        if rows:
            self._cursor = rows[-1].id
        return rows


class HorizonRelay(CursorRelay):
    """Reads on from the last (transaction, id), below the oldest transaction that runs: PostgreSQL.

    Beside the outbox's columns it needs the transaction of each row, and adds it.
    """

    def __init__(self, engine: Engine, writer: LogWriter) -> None:
        super().__init__(engine, writer)
        self._cursor = {"xid": "0", "id": 0}
        with engine.begin() as connection:
            connection.execute(_NOTE_TRANSACTION)

    def _rows(self, connection: Connection) -> Sequence[Any]:
        rows = connection.execute(_BELOW_HORIZON, {**self._cursor, "rows": _ROWS_MAX}).all()
        if rows:
            self._cursor = {"xid": rows[-1].xid, "id": rows[-1].id}
        return rows


def _record(row: Any) -> NewRecord:
    number = StreamNumber(stream_id=row.stream_id, epoch=row.epoch, stream_seq=row.stream_seq)
    return NewRecord(
        key=row.aggregate,
        value=bytes(row.value),
        sha256=bytes(row.sha256),
        event_id=row.event_id,
        number=number,
    )


_NOTE_TRANSACTION = text("ALTER TABLE metaledger_outbox ADD xid xid8 DEFAULT pg_current_xact_id()")
_BELOW_HORIZON = text(
    f"SELECT {', '.join(column.name for column in _COLUMNS)}, xid::text AS xid"
    " FROM metaledger_outbox"
    " WHERE (xid, id) > (CAST(:xid AS xid8), :id)"
    " AND xid < pg_snapshot_xmin(pg_current_snapshot())"
    " ORDER BY metaledger_outbox.xid, id LIMIT :rows"
)

"""An event whose number is known, for its aggregate's counter is locked already: written with its
number, a round trip less inside somebody's request.

What the lock and the last event said is only a guess. The counter moves by compare-and-set: only
where it is still as it was locked, unmarked, and the stream is the one that is known, in this
build's format. Else nothing is written, and the caller takes a number as ever.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, insert, text

from metaledger.producers.counters import Counter, Stream
from metaledger.producers.prepared import Prepared
from metaledger.producers.tables import FORMAT_VERSION, counters, outbox, stream
from metaledger.schemas.events import StreamNumber


def next_number(held: Counter, known: Stream) -> StreamNumber:
    """The number that `counters.take` would give next."""
    seq = held.seq if held.epoch == known.epoch else 0
    return StreamNumber(stream_id=known.stream_id, epoch=known.epoch, stream_seq=seq + 1)


def write(connection: Connection, held: Counter, row: Mapping[str, Any]) -> bool:
    """Moves the counter and writes the outbox's row; False where the number is not the next one."""
    given = {**row, "was_epoch": held.epoch, "was_seq": held.seq}
    if connection.dialect.name == "postgresql":
        return _MOVE_AND_INSERT.execute(connection, given).rowcount == 1
    # MySQL has no compound statements.
    if getattr(connection.dialect, "is_mariadb", False):
        return connection.execute(_MOVE_THEN_INSERT, given).rowcount > 0
    moved = connection.execute(_MOVE, given).rowcount == 1
    if moved:
        connection.execute(_INSERT, row)
    return moved


_WRITTEN = [column for column in outbox.c if column is not outbox.c.id]
# As text: SQLAlchemy (2.1.9) loses parameters that stand in a statement and in one within it, as
# soon as it takes the compiled form from its cache.
_MOVE_TEXT = f"""
    UPDATE {counters.name} SET epoch = :epoch, seq = :stream_seq
    WHERE aggregate = :aggregate AND epoch = :was_epoch AND seq = :was_seq
      AND unrecorded_since IS NULL
      AND EXISTS (
          SELECT 1 FROM {stream.name} AS stream
          WHERE stream.id = 1 AND stream.format_version = {FORMAT_VERSION}
            AND stream.stream_id = :stream_id AND stream.epoch = :epoch
      )
"""
_INTO = f"INSERT INTO {outbox.name} ({', '.join(column.name for column in _WRITTEN)})"
_VALUES = ", ".join(f":{column.name}" for column in _WRITTEN)
_TYPES = [
    *(bindparam(column.name, type_=column.type) for column in _WRITTEN),
    bindparam("was_epoch", type_=counters.c.epoch.type),
    bindparam("was_seq", type_=counters.c.seq.type),
]
_MOVE = text(_MOVE_TEXT)
# Of VALUES: an INSERT … SELECT has InnoDB lock the table's AUTO_INCREMENT.
_INSERT = insert(outbox).inline()
_MOVE_AND_INSERT = Prepared(
    text(
        f"WITH moved AS ({_MOVE_TEXT} RETURNING 1) {_INTO} SELECT {_VALUES} FROM moved"
    ).bindparams(*_TYPES)
)
# It counts the rows of both.
_MOVE_THEN_INSERT = text(
    f"BEGIN NOT ATOMIC {_MOVE_TEXT}; "
    f"IF ROW_COUNT() = 1 THEN {_INTO} VALUES ({_VALUES}); END IF; END"
).bindparams(*_TYPES)

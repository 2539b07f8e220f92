"""How much room the outbox has, asked seldom. Reads the outbox's count, decides nothing else.

A count is made for each hundredth of the limit that a process has written, not for each change. So
an outbox may grow beyond its limit by that much for each process that writes at that moment. Below
100 rows every change counts: a small limit is exact.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, func, literal_column, select

from metaledger.producers.tables import outbox
from metaledger.schemas.identity import Clock

# A full outbox of 100,000 rows takes some 10 ms to count: not with every change that it refuses.
_RECOUNT = timedelta(seconds=1)


class Room:
    """The room of one outbox, as this process knows it."""

    def __init__(self, rows_max: int, clock: Clock) -> None:
        self._rows_max = rows_max
        self._sample = rows_max // 100
        self._clock = clock
        self._budget = 0
        self._full_until: datetime | None = None

    def take(self, connection: Connection, rows: int) -> int:
        """How many of the rows may be written: all of them, or as many as there is room for."""
        if rows <= self._budget:
            self._budget -= rows
            return rows
        now = self._clock()
        if self._full_until is not None and now < self._full_until:
            return 0
        room = max(0, self._rows_max - self._waiting(connection))
        granted = min(rows, room)
        self._budget = min(room - granted, self._sample)
        self._full_until = now + _RECOUNT if granted < rows and self._sample else None
        return granted

    def _waiting(self, connection: Connection) -> int:
        at_most = select(literal_column("1")).select_from(outbox).limit(self._rows_max).subquery()
        return connection.scalar(select(func.count()).select_from(at_most)) or 0

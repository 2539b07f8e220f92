"""What the projector remembers of an aggregate between its records. Pure.

A memory changes in place while a batch is folded, and is written back as one row. Those of sound
aggregates may serve the next batch too (`recall`).
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from metaledger.projector.folds import Projection
from metaledger.projector.intake import Read
from metaledger.schemas.events import StreamNumber

Row = dict[str, Any]


class Cause(StrEnum):
    """Why an aggregate is parked."""

    GAP = "gap"
    POISON = "poison"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """An aggregate waits at the record at `offset`; `awaited` is the number that is missing.

    The cause RELEASE: nothing is wrong with that record, a release stopped before it at its bound.
    """

    cause: Cause
    since: datetime
    offset: int
    awaited: StreamNumber | None = None


@dataclass(slots=True, kw_only=True)
class Memory:
    """One aggregate: its fold's state, its numbers, and what waits.

    `numbers` has the next number of each (stream, epoch). `waiting` has the records that wait, by
    offset, poison among them; None: there are some, and they were not needed. `quarantine` has the
    rows of its quarantined records, by offset. `stored_bytes` is what it had when it was last
    stored or loaded.
    """

    name: str
    partition: int
    is_stored: bool = False
    is_changed: bool = False
    state: Any = None
    numbers: dict[tuple[str, int], int] = field(default_factory=dict)
    last_valid_at: datetime | None = None
    parked: Parked | None = None
    quarantined: int = 0
    stored_bytes: int = 0
    waiting: dict[int, Read] | None = field(default_factory=dict)
    quarantine: dict[int, Row] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Nothing of it waits or stands in quarantine: the memory is all there is."""
        return self.parked is None and not self.quarantined

    def next_seq(self, number: StreamNumber) -> int:
        """The next number of that number's stream and epoch."""
        return self.numbers.get((number.stream_id, number.epoch), 1)

    def count(self, number: StreamNumber) -> None:
        """The number was seen: the next one is due."""
        self.numbers[number.stream_id, number.epoch] = number.stream_seq + 1
        self.is_changed = True


Projections = dict[str, Projection[Any]]

"""The databases of Nova's cells and the read model of their outboxes, compared table by table.

The read model is made as an operator's is: from the events alone. What differs is said in a
sentence each; nothing is a difference but what the ledger says otherwise than Nova does.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sqlalchemy import text

from metaledger.schemas.instance import InstanceRelocated
from metaledger.schemas.meta import Origin

from ..glance.ledger import recorded
from ..glance.readmodel import ReadModel
from .agreement import PUBLIC, differences, unnoticed
from .harness import Kept
from .held import NOTES, Held
from .told import Told


class Compared:
    """What a test of Nova left in all its cells, their events and the read model of these, whose
    files stand in `folder`. Anomalies of the kinds that are `right` are no differences.
    """

    def __init__(self, kept: Sequence[Kept], folder: Path, *, right: Collection[str] = ()) -> None:
        folder.mkdir(parents=True)
        told = [it for it in kept if it.cell != NOTES]
        self.events = [event for it in told for event in recorded(it.url)]
        model = ReadModel(folder, *(it.url for it in told))
        try:
            model.catch_up()
            tables = {name: model.rows(text(f"SELECT * FROM {name}")) for name in PUBLIC}
        finally:
            model.close()
        self._held = Held(kept)
        self._told = Told(tables, self.events, right)
        self.differences = [
            *differences(self._held, self._told),
            *(f"{aggregate} is marked as unrecorded" for aggregate in self._held.unrecorded),
            *self._unseen(),
        ]
        self.anomalies = Counter(str(it["kind"]) for it in tables["anomalies"])

    def told(self) -> list[str]:
        """The types of all events, of a relocation with its cause."""
        return [
            f"{it.type} {it.data.cause}" if isinstance(it.data, InstanceRelocated) else it.type
            for it in self.events
        ]

    def unnoticed(self) -> set[str]:
        """The columns (`table.column`) of which it would be no difference to say anything else."""
        return unnoticed(self._held, self._told)

    def _unseen(self) -> Iterator[str]:
        """Everything was there to be seen; but what comes from another cell is imported there."""
        if missed := sum(event.meta.missed for event in self.events):
            yield f"{missed} changes were missed"
        booted = {
            event.meta.aggregate
            for event in self.events
            if event.type == "InstanceBooted" and event.meta.origin is Origin.OBSERVED
        }
        for event in self.events:
            origin, aggregate = event.meta.origin, event.meta.aggregate
            is_arrival = origin is Origin.IMPORTED and aggregate in booted
            if origin is not Origin.OBSERVED and not is_arrival:
                yield f"{event.type} of {aggregate} is {origin}"

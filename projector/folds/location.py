"""Where an instance is: one stay after the other (EVENTS.md, "Folding instances"). Pure.

A place is a hypervisor. A host name is an endpoint of it and may change without anything moving, so
two host names are compared only where a hypervisor's id is not known on both sides.
"""

from datetime import datetime

from msgspec import Struct

from metaledger.projector.folds.step import Fact, Put, Row


class Place(Struct, frozen=True, array_like=True):
    """A hypervisor, by its id or by its host's name alone; both None: it is not known which."""

    hypervisor_id: str | None = None
    host: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything is known of it."""
        return self.hypervisor_id is not None or self.host is not None

    def told(self) -> dict[str, str | None]:
        """What is known of it, by name."""
        named = {"hypervisor_id": self.hypervisor_id, "host": self.host}
        return {name: value for name, value in named.items() if value is not None}

    def contradicts(self, other: "Place") -> bool:
        """Whether the two cannot be one."""
        if self.hypervisor_id is not None and other.hypervisor_id is not None:
            return self.hypervisor_id != other.hypervisor_id
        return self.host is not None and other.host is not None and self.host != other.host

    def tells_more_than(self, other: "Place") -> bool:
        """Whether it is another place, or names the hypervisor of one that had only a host."""
        learned = self.hypervisor_id is not None and other.hypervisor_id is None
        return learned or self.contradicts(other)


class Stay(Struct, frozen=True, array_like=True):
    """A stay that has not ended: all that its row needs when it ends."""

    place: Place
    version: int
    valid_from: datetime
    cause: str
    set_by_event: str


class Stays:
    """What one event does to the stays of one instance; `stay` and `count` are as of now."""

    __slots__ = ("_fact", "_instance_uuid", "count", "rows", "stay")

    def __init__(self, instance_uuid: str, stay: Stay | None, count: int, fact: Fact) -> None:
        self._instance_uuid = instance_uuid
        self._fact = fact
        self.stay = stay
        self.count = count
        self.rows: list[Put] = []

    @property
    def place(self) -> Place:
        """Where it is."""
        return NOWHERE if self.stay is None else self.stay.place

    def move(self, place: Place, cause: str) -> None:
        """It is there now; where it was there already, nothing moved."""
        if not place.is_known:
            self.leave()
        elif place.tells_more_than(self.place) or self.stay is None:
            self.leave()
            self.count += 1
            event_id = self._fact.event.meta.event_id
            self.stay = Stay(place, self.count, self._fact.at, cause, event_id)
            self.rows.append(Put("instance_locations", self._row(self.stay), is_new=True))

    def leave(self) -> None:
        """It is there no longer."""
        if self.stay is None:
            return
        ends: Row = {
            "valid_to": self._fact.at,
            "ended_by_event": self._fact.event.meta.event_id,
        }
        row = self._row(self.stay) | ends
        self.rows.append(Put("instance_locations", row, is_new=False))
        self.stay = None

    def _row(self, stay: Stay) -> Row:
        return {
            "instance_uuid": self._instance_uuid,
            "version": stay.version,
            "hypervisor_id": stay.place.hypervisor_id,
            "host": stay.place.host,
            "valid_from": stay.valid_from,
            "valid_to": None,
            "cause": stay.cause,
            "set_by_event": stay.set_by_event,
            "ended_by_event": None,
        }


NOWHERE = Place()

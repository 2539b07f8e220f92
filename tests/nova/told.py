"""The read model that is compared with Nova, and what a comparison is made of."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metaledger.schemas.events import Event
from metaledger.schemas.instance import InstanceDeleted

from .held import Held, Instance
from .histories import Row

ATTRIBUTES = "instance_attribute_history"
BOOTED = "InstanceBooted"


@dataclass(frozen=True, slots=True)
class Told:
    """The read model, table by table, and the events that it is made of. `right` are the kinds of
    anomalies that it should have.
    """

    tables: Mapping[str, Sequence[Row]]
    events: Sequence[Event]
    right: Collection[str]

    def of(self, table: str, instance_uuid: str) -> list[Row]:
        """A table's rows of one instance."""
        return [it for it in self.tables[table] if it["instance_uuid"] == instance_uuid]

    def deleting(self) -> set[str]:
        """The events that deleted an instance: what they ended was so at its end."""
        return {it.meta.event_id for it in self.events if isinstance(it.data, InstanceDeleted)}


def known_to_both(held: Held, told: Told) -> Iterator[tuple[str, Instance]]:
    """The instances that both know."""
    known = {it["instance_uuid"] for it in told.tables["instances"]}
    yield from ((uuid, it) for uuid, it in sorted(held.instances.items()) if uuid in known)


def last_of(told: Told, history: str, instance_uuid: str) -> list[Row]:
    """What is live, or was until the instance was deleted."""
    deleting = told.deleting()
    return [
        it
        for it in told.of(history, instance_uuid)
        if it["valid_to"] is None or it["ended_by_event"] in deleting
    ]


def last_of_kind(told: Told, instance_uuid: str, kind: str) -> dict[str, str | None]:
    rows = last_of(told, ATTRIBUTES, instance_uuid)
    return {it["key"]: it["value"] for it in rows if it["kind"] == kind}


def values_of(rows: Sequence[Row], **those: str) -> list[str | None]:
    """The values of one key, one after the other."""
    found = [row for row in rows if all(row[name] == it for name, it in those.items())]
    return [row["value"] for row in sorted(found, key=lambda row: int(row["version"]))]


def of(uuid: str, found: Iterable[str]) -> Iterator[str]:
    yield from (f"{uuid}: {it}" for it in found)


def both(nova: Any, ledger: Any) -> Iterator[str]:
    """Where two values differ; of two mappings, key by key."""
    if isinstance(nova, Mapping) and isinstance(ledger, Mapping):
        for key in sorted(nova.keys() | ledger.keys(), key=str):
            one, other = nova.get(key, "nothing"), ledger.get(key, "nothing")
            if one != other:
                yield f"{key}: {one} in Nova, {other} in the ledger"
    elif nova != ledger:
        yield f"{nova} in Nova, {ledger} in the ledger"

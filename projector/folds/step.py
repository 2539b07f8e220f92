"""What a fold takes and gives: the one form that all projections share. Pure.

A fold sees facts: events that intake has admitted, once each and in order, with their valid time.
It answers with the aggregate's next state and the rows that changed; the store writes them. A state
is a msgspec Struct, private to its projection and kept by the store as bytes, so that the states
that a batch touches are loaded by one statement, whatever the aggregate.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct

from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.events import Event
from metaledger.schemas.identity import derived_id
from metaledger.schemas.log import Position
from metaledger.schemas.meta import Origin

S = TypeVar("S")
Row = dict[str, Any]


# Structs, as the states are: the cheaper ones to make, and there are ten of them an event.
class Fact(Struct, frozen=True):
    """An admitted event. `at` is its valid time: from `occurred_at`, monotone in its aggregate."""

    event: Event
    position: Position
    recorded_at: datetime
    at: datetime


class Put(Struct, frozen=True, gc=False):
    """A row as it is now, with all its columns; the last one of a primary key in a batch wins.

    `is_new`: the first row that was ever put with that key. Where it stands in a batch, no batch
    before has written the key, so the last row can be copied in without looking.
    """

    table: str
    row: Row
    is_new: bool


class Step(Struct, Generic[S], frozen=True):
    """The next state, and the rows that changed."""

    state: S
    changes: tuple[Put, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection(Generic[S]):
    """One aggregate's fold with what the store needs to serve it.

    `fold` raises Unfoldable for an event that has no meaning in any state (an UNKNOWN enum symbol).
    """

    aggregate_kind: str
    state_type: type[S]
    fold: Callable[[S | None, Fact], Step[S]]


def origin_of(fact: Fact) -> Origin:
    """How the ledger came to know of the event. Raises Unfoldable for a symbol of tomorrow."""
    origin = fact.event.meta.origin
    if origin is Origin.UNKNOWN:
        raise Unfoldable("the event's origin is a symbol that this build does not know")
    return origin


def told_at(fact: Fact) -> datetime:
    """When it happened: as `at`, but not behind what the aggregate heard of before by another
    stream, so that it says the same in whatever order streams come.
    """
    return min(fact.event.meta.occurred_at, fact.at)


def seen_at(fact: Fact) -> datetime | None:
    """As `told_at`; None where nobody saw it: the event's time is only when it was found."""
    return told_at(fact) if origin_of(fact) is Origin.OBSERVED else None


def mark(fact: Fact, aggregate: str) -> Put:
    """What takes more than one aggregate is to be derived and judged anew for this one."""
    kind, _, aggregate_id = aggregate.partition(":")
    row = {
        "event_id": fact.event.meta.event_id,
        "aggregate_kind": kind,
        "aggregate_id": aggregate_id,
        "settles_at": None,
    }
    return Put("marks", row, is_new=True)


def anomaly(
    fact: Fact, kind: str, severity: str, details: Mapping[str, Any], *, subject: str = ""
) -> Put:
    """The row of an anomaly; its id follows from kind, event and subject, so it is raised once."""
    aggregate_kind, _, aggregate_id = fact.event.meta.aggregate.partition(":")
    row = {
        "anomaly_id": derived_id(kind, fact.event.meta.event_id, subject),
        "kind": kind,
        "severity": severity,
        "aggregate_kind": aggregate_kind,
        "aggregate_id": aggregate_id,
        "event_id": fact.event.meta.event_id,
        "occurred_at": fact.at,
        "details": dict(details),
        "withdrawn_by_event": None,
    }
    return Put("anomalies", row, is_new=True)

"""What a service says of itself, and all that the watching of its engines needs to know of it.

A service is a description: which of its tables tell of what, how to read the aggregates as they
are, and what happened between two readings. `glance/service.py` and `nova/service.py` are the two.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from metaledger.producers.watching.gathered import Transactions
from metaledger.schemas.events import EventData

State = TypeVar("State")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A table that tells of aggregates of one kind; `key` is its column that holds their ids.

    `registers`: a row is an aggregate, and not a part of one. `tells`: whether an UPDATE that sets
    these columns can tell anything, and `when` whether any statement can as things are now; one
    that cannot costs its service nothing. None: any can, at any time.
    """

    kind: str
    key: str
    registers: bool = False
    tells: Callable[[Collection[str]], bool] | None = None
    when: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class Reading(Generic[State]):
    """Aggregates as they are now, those that are there, and the owners of all their rows.

    `states` by aggregate, `owners` by table and primary key.
    """

    states: dict[str, State] = field(default_factory=dict)
    owners: dict[tuple[str, Any], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[State]):
    """One aggregate in one transaction.

    `note` is the last that was learnt about it from the service's own calls (`Transactions.note`).
    `dropped`: tables of which a statement that named the aggregate deleted rows for good.
    """

    aggregate: str
    before: State | None
    after: State | None
    note: object | None
    dropped: Collection[str]
    occurred_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Generic[State]):
    """A service whose database is watched.

    `read` gives the aggregates of these names, by locking reads where a plain one may be stale; it
    may leave out those of no kind of its own. The other three make events, in order: of what
    happened (empty: nothing), of a state that the ledger never heard of, and of one that it has to
    be brought to, because a change was not recorded. They may read more on the connection.

    `request` is the context of the request that is being served. `install` wraps what the service
    has loaded by now; it is called again and again. `transactions` is where that notes what it
    learns.
    """

    name: str
    tables: Mapping[str, Watched]
    read: Callable[[Connection, Collection[str]], Reading[State]]
    happened: Callable[[Connection, Change[State]], Sequence[EventData]]
    imported: Callable[[Connection, State, datetime], Sequence[EventData]]
    reconciled: Callable[[Connection, State, datetime], Sequence[EventData]]
    request: Callable[[], object | None]
    install: Callable[[], None]
    transactions: Transactions = field(default_factory=Transactions)

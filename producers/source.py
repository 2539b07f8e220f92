"""A service's database as cold start and reconciliation read it: which aggregates there are.

Rules: this only reads. Aggregates come in the order of their keys, a bounded page at a time, and
each page in a transaction of its own, for the service is live. Nothing here locks a row of the
service's: connections read what is committed, and whoever has to know that it stays so holds the
aggregates' counters. What a service's tables mean is said once a service, as a `Kind` for each kind
of aggregates.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Engine, func, inspect, select

from metaledger.producers.administration import require_installed
from metaledger.producers.counters import read_stream
from metaledger.producers.database import answering, reading
from metaledger.schemas.errors import UsageError
from metaledger.schemas.events import EventData

S = TypeVar("S")
# What a value is, and its key; (`state`, ``) is whether an aggregate is there.
What = tuple[str, str]
STATE: What = ("state", "")
# All that an event can tell of what is there, whether it differs or not.
WHOLE: What = ("whole", "")

_NAMED_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an aggregate stands, as its service's database or the ledger has it.

    `values` by what they are (`attribute`, `property` …) and their key; none of a deleted one.
    `unknown` are those that it cannot say.
    """

    deleted: bool = False
    values: Mapping[What, str | None] = field(default_factory=dict)
    unknown: Collection[What] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[S]):
    """One kind of a service's aggregates, `<name>:<key>`.

    `tables` are all that it is read from; `undated` is the defect of a row that says that it is
    deleted and not when. `read` gives those that are there by aggregate, deleted ones too;
    `imported` the events that tell one to a ledger that knows nothing of it. `standing` is what can
    be compared with the ledger, None where it is not this database's to say; `reconciled` mends
    what differs, and `purged` tells the end of one that is not there.
    """

    name: str
    tables: Sequence[str]
    key: Column[str]
    undated: ColumnElement[bool]
    read: Callable[[Connection, Sequence[str]], Mapping[str, S]]
    imported: Callable[[S, datetime], Sequence[EventData]]
    standing: Callable[[S], Standing | None]
    reconciled: Callable[[S, Collection[What], datetime], Sequence[EventData]]
    purged: Callable[[str, datetime], Sequence[EventData]]

    def aggregate(self, key: str) -> str:
        """The aggregate's name."""
        return f"{self.name}:{key}"

    def key_of(self, aggregate: str) -> str:
        """The key in the aggregate's name."""
        return aggregate.removeprefix(f"{self.name}:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Undated:
    """Rows that are deleted without a time: how many, and the first few by name."""

    kind: str
    count: int
    named: Sequence[str]


def require_service(engine: Engine, service: str, kinds: Sequence[Kind[Any]]) -> None:
    """Raises UsageError where the database is not the service's or has no outbox, Unreachable."""
    with answering(engine), reading(engine) as connection:
        there = set(inspect(connection).get_table_names())
        missing = {table for kind in kinds for table in kind.tables} - there
        if missing:
            raise UsageError(
                f"this is no database of {service}: it has no table {min(missing)}; its URL "
                f"stands in {service}'s own configuration, [database] connection"
            )
        require_installed(connection)
        read_stream(connection)


def count_all(engine: Engine, kind: Kind[Any]) -> int:
    """How many aggregates of the kind there are now."""
    with answering(engine), reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(kind.key.table)) or 0


def find_undated(engine: Engine, kind: Kind[Any]) -> Undated:
    """The rows with the defect, whatever was imported of them."""
    with answering(engine), reading(engine) as connection:
        counted = select(func.count()).select_from(kind.key.table).where(kind.undated)
        first = select(kind.key).where(kind.undated).order_by(kind.key).limit(_NAMED_MAX)
        return Undated(
            kind=kind.name,
            count=connection.scalar(counted) or 0,
            named=list(connection.scalars(first)),
        )


def those_there(engine: Engine, kind: Kind[Any], keys: Sequence[str]) -> set[str]:
    """Those of at most some hundred keys that there are."""
    with answering(engine), reading(engine) as connection:
        return set(connection.scalars(select(kind.key).where(kind.key.in_(keys))))


def pages(engine: Engine, kind: Kind[Any], *, keys_max: int) -> Iterator[Sequence[str]]:
    """All keys that there are, at most `keys_max` at a time."""
    after: str | None = None
    while True:
        behind = kind.key.is_not(None) if after is None else kind.key > after
        query = select(kind.key).where(behind).order_by(kind.key).limit(keys_max)
        with answering(engine), reading(engine) as connection:
            keys = list(connection.scalars(query))
        if not keys:
            return
        yield keys
        after = keys[-1]

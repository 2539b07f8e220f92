"""The same projection, written with the package `eventsourcing` on PostgreSQL, beside ours.

Its events stand in the package's own store and come by its subscription; its projection folds them
with our fold and writes the same rows into the same tables, in one transaction an event with the
package's tracking record, as its documentation shows. It is spared what ours does besides: the
aggregates' states are kept in its memory and never written, and of the order nothing is checked.
Ours reads from Kafka. Both commit to the same synced PostgreSQL; the figure is the ratio of the
rates.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.types.json import Jsonb
from sqlalchemy import Engine, Table

from metaledger.projector.folds import Fact, Put
from metaledger.projector.folds.image import fold_image
from metaledger.schemas.codec import Codec
from metaledger.schemas.jsonform import plain
from metaledger.schemas.log import Position
from metaledger.schemas.tables import TABLES
from metaledger.schemas.tables.ledger import ledger_events

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .projecting import bed, project
from .readmodels import new_read_model
from .workload import events

_OURS = {Size.QUICK: 10_000, Size.FULL: 50_000}
_THEIRS = {Size.QUICK: 1_000, Size.FULL: 5_000}
_ROUNDS = {Size.QUICK: 2, Size.FULL: 3}
_TIMEOUT_S = 600.0
_EVENT_COLUMNS = tuple(column.name for column in ledger_events.columns)


class Recorded(DomainEvent):
    """One of our events, as bytes in hex: decoding costs it what it costs us."""

    value: str
    sha256: str


class Cloud(Application[UUID]):
    """Whose events they are."""


class ImageTables(PostgresTrackingRecorder):
    """The read model's tables, and the package's tracking in the same transaction."""

    def write(self, puts: Sequence[Put], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            for put in puts:
                cursor.execute(_UPSERTS[put.table], _values(put.row), prepare=True)
            self._insert_tracking(cursor, tracking)


class Images(Projection[ImageTables]):
    """Folds each event, and writes what changed."""

    def __init__(self, view: ImageTables) -> None:
        super().__init__(view)
        self._states: dict[str, Any] = {}
        self._codec = Codec()

    @singledispatchmethod
    def process_event(self, domain_event: object, tracking: Tracking) -> None:
        raise NotImplementedError

    @process_event.register
    def _(self, domain_event: Recorded, tracking: Tracking) -> None:
        value, sha256 = bytes.fromhex(domain_event.value), bytes.fromhex(domain_event.sha256)
        event = self._codec.decode(value, sha256)
        at = event.meta.occurred_at
        fact = Fact(event, Position(0, tracking.notification_id), domain_event.timestamp, at)
        step = fold_image(self._states.get(event.meta.aggregate), fact)
        self._states[event.meta.aggregate] = step.state
        self.view.write([_event_put(fact), *step.changes], tracking)


def _event_put(fact: Fact) -> Put:
    meta = fact.event.meta
    row = {
        **{name: getattr(meta, name, None) for name in _EVENT_COLUMNS},
        "log_partition": 0,
        "log_offset": fact.position.offset,
        "event_type": fact.event.type,
        "aggregate_kind": "image",
        "aggregate_id": meta.aggregate.partition(":")[2],
        "valid_at": fact.at,
        "recorded_at": fact.recorded_at,
        "origin": str(meta.origin),
        "data": plain(fact.event.data),
    }
    return Put(ledger_events.name, row, is_new=True)


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: Jsonb(value) if isinstance(value, dict) else value for name, value in row.items()}


def _upsert(table: Table) -> str:
    names = ", ".join(column.name for column in table.columns)
    values = ", ".join(f"%({column.name})s" for column in table.columns)
    key = ", ".join(column.name for column in table.primary_key)
    sets = ", ".join(f"{column.name} = excluded.{column.name}" for column in table.columns)
    return (
        f"INSERT INTO {table.schema or 'ml_g1'}.{table.name} ({names}) VALUES ({values}) "
        f"ON CONFLICT ({key}) DO UPDATE SET {sets}"
    )


_UPSERTS = {table.name: _upsert(table) for table in (ledger_events, *TABLES)}


def _run(bench: Bench) -> Figure:
    ours, theirs = _OURS[bench.size], _THEIRS[bench.size]
    ratios, rates = [], []
    with bed(ours) as ground:
        for _ in range(_ROUNDS[bench.size]):
            with (
                new_read_model(ground.postgres) as of_theirs,
                new_read_model(ground.postgres) as of_ours,
            ):
                environment = _filled(of_theirs, theirs)
                (pair,) = bench.pairs(
                    lambda environment=environment: _project(environment, theirs),
                    lambda engine=of_ours, ground=ground: project(ground, engine),
                    rounds=1,
                )
            rates.append((theirs / pair[0], ours / pair[1]))
            bench.say(f"theirs {rates[-1][0]:,.0f} events/s, ours {rates[-1][1]:,.0f}")
            ratios.append(rates[-1][1] / rates[-1][0])
    middle = sorted(rates)[len(rates) // 2]
    return figure(ratios, f"{middle[1]:,.0f} events/s, with the package {middle[0]:,.0f}")


def _filled(engine: Engine, count: int) -> dict[str, str]:
    """The package's store in the read model's database, with the events; its environment."""
    place = engine.url
    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": place.database or "",
        "POSTGRES_HOST": place.host or "",
        "POSTGRES_PORT": str(place.port),
        "POSTGRES_USER": place.username or "",
        "POSTGRES_PASSWORD": place.password or "none",
    }
    cloud, codec = Cloud(environment), Codec()
    stored = []
    for event in events(count):
        encoded = codec.encode(event)
        recorded = Recorded(
            originator_id=UUID(event.meta.aggregate.partition(":")[2]),
            originator_version=event.meta.stream_seq,
            timestamp=event.meta.occurred_at,
            value=encoded.value.hex(),
            sha256=encoded.sha256.hex(),
        )
        stored.append(cloud.mapper.to_stored_event(recorded))
    cloud.recorder.insert_events(stored)
    cloud.close()
    return environment


def _project(environment: dict[str, str], count: int) -> None:
    runner = ProjectionRunner(
        application_class=Cloud,
        projection_class=Images,
        view_class=ImageTables,
        env=environment,
    )
    with runner:
        runner.wait(count, timeout=_TIMEOUT_S)


BENCHMARKS = (
    Benchmark(
        name="projecting-eventsourcing",
        measures="records a second / events a second of the same projection with `eventsourcing`",
        promise=Promise.AT_LEAST,
        bound=10,
        unit="x",
        run=_run,
    ),
)

"""What the destroy guard asks: one round of statements, however many instances there are."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, TextualSelect, bindparam

from metaledger.services.guard import Facts, Hypervisor, Instance, Question, Source, Stay
from metaledger.services.queries import ledger
from metaledger.services.queries.form import Row, query, rows


def _among(sql: str, *lists: str) -> TextualSelect:
    """A query with parameters that are lists."""
    return query(sql).bindparams(*(bindparam(name, expanding=True) for name in lists))


_INSTANCES = _among(
    "SELECT instance_uuid, deleted_at FROM instances WHERE instance_uuid IN :uuids", "uuids"
)

# Of an evacuation what its event told, for the stay does not name what was left.
_STAYS = _among(
    """
    SELECT s.instance_uuid, s.told_hypervisor_id, s.hypervisor_id, s.host, s.cause, s.valid_from,
           s.valid_to, e.stream_id, e.recorded_at,
           CASE WHEN s.cause = 'EVACUATION' THEN e.data END AS evacuation
      FROM instance_hypervisors s
      LEFT JOIN ledger_events e ON e.event_id = s.set_by_event
     WHERE s.instance_uuid IN :uuids ORDER BY s.instance_uuid, s.version""",
    "uuids",
)

_HYPERVISORS = _among(
    "SELECT hypervisor_id, host, removed_at FROM hypervisors WHERE hypervisor_id IN :ids", "ids"
)

_NAMES = _among(
    "SELECT hypervisor_id, host FROM hypervisor_hosts WHERE hypervisor_id IN :ids", "ids"
)

_WAITING = _among(
    """
    SELECT aggregate FROM parked_aggregates WHERE aggregate IN :aggregates
     UNION
    SELECT aggregate_kind || ':' || aggregate_id FROM quarantine
     WHERE skipped_by_event IS NULL
       AND (aggregate_kind = 'instance' AND aggregate_id IN :uuids
            OR aggregate_kind = 'hypervisor' AND aggregate_id IN :ids)""",
    "aggregates",
    "uuids",
    "ids",
)

_NAMELESS = query(
    "SELECT max(recorded_at) AS recorded_at FROM quarantine"
    " WHERE aggregate_kind IS NULL AND skipped_by_event IS NULL"
)

_DUPLICATES = query(
    "SELECT aggregate_id, details FROM anomalies"
    " WHERE kind = 'hypervisor_duplicate' AND withdrawn_by_event IS NULL"
)

_UNJUDGED = _among(
    "SELECT aggregate_id FROM unjudged_aggregates"
    " WHERE aggregate_kind = 'hypervisor' AND aggregate_id IN :ids",
    "ids",
)

_SOURCES = query("""
    SELECT stream_id, count(*) AS partitions, min(reported_at) AS reported_at,
           min(oldest_unsent_at) AS oldest_unsent_at, max(rows_waiting) AS rows_waiting,
           max(unrecorded_aggregates) AS unrecorded_aggregates
      FROM streams GROUP BY stream_id""")


def facts(
    connection: Connection,
    question: Question,
    *,
    log: tuple[str, int],
    ends: Mapping[int, int],
    now: datetime,
) -> Facts:
    """All that the rules need; `log` and its `ends` were looked at before the connection began."""
    uuids = list(question.instance_uuids)
    stays: dict[str, list[Stay]] = {}
    for row in rows(connection, _STAYS, uuids=uuids):
        stays.setdefault(row["instance_uuid"], []).append(_stay(row))
    places = {each[-1].hypervisor_id for each in stays.values()}
    ids = [question.hypervisor_id, *sorted(place for place in places if place)]
    aggregates = [f"instance:{each}" for each in uuids] + [f"hypervisor:{each}" for each in ids]
    names: dict[str, set[str]] = {}
    for row in rows(connection, _NAMES, ids=ids):
        names.setdefault(row["hypervisor_id"], set()).add(row["host"])
    waiting = rows(connection, _WAITING, aggregates=aggregates, uuids=uuids, ids=ids)
    [nameless] = rows(connection, _NAMELESS)
    return Facts(
        now=now,
        log=log,
        projected_log=ledger.projected_log(connection),
        ends=ends,
        checkpoints={
            row["log_partition"]: row["next_offset"] for row in ledger.checkpoints(connection)
        },
        sources={row.pop("stream_id"): Source(**row) for row in rows(connection, _SOURCES)},
        instances={
            row["instance_uuid"]: Instance(
                deleted_at=row["deleted_at"], stays=stays.get(row["instance_uuid"], [])
            )
            for row in rows(connection, _INSTANCES, uuids=uuids)
        },
        hypervisors={
            row["hypervisor_id"]: Hypervisor(
                host=row["host"],
                removed_at=row["removed_at"],
                names=frozenset(names.get(row["hypervisor_id"], ())),
            )
            for row in rows(connection, _HYPERVISORS, ids=ids)
        },
        duplicates=frozenset(_named_in(rows(connection, _DUPLICATES))),
        unjudged=frozenset(row["aggregate_id"] for row in rows(connection, _UNJUDGED, ids=ids)),
        waiting=frozenset(row["aggregate"] for row in waiting),
        nameless_at=nameless["recorded_at"],
    )


def _stay(row: Row) -> Stay:
    told = row["evacuation"] or {}
    return Stay(
        hypervisor_id=row["told_hypervisor_id"],
        likely_id=row["hypervisor_id"],
        host=row["host"],
        cause=row["cause"],
        since=row["valid_from"],
        until=row["valid_to"],
        left_id=told.get("from_hypervisor_id"),
        stream_id=row["stream_id"],
        recorded_at=row["recorded_at"],
    )


def _named_in(document: Any) -> Iterator[str]:  # noqa: ANN401 (rows, and what their details hold)
    """Every text in it: an anomaly about two hypervisors is of one and names the other."""
    match document:
        case str():
            yield document
        case Mapping():
            for member in document.values():
                yield from _named_in(member)
        case list():
            for member in document:
                yield from _named_in(member)
        case _:
            pass

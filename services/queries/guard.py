"""What the destroy guard asks: one round of statements, however many instances there are."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, TextualSelect, bindparam

from metaledger.services.guard import (
    Facts,
    Hypervisor,
    Instance,
    Move,
    Question,
    Source,
    Stay,
    evacuated,
)
from metaledger.services.queries import ledger
from metaledger.services.queries.form import query, rows


def _among(sql: str, *lists: str) -> TextualSelect:
    """A query with parameters that are lists."""
    return query(sql).bindparams(*(bindparam(name, expanding=True) for name in lists))


_STAYS = _among(
    "SELECT instance_uuid, told_hypervisor_id, hypervisor_id, host, cause, valid_from, valid_to,"
    " set_by_event"
    " FROM instance_hypervisors WHERE instance_uuid IN :uuids ORDER BY instance_uuid, version",
    "uuids",
)

_INSTANCES = _among(
    "SELECT instance_uuid, deleted_at FROM instances WHERE instance_uuid IN :uuids", "uuids"
)

_MOVES = _among(
    "SELECT event_id, stream_id, recorded_at, data AS relocation FROM ledger_events"
    " WHERE event_id IN :events",
    "events",
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
    SELECT aggregate_kind || ':' || aggregate_id FROM quarantined_records
     WHERE skipped_by_event IS NULL
       AND (aggregate_kind = 'instance' AND aggregate_id IN :uuids
            OR aggregate_kind = 'hypervisor' AND aggregate_id IN :ids)""",
    "aggregates",
    "uuids",
    "ids",
)

_NAMELESS = query(
    "SELECT max(recorded_at) AS recorded_at FROM quarantined_records"
    " WHERE aggregate_kind IS NULL AND skipped_by_event IS NULL"
)

_DUPLICATES = query(
    "SELECT aggregate_id, details FROM anomalies"
    " WHERE kind = 'hypervisor_duplicate' AND withdrawn_by_event IS NULL"
)

_UNJUDGED = _among(
    "SELECT aggregate_id FROM unjudged_aggregates"
    # Whose anomaly comes of a mark that is due is not known before it is worked off.
    " WHERE aggregate_kind = 'hypervisor' AND (aggregate_id IN :ids OR settles_at IS NULL)",
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
    stays = _stays(connection, uuids)
    places = {each[-1].hypervisor_id for each in stays.values()}
    ids = [question.hypervisor_id, *sorted(place for place in places if place)]
    aggregates = [f"instance:{each}" for each in uuids] + [f"hypervisor:{each}" for each in ids]
    names: dict[str, set[str]] = {}
    for row in rows(connection, _NAMES, ids=ids):
        names.setdefault(row["hypervisor_id"], set()).add(row["host"])
    waiting = rows(connection, _WAITING, aggregates=aggregates, uuids=uuids, ids=ids)
    [nameless] = rows(connection, _NAMELESS)
    homeless = [uuid for uuid in uuids if uuid not in stays or stays[uuid][-1].until is not None]
    gone = rows(connection, _INSTANCES, uuids=homeless) if homeless else []
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
            **{uuid: Instance(deleted_at=None, stays=those) for uuid, those in stays.items()},
            **{
                row["instance_uuid"]: Instance(
                    deleted_at=row["deleted_at"], stays=stays.get(row["instance_uuid"], [])
                )
                for row in gone
            },
        },
        moves=_moves(connection, question, stays),
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


def _stays(connection: Connection, uuids: Sequence[str]) -> dict[str, list[Stay]]:
    # Some thousand rows, and as mappings they would cost a multiple.
    found: dict[str, list[Stay]] = {}
    for row in connection.execute(_STAYS, {"uuids": uuids}):
        uuid, told_id, likely_id, host, cause, since, until, event_id = row
        stay = Stay(
            hypervisor_id=told_id,
            likely_id=likely_id,
            host=host,
            cause=cause,
            since=since,
            until=until,
            event_id=event_id,
        )
        found.setdefault(uuid, []).append(stay)
    return found


def _moves(
    connection: Connection, question: Question, stays: Mapping[str, Sequence[Stay]]
) -> dict[str, Move]:
    """The events that may show an evacuation from here, and what told of the instance since."""
    events = [
        stay.event_id
        for those in stays.values()
        for stay in evacuated(question.hypervisor_id, those)
    ]
    found = connection.execute(_MOVES, {"events": events}) if events else ()
    return {
        event_id: Move(
            left_id=told.get("from_hypervisor_id"), stream_id=stream_id, recorded_at=recorded_at
        )
        for event_id, stream_id, recorded_at, told in found
    }


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

"""What is asked about hypervisors."""

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from sqlalchemy import Connection

from metaledger.services.queries.form import Row, as_it_was, query, rows

_HYPERVISOR = query("""
    SELECT hypervisor_id, host, id_source, hypervisor_hostname, hypervisor_type, registered_at,
           registration_told_at, removed_at, last_event_id
      FROM hypervisors WHERE hypervisor_id = :hypervisor_id""")

_ENDPOINTS_AS_OF = query(
    "SELECT host, valid_from AS since, set_by_event FROM hypervisor_hosts"
    " WHERE hypervisor_id = :hypervisor_id"
    " AND valid_from <= :at AND (valid_to IS NULL OR :at < valid_to)",
    "at",
)

_HISTORY = query(
    "SELECT host, version, valid_from, valid_to, set_by_event, set_via, ended_by_event, end_reason"
    " FROM hypervisor_hosts WHERE hypervisor_id = :hypervisor_id AND valid_from <= :at"
    " ORDER BY version",
    "at",
)

# Those told by id and those told by host name alone are found by an index each.
_INSTANCES_AS_OF = query(
    " UNION ALL ".join(
        "SELECT instance_uuid, resolved_by, host, cause, valid_from AS since, set_by_event"
        f" FROM instance_hypervisors WHERE {which}"
        " AND valid_from <= :at AND (valid_to IS NULL OR :at < valid_to)"
        for which in (
            "told_hypervisor_id = :hypervisor_id",
            "told_hypervisor_id IS NULL AND hypervisor_id = :hypervisor_id",
        )
    )
    + " ORDER BY instance_uuid",
    "at",
)

_UNMAPPED = query("""
    SELECT DISTINCT s.instance_uuid, s.host, s.valid_from AS since, s.resolved_by, s.set_by_event,
           h.hypervisor_id AS candidate
      FROM instance_hypervisors s
      LEFT JOIN hypervisor_hosts h
             ON h.host = s.host AND (h.valid_to IS NULL OR h.valid_to > s.valid_from)
     WHERE s.told_hypervisor_id IS NULL AND s.hypervisor_id IS NULL AND s.valid_to IS NULL
     ORDER BY s.instance_uuid, candidate""")


def as_it_is(connection: Connection, hypervisor_id: str) -> Row | None:
    """The hypervisor as it is now."""
    return next(iter(rows(connection, _HYPERVISOR, hypervisor_id=hypervisor_id)), None)


def endpoints_as_of(connection: Connection, hypervisor_id: str, at: datetime) -> list[Row]:
    """The host name by which it was reached, if there was one."""
    return rows(connection, _ENDPOINTS_AS_OF, hypervisor_id=hypervisor_id, at=at)


def history(connection: Connection, hypervisor_id: str, at: datetime) -> list[Row]:
    """The intervals of its host names begun by then, in order."""
    found = rows(connection, _HISTORY, hypervisor_id=hypervisor_id, at=at)
    return [as_it_was(row, at) for row in found]


def instances_as_of(connection: Connection, hypervisor_id: str, at: datetime) -> list[Row]:
    """The instances that were on it; `resolved_by` host where its name alone was told."""
    return rows(connection, _INSTANCES_AS_OF, hypervisor_id=hypervisor_id, at=at)


def unmapped(connection: Connection) -> Iterator[Row]:
    """The instances of which only a host name is known that leads to no one hypervisor, in the
    order of their ids, with the `candidates` that had this name since the instance came there.
    """
    found = connection.execution_options(stream_results=True).execute(_UNMAPPED).mappings()
    for _, those in groupby(found, itemgetter("instance_uuid")):
        each = [dict(row) for row in those]
        candidates = [row.pop("candidate") for row in each]
        yield {**each[0], "candidates": [one for one in candidates if one is not None]}

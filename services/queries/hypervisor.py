"""What is asked about hypervisors."""

from datetime import datetime

from sqlalchemy import Connection

from metaledger.services.queries.form import Row, as_it_was, query, rows

_HYPERVISOR = query("""
    SELECT hypervisor_id, host, id_source, hypervisor_hostname, hypervisor_type, registered_at,
           removed_at, last_event_id
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

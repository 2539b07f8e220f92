"""What is asked about instances and their disks."""

from datetime import datetime

from sqlalchemy import Connection

from metaledger.services.queries.form import Row, query, rows

_INSTANCE = query("""
    SELECT i.instance_uuid, i.image_ref, i.flavor, i.hypervisor_id, l.host, i.booted_at,
           i.boot_told_at, i.rescue_image_ref, i.deleted_at, i.authoritative_by_event
      FROM instances i
      LEFT JOIN instance_locations l ON l.instance_uuid = i.instance_uuid AND l.valid_to IS NULL
     WHERE i.instance_uuid = :instance_uuid""")

# A judgement and an operator's decision tell nothing of the instance.
_FIRST_TOLD = query(
    """
    SELECT min(valid_at) AS since FROM ledger_events
     WHERE aggregate_kind = 'instance' AND aggregate_id = :instance_uuid
       AND event_type NOT IN ('DestroyJudged', 'GapAccepted', 'RecordSkipped')"""
)

_AS_OF = " valid_from <= :at AND (valid_to IS NULL OR :at < valid_to)"
_ATTRIBUTES_AS_OF = query(
    "SELECT key, value FROM instance_attribute_history"
    " WHERE instance_uuid = :instance_uuid AND kind = :kind AND" + _AS_OF + " ORDER BY key",
    "at",
)
_STORED_AS_OF = query(
    "SELECT key, value, valid_from AS since, set_by_event FROM instance_metadata_history"
    " WHERE instance_uuid = :instance_uuid AND" + _AS_OF + " ORDER BY key",
    "at",
)
_PLACE_AS_OF = query(
    "SELECT hypervisor_id, host FROM instance_locations"
    " WHERE instance_uuid = :instance_uuid AND" + _AS_OF,
    "at",
)

_LAYOUT = (
    "backend, format, size_bytes, source_kind, source_image_id, source_function, location,"
    " layout_version, extra, driver_info, recorded_by"
)
_DISKS = query(
    f"SELECT disk, state, {_LAYOUT}, last_error FROM disks"
    " WHERE instance_uuid = :instance_uuid ORDER BY disk"
)
_DISKS_AS_OF = query(
    f"""
    SELECT told.key AS disk, told.value AS state, {_LAYOUT}, event.data AS failure
      FROM (SELECT key, value, set_by_event FROM instance_attribute_history
             WHERE instance_uuid = :instance_uuid AND kind = 'disk' AND{_AS_OF}) told
      LEFT JOIN (SELECT * FROM disk_layout_history
                  WHERE instance_uuid = :instance_uuid AND{_AS_OF}) layout
             ON layout.disk = told.key
      LEFT JOIN ledger_events event
             ON told.value = 'failed' AND event.event_id = told.set_by_event
     ORDER BY told.key""",
    "at",
)


def as_it_is(connection: Connection, instance_uuid: str) -> Row | None:
    """The instance as it is now, with the host name by which it came to its hypervisor."""
    return next(iter(rows(connection, _INSTANCE, instance_uuid=instance_uuid)), None)


def first_told(connection: Connection, instance_uuid: str) -> datetime | None:
    """Since when the ledger knows of it."""
    [row] = rows(connection, _FIRST_TOLD, instance_uuid=instance_uuid)
    since: datetime | None = row["since"]
    return since


def attributes_as_of(
    connection: Connection, instance_uuid: str, kind: str, at: datetime
) -> dict[str, str | None]:
    """What it had of one kind of `instance_attribute_history`."""
    given = {"instance_uuid": instance_uuid, "kind": kind, "at": at}
    return {row["key"]: row["value"] for row in rows(connection, _ATTRIBUTES_AS_OF, **given)}


def stored_as_of(connection: Connection, instance_uuid: str, at: datetime) -> list[Row]:
    """The system metadata that its service stored."""
    return rows(connection, _STORED_AS_OF, instance_uuid=instance_uuid, at=at)


def place_as_of(connection: Connection, instance_uuid: str, at: datetime) -> Row:
    """The hypervisor that it was on; nothing where it was nowhere."""
    return next(iter(rows(connection, _PLACE_AS_OF, instance_uuid=instance_uuid, at=at)), {})


def disks(connection: Connection, instance_uuid: str) -> list[Row]:
    """Its disks, deleted ones too, with the layouts that they have or last had."""
    return rows(connection, _DISKS, instance_uuid=instance_uuid)


def disks_as_of(connection: Connection, instance_uuid: str, at: datetime) -> list[Row]:
    """Its disks in the states that they had, with the layouts that they had then."""
    found = rows(connection, _DISKS_AS_OF, instance_uuid=instance_uuid, at=at)
    for row in found:
        failure = row.pop("failure")
        row["last_error"] = failure and failure.get("error")
    return found

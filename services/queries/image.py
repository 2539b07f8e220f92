"""What is asked about images."""

from datetime import datetime

from sqlalchemy import Connection

from metaledger.services.queries.form import Row, as_it_was, query, rows

_IMAGE = query("""
    SELECT image_id, name, status, owner, visibility, disk_format, container_format, size,
           checksum, image_type, registered_at, registration_told_at, data_uploaded_at, deleted_at,
           last_event_id
      FROM images WHERE image_id = :image_id""")

_PROPERTIES = query(
    "SELECT key, value, since, set_by_event FROM image_properties"
    " WHERE image_id = :image_id ORDER BY key"
)

_AS_OF = (
    " WHERE image_id = :image_id AND valid_from <= :at AND (valid_to IS NULL OR :at < valid_to)"
    " ORDER BY key"
)
_PROPERTIES_AS_OF = query(
    "SELECT key, value, valid_from AS since, set_by_event FROM image_property_history" + _AS_OF,
    "at",
)
_ATTRIBUTES_AS_OF = query("SELECT key, value FROM image_attribute_history" + _AS_OF, "at")

_INTERVALS = (
    "SELECT '{what}' AS what, key, version, value, valid_from, valid_to, set_by_event, set_via,"
    " ended_by_event, end_reason FROM image_{what}_history WHERE image_id = :image_id"
    " AND valid_from <= :at"
)
_HISTORY = query(
    _INTERVALS.format(what="attribute")
    + " UNION ALL "
    + _INTERVALS.format(what="property")
    + " ORDER BY valid_from, what, key, version",
    "at",
)

# Each key's last interval, with the event that set it and the one that ended it.
_EXPLANATION = query(
    """
    SELECT h.key, h.version, h.value, h.valid_from, h.valid_to, h.set_via, h.end_reason,
           h.set_by_event, s.event_type AS set_by_type, s.request_id AS set_by_request,
           s.user_id AS set_by_user, s.service AS set_by_service,
           h.ended_by_event, e.event_type AS ended_by_type, e.request_id AS ended_by_request,
           e.user_id AS ended_by_user, e.service AS ended_by_service
      FROM image_property_history h
      LEFT JOIN ledger_events s ON s.event_id = h.set_by_event
      LEFT JOIN ledger_events e ON e.event_id = h.ended_by_event
     WHERE h.image_id = :image_id
       AND h.version = (SELECT max(version) FROM image_property_history
                         WHERE image_id = h.image_id AND key = h.key AND valid_from <= :at)
     ORDER BY h.key""",
    "at",
)


def as_it_is(connection: Connection, image_id: str) -> Row | None:
    """The image as it is now."""
    return next(iter(rows(connection, _IMAGE, image_id=image_id)), None)


def live_properties(connection: Connection, image_id: str) -> list[Row]:
    """The properties that the image has now."""
    return rows(connection, _PROPERTIES, image_id=image_id)


def properties_as_of(connection: Connection, image_id: str, at: datetime) -> list[Row]:
    """The properties that the image had."""
    return rows(connection, _PROPERTIES_AS_OF, image_id=image_id, at=at)


def attributes_as_of(connection: Connection, image_id: str, at: datetime) -> dict[str, str | None]:
    """The attributes that the image had, as text."""
    found = rows(connection, _ATTRIBUTES_AS_OF, image_id=image_id, at=at)
    return {row["key"]: row["value"] for row in found}


def history(connection: Connection, image_id: str, at: datetime) -> list[Row]:
    """The intervals of the image's attributes and properties (`what`) begun by then, in order."""
    found = rows(connection, _HISTORY, image_id=image_id, at=at)
    return [as_it_was(row, at) for row in found]


def explanation(connection: Connection, image_id: str, at: datetime) -> list[Row]:
    """The last interval of each property begun by then, with who set it and who ended it."""
    found = rows(connection, _EXPLANATION, image_id=image_id, at=at)
    return [as_it_was(row, at) for row in found]

"""The SQL that reads the read model, all of it: named, with parameters, by its public names.

Rows are mappings; times are aware and JSON is data on both backends. As of a time means
`valid_from <= t AND (valid_to IS NULL OR t < valid_to)`, on every history (READ_MODEL.md).
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, TextualSelect, bindparam, text
from sqlalchemy.types import TypeEngine

from metaledger.schemas.tables import JsonValue, UtcTime

Row = dict[str, Any]
# As of the end of time is now.
END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)

_TIMES = (
    "occurred_at",
    "recorded_at",
    "registered_at",
    "data_uploaded_at",
    "deleted_at",
    "since",
    "valid_from",
    "valid_to",
    "ended_at",
    "oldest_unsent_at",
    "reported_at",
    "last_recorded_at",
)


def _query(sql: str, *times: str) -> TextualSelect:
    """A query whose known columns and named parameters have the types of the tables."""
    typed = dict[str, TypeEngine[Any]]((name, UtcTime()) for name in _TIMES if name in sql)
    if "details" in sql:
        typed["details"] = JsonValue
    return (
        text(sql).bindparams(*(bindparam(name, type_=UtcTime()) for name in times)).columns(**typed)
    )


_IMAGE = _query("""
    SELECT image_id, name, status, owner, visibility, disk_format, container_format, size,
           checksum, image_type, registered_at, data_uploaded_at, deleted_at, last_event_id
      FROM images WHERE image_id = :image_id""")

_PROPERTIES = _query(
    "SELECT key, value, since, set_by_event FROM image_properties"
    " WHERE image_id = :image_id ORDER BY key"
)

_AS_OF = (
    " WHERE image_id = :image_id AND valid_from <= :at AND (valid_to IS NULL OR :at < valid_to)"
    " ORDER BY key"
)
_PROPERTIES_AS_OF = _query(
    "SELECT key, value, valid_from AS since, set_by_event FROM image_property_history" + _AS_OF,
    "at",
)
_ATTRIBUTES_AS_OF = _query("SELECT key, value FROM image_attribute_history" + _AS_OF, "at")

_INTERVALS = (
    "SELECT '{what}' AS what, key, version, value, valid_from, valid_to, set_by_event, set_via,"
    " ended_by_event, end_reason FROM image_{what}_history WHERE image_id = :image_id"
    " AND valid_from <= :at"
)
_HISTORY = _query(
    _INTERVALS.format(what="attribute")
    + " UNION ALL "
    + _INTERVALS.format(what="property")
    + " ORDER BY valid_from, what, key, version",
    "at",
)

# Each key's last interval, with the event that set it and the one that ended it.
_EXPLANATION = _query(
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

_ANOMALIES = """
    SELECT anomaly_id, kind, severity, aggregate_kind, aggregate_id, event_id, occurred_at,
           details, withdrawn_by_event
      FROM anomalies WHERE 1 = 1{filters} ORDER BY occurred_at, kind, anomaly_id"""

_QUARANTINE = _query("""
    SELECT log_partition, log_offset, aggregate_kind, aggregate_id, event_id, recorded_at, reason,
           error, parks, digest, skipped_by_event
      FROM quarantine ORDER BY recorded_at, log_partition, log_offset""")

_QUARANTINED = _query("""
    SELECT log_partition, log_offset, q.aggregate_kind, q.aggregate_id, q.event_id,
           q.stream_id, q.epoch, q.stream_seq, q.recorded_at, q.reason, q.error, q.parks,
           q.skipped_by_event, b.value, b.sha256
      FROM quarantine q
      JOIN quarantined_bytes b USING (log_partition, log_offset)
     WHERE q.log_partition = :log_partition AND q.log_offset = :log_offset""")

_PARKED = _query("""
    SELECT aggregate_kind, aggregate_id, count(*) AS events, min(recorded_at) AS since
      FROM parked_events GROUP BY aggregate_kind, aggregate_id ORDER BY 4""")

_PROJECTED_LOG = _query("SELECT topic_id, partitions FROM read_model")
_CHECKPOINTS = _query(
    "SELECT log_partition, next_offset, last_recorded_at FROM checkpoints ORDER BY log_partition"
)

_STREAMS = _query("""
    SELECT stream_id, min(oldest_unsent_at) AS oldest_unsent_at,
           max(rows_waiting) AS rows_waiting, max(rows_max) AS rows_max,
           max(unrecorded_aggregates) AS unrecorded_aggregates, max(last_error) AS last_error,
           min(reported_at) AS reported_at
      FROM streams GROUP BY stream_id ORDER BY stream_id""")


# What operators write is theirs, and what mends a gap tells nothing new.
_OWNERS = _query("""
    SELECT event_type, service, count(*) AS events
      FROM ledger_events
     WHERE origin = 'OBSERVED' AND aggregate_kind <> 'stream'
       AND event_type NOT IN ('GapAccepted', 'RecordSkipped')
     GROUP BY event_type, service ORDER BY event_type, service""")


def image(connection: Connection, image_id: str) -> Row | None:
    """The image as it is now."""
    return next(iter(_rows(connection, _IMAGE, image_id=image_id)), None)


def live_properties(connection: Connection, image_id: str) -> list[Row]:
    """The properties that the image has now."""
    return _rows(connection, _PROPERTIES, image_id=image_id)


def properties_as_of(connection: Connection, image_id: str, at: datetime) -> list[Row]:
    """The properties that the image had."""
    return _rows(connection, _PROPERTIES_AS_OF, image_id=image_id, at=at)


def attributes_as_of(connection: Connection, image_id: str, at: datetime) -> dict[str, str | None]:
    """The attributes that the image had, as text."""
    rows = _rows(connection, _ATTRIBUTES_AS_OF, image_id=image_id, at=at)
    return {row["key"]: row["value"] for row in rows}


def image_history(connection: Connection, image_id: str, at: datetime) -> list[Row]:
    """The intervals of the image's attributes and properties (`what`) begun by then, in order."""
    rows = _rows(connection, _HISTORY, image_id=image_id, at=at)
    return [_as_it_was(row, at) for row in rows]


def image_explanation(connection: Connection, image_id: str, at: datetime) -> list[Row]:
    """The last interval of each property begun by then, with who set it and who ended it."""
    rows = _rows(connection, _EXPLANATION, image_id=image_id, at=at)
    return [_as_it_was(row, at) for row in rows]


def _as_it_was(row: Row, at: datetime) -> Row:
    """The interval without an end that came later."""
    if row["valid_to"] is None or row["valid_to"] <= at:
        return row
    later = ("valid_to", "end_reason", *(name for name in row if name.startswith("ended_by_")))
    return {**row, **dict.fromkeys(later)}


def anomalies(
    connection: Connection,
    *,
    kind: str | None = None,
    since: datetime | None = None,
    aggregate: str | None = None,
) -> list[Row]:
    """What went wrong, in the order of time; `aggregate` is `<kind>:<id>`."""
    filters, given = "", dict[str, Any]()
    if kind is not None:
        filters += " AND kind = :kind"
        given["kind"] = kind
    if since is not None:
        filters += " AND occurred_at >= :since"
        given["since"] = since
    if aggregate is not None:
        filters += " AND aggregate_kind = :aggregate_kind AND aggregate_id = :aggregate_id"
        given["aggregate_kind"], _, given["aggregate_id"] = aggregate.partition(":")
    times = [name for name in ("since",) if name in given]
    return _rows(connection, _query(_ANOMALIES.format(filters=filters), *times), **given)


def quarantine(connection: Connection) -> list[Row]:
    """The records that could not be read, folded or believed."""
    return _rows(connection, _QUARANTINE)


def quarantined(connection: Connection, partition: int, offset: int) -> Row | None:
    """One record in quarantine, with its bytes."""
    place = {"log_partition": partition, "log_offset": offset}
    return next(iter(_rows(connection, _QUARANTINED, **place)), None)


def parked(connection: Connection) -> list[Row]:
    """The aggregates that wait, with the number of events and the oldest one's time."""
    return _rows(connection, _PARKED)


def projected_log(connection: Connection) -> tuple[str | None, int | None]:
    """The identity and the partitions of the log that is projected; None before the first time."""
    topic_id, partitions = connection.execute(_PROJECTED_LOG).one()
    return topic_id, partitions


def checkpoints(connection: Connection) -> list[Row]:
    """How far the projection is, partition by partition."""
    return _rows(connection, _CHECKPOINTS)


def streams(connection: Connection) -> list[Row]:
    """How far each source is: the worst of its partitions."""
    return _rows(connection, _STREAMS)


def event_owners(connection: Connection) -> list[Row]:
    """Which service writes which type of event, and how many it wrote."""
    return _rows(connection, _OWNERS)


def _rows(connection: Connection, query: TextualSelect, **given: object) -> list[Row]:
    return [dict(row) for row in connection.execute(query, given).mappings()]

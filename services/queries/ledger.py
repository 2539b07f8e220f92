"""What is asked about what all aggregates share: anomalies, what waits, how far everything is."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from metaledger.services.queries.form import Row, query, rows

_ANOMALIES = """
    SELECT anomaly_id, kind, severity, aggregate_kind, aggregate_id, event_id, occurred_at,
           details, withdrawn_by_event
      FROM anomalies WHERE 1 = 1{filters} ORDER BY occurred_at, kind, anomaly_id"""

_ANOMALY_KINDS = query("SELECT DISTINCT kind FROM anomalies ORDER BY kind")

_QUARANTINE = query("""
    SELECT log_partition, log_offset, aggregate_kind, aggregate_id, event_id, recorded_at, reason,
           error, parks, digest, skipped_by_event
      FROM quarantined_records ORDER BY recorded_at, log_partition, log_offset""")

_QUARANTINED = query("""
    SELECT log_partition, log_offset, q.aggregate_kind, q.aggregate_id, q.event_id,
           q.stream_id, q.epoch, q.stream_seq, q.recorded_at, q.reason, q.error, q.parks,
           q.skipped_by_event, b.value, b.sha256
      FROM quarantined_records q
      JOIN quarantined_bytes b USING (log_partition, log_offset)
     WHERE q.log_partition = :log_partition AND q.log_offset = :log_offset""")

_PARKED = query("""
    SELECT aggregate_kind, aggregate_id, count(*) AS events, min(recorded_at) AS since
      FROM parked_events GROUP BY aggregate_kind, aggregate_id ORDER BY 4""")

_PROJECTED_LOG = query("SELECT topic_id, partitions FROM read_model")
_CHECKPOINTS = query(
    "SELECT log_partition, next_offset, last_recorded_at FROM checkpoints ORDER BY log_partition"
)

_STREAMS = query("""
    SELECT s.stream_id,
           (SELECT e.host FROM streams r JOIN ledger_events e ON e.event_id = r.reported_by_event
             WHERE r.stream_id = s.stream_id
             ORDER BY r.reported_at DESC, r.log_partition LIMIT 1) AS relay_host,
           min(s.oldest_unsent_at) AS oldest_unsent_at,
           max(s.rows_waiting) AS rows_waiting, max(s.rows_max) AS rows_max,
           max(s.unrecorded_aggregates) AS unrecorded_aggregates, max(s.last_error) AS last_error,
           min(s.reported_at) AS reported_at
      FROM streams s GROUP BY s.stream_id ORDER BY s.stream_id""")

# What was put aside, for the database refused what was derived of it, settles in the year 9999. At
# the first projection each image has a mark: a thousand of them tell how old they are.
_UNJUDGED = query("""
    SELECT (SELECT count(*) FROM unjudged_aggregates WHERE settles_at IS NULL) AS due,
           (SELECT count(*) FROM unjudged_aggregates
             WHERE settles_at < '9999-01-01') AS waiting,
           (SELECT count(*) FROM unjudged_aggregates
             WHERE settles_at >= '9999-01-01') AS put_aside,
           (SELECT min(recorded_at) FROM ledger_events WHERE event_id IN (
             SELECT event_id FROM unjudged_aggregates WHERE settles_at IS NULL LIMIT 1000
           )) AS due_since""")

# What operators write is theirs, and what mends a gap tells nothing new.
_TELLERS = query(
    """
    SELECT event_type, service, stream_id, count(*) AS events, max(recorded_at) AS last_recorded_at
      FROM ledger_events
     WHERE origin = 'OBSERVED' AND aggregate_kind <> 'stream'
       AND event_type NOT IN ('GapAccepted', 'RecordSkipped') AND recorded_at >= :since
     GROUP BY event_type, service, stream_id ORDER BY event_type, service, stream_id""",
    "since",
)


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
    return rows(connection, query(_ANOMALIES.format(filters=filters), *times), **given)


def anomaly_kinds(connection: Connection) -> list[str]:
    """The kinds of which there is an anomaly."""
    return [row["kind"] for row in rows(connection, _ANOMALY_KINDS)]


def quarantine(connection: Connection) -> list[Row]:
    """The records that could not be read, folded or believed."""
    return rows(connection, _QUARANTINE)


def quarantined(connection: Connection, partition: int, offset: int) -> Row | None:
    """One record in quarantine, with its bytes."""
    place = {"log_partition": partition, "log_offset": offset}
    return next(iter(rows(connection, _QUARANTINED, **place)), None)


def parked(connection: Connection) -> list[Row]:
    """The aggregates that wait, with the number of events and the oldest one's time."""
    return rows(connection, _PARKED)


def projected_log(connection: Connection) -> tuple[str | None, int | None]:
    """The identity and the partitions of the log that is projected; None before the first time."""
    topic_id, partitions = connection.execute(_PROJECTED_LOG).one()
    return topic_id, partitions


def checkpoints(connection: Connection) -> list[Row]:
    """How far the projection is, partition by partition."""
    return rows(connection, _CHECKPOINTS)


def streams(connection: Connection) -> list[Row]:
    """How far each source is, the worst of its partitions, and where its relay runs."""
    return rows(connection, _STREAMS)


def unjudged(connection: Connection) -> Row:
    """How many marks of the stage behind the folds are `due`, since when, how many are `waiting`
    for reports of the sources, and how many were `put_aside`.
    """
    (found,) = rows(connection, _UNJUDGED)
    return found


def tellers(connection: Connection, since: datetime) -> list[Row]:
    """Which service wrote which type of event since then and through which stream, how many, and
    when the last.
    """
    return rows(connection, _TELLERS, since=since)

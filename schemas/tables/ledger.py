"""The tables that every aggregate shares: events, anomalies, what waits, how far everything is."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    case,
    cast,
    select,
    text,
)

from metaledger.schemas.ledger import RECORD_KIND, RecordSkipped
from metaledger.schemas.tables.base import (
    CHANGES_IN_PLACE,
    METADATA,
    SHARED,
    JsonValue,
    UtcTime,
    View,
)

read_model = Table(
    "read_model",
    METADATA,
    Column(
        "format",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="The version of a generation's tables.",
    ),
    Column("generation", Integer, nullable=False, comment="The generation that is read."),
    Column("topic_id", Text, comment="The identity of the log it is built from; null: none yet."),
    Column("partitions", Integer, comment="How many partitions that log has; null: none yet."),
    schema=SHARED,
    comment="One row: what this read model is, and of which log.",
)

ledger_events = Table(
    "ledger_events",
    METADATA,
    Column("log_partition", Integer, primary_key=True, comment="The log's partition."),
    Column("log_offset", BigInteger, primary_key=True, comment="The offset in the partition."),
    Column("event_id", Text, nullable=False, comment="The event's identity, a UUID."),
    Column("event_type", Text, nullable=False, comment="What happened, such as ImageUpdated."),
    Column("aggregate_kind", Text, nullable=False, comment="What it happened to: image …"),
    Column("aggregate_id", Text, nullable=False, comment="The bare id of what it happened to."),
    Column("stream_id", Text, nullable=False, comment="The outbox or spool that it came through."),
    Column("epoch", Integer, nullable=False, comment="The stream's epoch; a reseed raises it."),
    Column("stream_seq", BigInteger, nullable=False, comment="Its number in aggregate and stream."),
    Column(
        "occurred_at", UtcTime, nullable=False, comment="When it happened, as its service said."
    ),
    Column("valid_at", UtcTime, nullable=False, comment="The time that the histories use for it."),
    Column("recorded_at", UtcTime, nullable=False, comment="When the log took it."),
    Column("origin", Text, nullable=False, comment="OBSERVED, IMPORTED or RECONCILED."),
    Column("service", Text, nullable=False, comment="The service that saw it."),
    Column("host", Text, nullable=False, comment="The host of that service."),
    Column("deployment_id", Text, nullable=False, comment="The cloud region."),
    Column("missed", BigInteger, nullable=False, comment="Changes not recorded just before it."),
    Column("request_id", Text, comment="The request's id."),
    Column("global_request_id", Text, comment="The request's id across services."),
    Column("user_id", Text, comment="Who asked."),
    Column("project_id", Text, comment="For which project."),
    Column("causation_id", Text, comment="The event that led to this one."),
    Column("data", JsonValue, nullable=False, comment="What the event tells, in its JSON form."),
    UniqueConstraint("event_id"),
    Index(None, "aggregate_kind", "aggregate_id"),
    schema=SHARED,
    comment="Every event that was admitted, once, keyed by where it stands in the log.",
)

quarantined_bytes = Table(
    "quarantined_bytes",
    METADATA,
    Column("log_partition", Integer, primary_key=True, comment="The log's partition."),
    Column("log_offset", BigInteger, primary_key=True, comment="The offset in the partition."),
    Column("value", LargeBinary, nullable=False, comment="The record's bytes, as they were read."),
    Column("sha256", LargeBinary, nullable=False, comment="The SHA-256 that came with them."),
    schema=SHARED,
    comment="The bytes of quarantined records, keyed by where they stand in the log.",
)

anomalies = Table(
    "anomalies",
    METADATA,
    Column("anomaly_id", Text, primary_key=True, comment="Follows from kind, event and subject."),
    Column("kind", Text, nullable=False, comment="What is wrong, such as history_gap."),
    Column("severity", Text, nullable=False, comment="error, warning or info."),
    Column("aggregate_kind", Text, nullable=False, comment="What it is about: image …"),
    Column("aggregate_id", Text, nullable=False, comment="The bare id of what it is about."),
    Column("event_id", Text, nullable=False, comment="The event that shows it."),
    Column("occurred_at", UtcTime, nullable=False, comment="That event's valid time."),
    Column("details", JsonValue, nullable=False, comment="What is needed to understand it."),
    Column("withdrawn_by_event", Text, comment="The later event that mended it; null: it stands."),
    Index(None, "kind", "occurred_at"),
    Index(None, "aggregate_kind", "aggregate_id"),
    comment="What a service did and should not have done, or what the ledger missed.",
)

quarantine = Table(
    "quarantine",
    METADATA,
    Column("log_partition", Integer, primary_key=True, comment="The log's partition."),
    Column("log_offset", BigInteger, primary_key=True, comment="The offset in the partition."),
    Column("aggregate_kind", Text, comment="Of its key; null: the key cannot be read."),
    Column("aggregate_id", Text, comment="Of its key; null: the key cannot be read."),
    Column("event_id", Text, comment="The event's identity, where it can be read."),
    Column("stream_id", Text, comment="Its stream, where it can be read."),
    Column("epoch", Integer, comment="The stream's epoch, where it can be read."),
    Column("stream_seq", BigInteger, comment="Its number, where it can be read."),
    Column("recorded_at", UtcTime, nullable=False, comment="When the log took it."),
    Column(
        "reason",
        Text,
        nullable=False,
        comment="undecodable, unfoldable, unstorable, no_key, event_id_conflict, "
        "sequence_conflict or foreign_deployment.",
    ),
    Column("error", Text, nullable=False, comment="What is wrong with it, in one sentence."),
    Column("parks", Boolean, nullable=False, comment="Whether its aggregate waits behind it."),
    Column("digest", Text, nullable=False, comment="The SHA-256 of the bytes, in hex."),
    Column(
        "skipped_by_event",
        Text,
        comment="The RecordSkipped that settled it; null: open, or without a key, of which "
        "quarantined_records tells.",
    ),
    Index(None, "aggregate_kind", "aggregate_id"),
    comment="Records that could not be read, folded or believed; bytes: quarantined_bytes.",
)

parked_events = Table(
    "parked_events",
    METADATA,
    Column("log_partition", Integer, primary_key=True, comment="The log's partition."),
    Column("log_offset", BigInteger, primary_key=True, comment="The offset in the partition."),
    Column("aggregate_kind", Text, nullable=False, comment="The aggregate that is parked."),
    Column("aggregate_id", Text, nullable=False, comment="The bare id of that aggregate."),
    Column("event_id", Text, comment="The event's identity, where it can be read."),
    Column("stream_id", Text, comment="Its stream, where it can be read."),
    Column("epoch", Integer, comment="The stream's epoch, where it can be read."),
    Column("stream_seq", BigInteger, comment="Its number, where it can be read."),
    Column("recorded_at", UtcTime, nullable=False, comment="When the log took it."),
    Column("value", LargeBinary, nullable=False, comment="The record's bytes, as they were read."),
    Column("sha256", LargeBinary, nullable=False, comment="The SHA-256 that came with them."),
    Index(None, "aggregate_kind", "aggregate_id"),
    comment="Records that wait, in the log's order, until their aggregate is no longer parked.",
)

checkpoints = Table(
    "checkpoints",
    METADATA,
    Column(
        "log_partition",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="The log's partition.",
    ),
    Column("next_offset", BigInteger, nullable=False, comment="The next offset to be projected."),
    Column("last_recorded_at", UtcTime, comment="When the log took the last projected record."),
    Column(
        "releases",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="How often a release from quarantine wrote to the partition's aggregates.",
    ),
    comment="How far the projection is; moved in the transaction that writes the rows.",
)

streams = Table(
    "streams",
    METADATA,
    Column("stream_id", Text, primary_key=True, comment="The outbox or spool."),
    Column("log_partition", Integer, primary_key=True, comment="The log's partition it reports."),
    Column(
        "oldest_unsent_at",
        UtcTime,
        comment="All that was committed before is in the log; null: nothing waits.",
    ),
    Column("rows_waiting", BigInteger, nullable=False, comment="Events that were not sent yet."),
    Column("rows_max", BigInteger, nullable=False, comment="The limit of waiting events."),
    Column(
        "unrecorded_aggregates",
        BigInteger,
        nullable=False,
        comment="Aggregates whose changes could not be recorded and are not mended yet.",
    ),
    Column("last_error", Text, comment="The relay's last error; null: none."),
    Column("reported_at", UtcTime, nullable=False, comment="When the source reported this."),
    Column("reported_by_event", Text, nullable=False, comment="The SourceProgressed."),
    comment="How far each source is, partition by partition.",
)

aggregate_states = Table(
    "aggregate_states",
    METADATA,
    Column("aggregate", Text, primary_key=True, comment="<kind>:<id>, the log's key."),
    Column("log_partition", Integer, nullable=False, comment="The log's partition."),
    Column("state", LargeBinary, comment="The fold's state, private to its projection."),
    Column("numbers", LargeBinary, nullable=False, comment="The next number of every stream."),
    Column("last_valid_at", UtcTime, comment="Valid time never goes back behind it."),
    Column("quarantined", Integer, nullable=False, comment="Its records that stand in quarantine."),
    Column("parked_since", UtcTime, comment="When the log took what parked it; null: not parked."),
    Column("parked_reason", Text, comment="gap, poison or release; null: not parked."),
    Column("parked_offset", BigInteger, comment="The offset of the record that parked it."),
    Column("awaited_stream_id", Text, comment="The stream whose number is missing."),
    Column("awaited_epoch", Integer, comment="The epoch of that stream."),
    Column("awaited_seq", BigInteger, comment="The number that is missing."),
    Index(
        None,
        "parked_since",
        postgresql_where=text("parked_since IS NOT NULL"),
        sqlite_where=text("parked_since IS NOT NULL"),
    ),
    comment="The projector's own memory of each aggregate; private.",
    info=CHANGES_IN_PLACE,
)

marks = Table(
    "marks",
    METADATA,
    Column("event_id", Text, primary_key=True, comment="The event that gave reason to."),
    Column("aggregate_kind", Text, primary_key=True, comment="What is to be derived anew: image …"),
    Column("aggregate_id", Text, primary_key=True, comment="The bare id of what is."),
    Column(
        "settles_at",
        UtcTime,
        comment="It is to be judged when all sources' reports have passed this time; null: now.",
    ),
    Index(None, "settles_at"),
    Index(None, "aggregate_kind", "aggregate_id"),
    comment="What is still to be derived or judged, for an event touched it; private.",
)

SHARED_TABLES: tuple[Table, ...] = (read_model, ledger_events, quarantined_bytes)
TABLES: tuple[Table, ...] = (
    anomalies,
    quarantine,
    parked_events,
    checkpoints,
    streams,
    aggregate_states,
    marks,
)


def _record_id(*parts: ColumnElement[Any]) -> ColumnElement[Any]:
    """The bare id of `record_aggregate`, of topic, partition and offset as text."""
    topic_id, partition, offset = parts
    return topic_id + "/" + partition + "/" + offset


_told = ledger_events.c.data
# A decision about a record without a key stands in any partition, and is projected before or after
# the record: so it is looked for when somebody asks, and never written into the record's row.
_skipped_without_key = (
    select(ledger_events.c.event_id)
    .where(
        ledger_events.c.aggregate_kind == RECORD_KIND,
        ledger_events.c.aggregate_id
        == _record_id(
            read_model.c.topic_id,
            cast(quarantine.c.log_partition, Text),
            cast(quarantine.c.log_offset, Text),
        ),
        ledger_events.c.event_type == RecordSkipped.__name__,
        # And not one about a record that bears this aggregate's name as its key.
        ledger_events.c.aggregate_id
        == _record_id(
            *(_told[name].as_string() for name in ("topic_id", "log_partition", "log_offset"))
        ),
    )
    .order_by(ledger_events.c.log_partition, ledger_events.c.log_offset)
    .limit(1)
    .correlate(quarantine)
    .scalar_subquery()
)

quarantined_records = View(
    name="quarantined_records",
    comment="The records in quarantine, each with the decision that settled it, if there is one.",
    columns={
        **{column.name: column.comment or "" for column in quarantine.columns},
        "skipped_by_event": "The RecordSkipped that settled it; null: open.",
    },
    select=select(
        *(column for column in quarantine.columns if column.name != "skipped_by_event"),
        case(
            (quarantine.c.aggregate_kind.is_(None), _skipped_without_key),
            else_=quarantine.c.skipped_by_event,
        ).label("skipped_by_event"),
    ),
)

parked_aggregates = View(
    name="parked_aggregates",
    comment="The aggregates that wait, and what for; the records that wait: parked_events.",
    columns={
        "aggregate": "<kind>:<id>, as `metaledger quarantine` takes it.",
        "reason": "gap (a number is missing), poison (a quarantined record) or release.",
        "since": "When the log took the record that it waits at.",
        "log_partition": "The log's partition.",
        "log_offset": "The offset of the record that it waits at.",
        "awaited_stream_id": "The stream whose number is missing.",
        "awaited_epoch": "The epoch of that stream.",
        "awaited_seq": "The number that is missing.",
    },
    select=select(
        aggregate_states.c.aggregate,
        aggregate_states.c.parked_reason.label("reason"),
        aggregate_states.c.parked_since.label("since"),
        aggregate_states.c.log_partition,
        aggregate_states.c.parked_offset.label("log_offset"),
        aggregate_states.c.awaited_stream_id,
        aggregate_states.c.awaited_epoch,
        aggregate_states.c.awaited_seq,
    ).where(aggregate_states.c.parked_since.is_not(None)),
)

unjudged_aggregates = View(
    name="unjudged_aggregates",
    comment="The aggregates of which anomalies are still to be judged, or a lineage to be derived.",
    columns={
        "aggregate_kind": "What is to be judged: image …",
        "aggregate_id": "The bare id of what is.",
        "event_id": "The event that gave reason to.",
        "settles_at": "It is judged when all sources' reports have passed this time; null: now.",
    },
    select=select(
        marks.c.aggregate_kind, marks.c.aggregate_id, marks.c.event_id, marks.c.settles_at
    ),
)

VIEWS: tuple[View, ...] = (quarantined_records, parked_aggregates, unjudged_aggregates)

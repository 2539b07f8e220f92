"""What all generations share: the read model's identity, the events, the quarantined bytes."""

import sqlalchemy as sa
from alembic import op

from metaledger.schemas.tables import SHARED, JsonValue, UtcTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the tables."""
    schema = None if op.get_bind().dialect.name == "sqlite" else SHARED
    op.create_table(
        "read_model",
        sa.Column(
            "format",
            sa.Integer,
            nullable=False,
            autoincrement=False,
            comment="The version of a generation's tables.",
        ),
        sa.Column("generation", sa.Integer, nullable=False, comment="The generation that is read."),
        sa.Column(
            "topic_id", sa.Text, comment="The identity of the log it is built from; null: none yet."
        ),
        sa.Column(
            "partitions", sa.Integer, comment="How many partitions that log has; null: none yet."
        ),
        sa.PrimaryKeyConstraint("format", name="pk_read_model"),
        schema=schema,
        comment="One row: what this read model is, and of which log.",
    )
    op.create_table(
        "ledger_events",
        sa.Column(
            "log_partition",
            sa.Integer,
            nullable=False,
            autoincrement=False,
            comment="The log's partition.",
        ),
        sa.Column(
            "log_offset",
            sa.BigInteger,
            nullable=False,
            autoincrement=False,
            comment="The offset in the partition.",
        ),
        sa.Column("event_id", sa.Text, nullable=False, comment="The event's identity, a UUID."),
        sa.Column(
            "event_type", sa.Text, nullable=False, comment="What happened, such as ImageUpdated."
        ),
        sa.Column(
            "aggregate_kind", sa.Text, nullable=False, comment="What it happened to: image …"
        ),
        sa.Column(
            "aggregate_id", sa.Text, nullable=False, comment="The bare id of what it happened to."
        ),
        sa.Column(
            "stream_id",
            sa.Text,
            nullable=False,
            comment="The outbox or spool that it came through.",
        ),
        sa.Column(
            "epoch", sa.Integer, nullable=False, comment="The stream's epoch; a reseed raises it."
        ),
        sa.Column(
            "stream_seq",
            sa.BigInteger,
            nullable=False,
            comment="Its number in aggregate and stream.",
        ),
        sa.Column(
            "occurred_at", UtcTime, nullable=False, comment="When it happened, as its service said."
        ),
        sa.Column(
            "valid_at", UtcTime, nullable=False, comment="The time that the histories use for it."
        ),
        sa.Column("recorded_at", UtcTime, nullable=False, comment="When the log took it."),
        sa.Column("origin", sa.Text, nullable=False, comment="OBSERVED, IMPORTED or RECONCILED."),
        sa.Column("service", sa.Text, nullable=False, comment="The service that saw it."),
        sa.Column("host", sa.Text, nullable=False, comment="The host of that service."),
        sa.Column("deployment_id", sa.Text, nullable=False, comment="The cloud region."),
        sa.Column(
            "missed", sa.BigInteger, nullable=False, comment="Changes not recorded just before it."
        ),
        sa.Column("request_id", sa.Text, comment="The request's id."),
        sa.Column("global_request_id", sa.Text, comment="The request's id across services."),
        sa.Column("user_id", sa.Text, comment="Who asked."),
        sa.Column("project_id", sa.Text, comment="For which project."),
        sa.Column("causation_id", sa.Text, comment="The event that led to this one."),
        sa.Column(
            "data", JsonValue, nullable=False, comment="What the event tells, in its JSON form."
        ),
        sa.PrimaryKeyConstraint("log_partition", "log_offset", name="pk_ledger_events"),
        sa.UniqueConstraint("event_id", name="uq_ledger_events_event_id"),
        schema=schema,
        comment="Every event that was admitted, once, keyed by where it stands in the log.",
    )
    op.create_table(
        "quarantined_bytes",
        sa.Column(
            "log_partition",
            sa.Integer,
            nullable=False,
            autoincrement=False,
            comment="The log's partition.",
        ),
        sa.Column(
            "log_offset",
            sa.BigInteger,
            nullable=False,
            autoincrement=False,
            comment="The offset in the partition.",
        ),
        sa.Column(
            "value",
            sa.LargeBinary,
            nullable=False,
            comment="The record's bytes, as they were read.",
        ),
        sa.Column(
            "sha256", sa.LargeBinary, nullable=False, comment="The SHA-256 that came with them."
        ),
        sa.PrimaryKeyConstraint("log_partition", "log_offset", name="pk_quarantined_bytes"),
        schema=schema,
        comment="The bytes of quarantined records, keyed by where they stand in the log.",
    )
    op.create_index(
        "ix_ledger_events_aggregate_kind_aggregate_id",
        "ledger_events",
        ["aggregate_kind", "aggregate_id"],
        schema=schema,
    )

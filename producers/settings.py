"""The settings of the writing side, one frozen record a process each. Nothing here reads anything.

A hook fills `ProducerSettings` from its service's own configuration file, the command line fills
both from its options; the environment is read by nobody on this side.
"""

from dataclasses import dataclass
from pathlib import Path

from metaledger.schemas.codec import EVENT_BYTES_MAX, Codec
from metaledger.schemas.framing import read_schema_ids
from metaledger.schemas.meta import Context

# 100,000 events of 2 kB are some 200 MB in the service's database, and hours of changes.
OUTBOX_ROWS_MAX = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """What a process that records must know.

    `strict`: a change that cannot be recorded fails; else it goes through, is counted, and its
    aggregate is marked unrecorded. `schema_ids_file` is what `metaledger schema register` wrote;
    with it records carry the Confluent frame.
    """

    service: str
    host: str
    deployment_id: str = "default"
    strict: bool = False
    outbox_rows_max: int = OUTBOX_ROWS_MAX
    event_bytes_max: int = EVENT_BYTES_MAX
    schema_ids_file: Path | None = None

    def context(self) -> Context:
        """Who records, with nobody's request."""
        return Context(service=self.service, host=self.host, deployment_id=self.deployment_id)

    def codec(self) -> Codec:
        """The codec that these settings ask for. Reads the ids' file; raises UsageError."""
        ids = read_schema_ids(self.schema_ids_file) if self.schema_ids_file else None
        return Codec(ids=ids, event_bytes_max=self.event_bytes_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How a relay works. Ages and times in seconds."""

    batch_rows_max: int = 5_000
    batch_bytes_max: int = 8_000_000
    # Two light statements four times a second are nothing to a database, and lag stays below 1 s.
    poll_interval_s: float = 0.25
    # A relay that died is replaced after this; one that lives renews it after a third. It has to
    # last longer than an append may take (30 s), or two relays take it from each other for ever,
    # and neither gets to delete what it sent.
    lease_s: float = 45.0
    # `guard` calls a source fresh for 60 s; a twelfth-of-a-minute report would fill the log.
    # None: nobody waits for this source, such as an operator's spool, and it reports nothing.
    progress_interval_s: float | None = 20.0
    # A refused record is offered again, for the operator may have raised the log's limit.
    held_retry_s: float = 60.0
    backoff_max_s: float = 5.0

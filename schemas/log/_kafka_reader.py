"""Reads from Kafka: all partitions, or a group's share of them.

The group spreads the partitions and nothing else: no offset is ever committed to Kafka, and where
to read from is asked of `positions`, in the caller's thread. A partition that was just given to the
reader is paused until then.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

from metaledger.schemas.log import LogRecord, Position, Positions
from metaledger.schemas.log import topic as topics
from metaledger.schemas.log._kafka_client import (
    REQUEST_TIMEOUT_S,
    PerProcess,
    client_config,
    connected,
    kafka_errors,
)
from metaledger.schemas.log._kafka_writer import Target, check_unchanged

# kafka-python 3.0.12 throws away the answer to a join that comes between two polls and joins again,
# for ever if the polls are short: a poll waits for it so long at least.
_JOIN_S: Final = 1.0
# A poll with a group looks up this often for partitions that were given to it on the way.
_SLICE_S: Final = 0.5
# A broker that has said nothing for this long is asked whether it is there.
_SILENCE_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 2.0


class KafkaReader:
    """The protocol `LogReader`. Connects, and joins the group, at the first poll."""

    def __init__(self, target: Target, positions: Positions, group: str | None) -> None:
        """No I/O."""
        self._target = target
        self._positions = positions
        self._group = group
        self._owned: set[int] = set() if group else set(range(target.partitions))
        self._unplaced: set[int] = set(self._owned)
        self._heard_at = 0.0
        self._consumer: PerProcess[KafkaConsumer] = PerProcess(self._connect)

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[LogRecord]:
        """See the protocol."""
        deadline = time.monotonic() + timeout_s
        with kafka_errors(self._target.settings):
            try:
                return self._poll(self._consumer.get(), records_max, deadline)
            except BaseException:
                # After an error of its own the consumer may hang in its next poll (seen with a
                # record that it cannot read), and what it has read is lost to the caller.
                self.close()
                raise

    def owned(self) -> frozenset[int]:
        """See the protocol."""
        return frozenset(self._owned)

    def restart(self) -> None:
        """See the protocol."""
        self._unplaced |= self._owned

    def close(self) -> None:
        """Leaves the group; a later poll would join it again."""
        consumer = self._consumer.take()
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=int(_CLOSE_TIMEOUT_S * 1000))
        self._owned = set() if self._group else self._owned
        self._unplaced = set(self._owned)

    def _poll(
        self, consumer: KafkaConsumer, records_max: int, deadline: float
    ) -> Sequence[LogRecord]:
        while True:
            if self._group:
                self._join(consumer, max(_JOIN_S, deadline - time.monotonic()))
            self._place(consumer)
            left_s = max(0.0, deadline - time.monotonic())
            wait_s = min(left_s, _SLICE_S) if self._group else left_s
            found = consumer.poll(timeout_ms=int(wait_s * 1000), max_records=records_max)
            check_unchanged(consumer._cluster, self._target)  # noqa: SLF001 (no public way)
            if found:
                self._heard_at = time.monotonic()
                return [_record(record) for records in found.values() for record in records]
            if left_s <= wait_s and not self._unplaced:
                self._ask_whether_it_is_there(consumer)
                return []

    def _join(self, consumer: KafkaConsumer, timeout_s: float) -> None:
        """Returns at once where the group has settled; `consumer.poll` would wait for records."""
        consumer._coordinator.poll(timeout_ms=int(timeout_s * 1000))  # noqa: SLF001

    def _place(self, consumer: KafkaConsumer) -> None:
        if not self._unplaced:
            return
        positions = self._positions(sorted(self._unplaced))
        for partition in self._unplaced:
            place = self._topic_partition(partition)
            consumer.seek(place, positions.get(partition, 0))
            consumer.resume(place)
        self._unplaced.clear()

    def _ask_whether_it_is_there(self, consumer: KafkaConsumer) -> None:
        """kafka-python retries for ever and without a word; an empty log looks the same."""
        if time.monotonic() - self._heard_at < _SILENCE_S:
            return
        asked = [self._topic_partition(partition) for partition in self._owned or {0}]
        consumer.end_offsets(asked, timeout_ms=int(REQUEST_TIMEOUT_S * 1000))
        self._heard_at = time.monotonic()

    def _topic_partition(self, partition: int) -> TopicPartition:
        return TopicPartition(self._target.settings.topic, partition)

    def _connect(self) -> KafkaConsumer:
        settings = self._target.settings
        session_ms = int(settings.session_timeout_s * 1000)
        config = client_config(settings) | {
            "group_id": self._group,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": session_ms // 3,
            # What is fetched ahead is bounded; a batch has 1 MB at most.
            "fetch_max_bytes": 16 * 2**20,
            "max_partition_fetch_bytes": 4 * 2**20,
            "metadata_max_age_ms": topics.METADATA_AGE_MAX_MS,
            "metrics_enabled": False,
        }
        consumer = connected(KafkaConsumer, config)
        if self._group:
            listener = _Listener(consumer, given=self._given, lost=self._lost)
            consumer.subscribe([settings.topic], listener=listener)
        else:
            consumer.assign([self._topic_partition(partition) for partition in self._owned])
        self._heard_at = time.monotonic()
        return consumer

    def _given(self, partitions: set[int]) -> None:
        self._owned |= partitions
        self._unplaced |= partitions

    def _lost(self, partitions: set[int]) -> None:
        self._owned -= partitions
        self._unplaced -= partitions


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # kafka-python has no types
    """Runs in the consumer's own thread while the caller waits in `poll`: no I/O here."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        *,
        given: Callable[[set[int]], None],
        lost: Callable[[set[int]], None],
    ) -> None:
        self._consumer = consumer
        self._given = given
        self._lost = lost

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for place in assigned:
            # A place, or the consumer would ask Kafka for a committed one; nothing is read there.
            self._consumer.seek(place, 0)
            self._consumer.pause(place)
        self._given({place.partition for place in assigned})

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._lost({place.partition for place in revoked})


def _record(found: Any) -> LogRecord:  # noqa: ANN401 (kafka-python's own form)
    event_id, number, sha256 = topics.read_headers(found.headers)
    return LogRecord(
        position=Position(found.partition, found.offset),
        recorded_at=topics.read_time(found.timestamp),
        key=topics.read_key(found.key),
        value=found.value or b"",
        sha256=sha256,
        event_id=event_id,
        number=number,
    )

"""Appends to Kafka: in waves, one batch a partition, the next wave when all have answered.

A batch is in the log whole or not at all, so with one batch a partition under way nothing of a key
can overtake what was not acknowledged. A producer that left anything unacknowledged is thrown away
with its retries and its sequence numbers.
"""

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaProducer, errors

from metaledger.schemas.errors import LogRefused
from metaledger.schemas.log import NewRecord, Outcome, Position, Refused, Unsent
from metaledger.schemas.log import topic as topics
from metaledger.schemas.log._kafka_client import (
    KafkaSettings,
    PerProcess,
    client_config,
    connected,
    said_by,
)
from metaledger.schemas.log.record import record_bytes, sift

# A batch has a head of 61 bytes; the topic takes MESSAGE_BYTES_LEAST.
_BATCH_BYTES: Final = topics.MESSAGE_BYTES_LEAST
# Eight full batches a request; a broker takes 100 MB by default.
_REQUEST_BYTES: Final = 8 * _BATCH_BYTES
_CLOSE_TIMEOUT_S: Final = 1.0

_TOO_LARGE: Final = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidRecordError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The topic that was opened."""

    settings: KafkaSettings
    topic_id: str
    partitions: int


class KafkaWriter:
    """The protocol `LogWriter`. Connects at the first append."""

    def __init__(self, target: Target) -> None:
        """No I/O."""
        self._target = target
        # At worst a connection, metadata, metadata again and one wave: three sixths and a half.
        self._wave_s = target.settings.send_timeout_s / 2
        self._block_s = target.settings.send_timeout_s / 6
        self._producer: PerProcess[KafkaProducer] = PerProcess(self._connect)
        self._last: dict[int, int] = {}

    def append(self, records: Sequence[NewRecord]) -> Sequence[Outcome]:
        """One outcome a record; see the protocol."""
        last_start = time.monotonic() + 2 * self._block_s
        wanted, outcomes = sift(records)
        queues: dict[int, deque[int]] = {}
        for index in wanted:
            partition = topics.partition_of(records[index].key.encode(), self._target.partitions)
            queues.setdefault(partition, deque()).append(index)
        try:
            while queues and time.monotonic() < last_start:
                producer = self._producer.get()
                wave = {partition: _batch(queue, records) for partition, queue in queues.items()}
                self._send(producer, wave, records, outcomes)
                queues = {p: q for p, q in queues.items() if q and not _failed(wave[p], outcomes)}
        except errors.KafkaError as error:
            reason = Unsent(said_by(error))
            for index in wanted:
                if isinstance(outcomes[index], Unsent):
                    outcomes[index] = reason
        if any(isinstance(outcomes[index], Unsent) for index in wanted):
            self.close()
        return outcomes

    def close(self) -> None:
        """Gives up the producer; what is under way is not waited for."""
        producer = self._producer.take()
        if producer is not None:
            _close(producer)

    def _send(
        self,
        producer: KafkaProducer,
        wave: dict[int, list[int]],
        records: Sequence[NewRecord],
        outcomes: list[Outcome],
    ) -> None:
        """Sends the wave and waits for every answer. Raises where it could not even be queued."""
        futures: list[tuple[int, Any]] = []
        for partition, batch in wave.items():
            for index in batch:
                record = records[index]
                future = producer.send(
                    self._target.settings.topic,
                    key=record.key.encode(),
                    value=record.value,
                    headers=topics.headers(record),
                    partition=partition,
                )
                futures.append((index, future))
        deadline = time.monotonic() + self._wave_s
        with suppress(errors.KafkaError):  # each record's own future tells
            producer.flush(timeout=self._wave_s)
        for index, future in futures:
            outcomes[index] = _outcome(future, max(0.0, deadline - time.monotonic()))
            self._note(outcomes[index])
        self._check(producer)

    def _note(self, outcome: Outcome) -> None:
        """Offsets only grow: a topic that was made anew shows it here before the metadata does."""
        # What the broker knows that it has already may come without its offset.
        if not isinstance(outcome, Position) or outcome.offset < 0:
            return
        last = self._last.get(outcome.partition, -1)
        if outcome.offset <= last:
            raise LogRefused(
                f"topic {self._target.settings.topic} was made anew or lost its end: offset "
                f"{outcome.offset} of partition {outcome.partition} came behind {last}"
            )
        self._last[outcome.partition] = outcome.offset

    def _connect(self) -> KafkaProducer:
        block_ms, wave_ms = int(self._block_s * 1000), int(self._wave_s * 1000)
        config = client_config(self._target.settings) | {
            "bootstrap_timeout_ms": block_ms,
            "max_block_ms": block_ms,
            # A batch is sent when its wave is whole and flushed, not when this is over.
            "linger_ms": wave_ms // 3,
            "request_timeout_ms": wave_ms // 2,
            "delivery_timeout_ms": wave_ms * 9 // 10,
            "acks": "all",
            "enable_idempotence": True,
            "allow_auto_create_topics": False,
            "batch_size": _BATCH_BYTES,
            "max_request_size": _REQUEST_BYTES,
            "compression_type": "zstd",
            "metadata_max_age_ms": topics.METADATA_AGE_MAX_MS,
            "metrics_enabled": False,
        }
        producer = connected(KafkaProducer, config)
        try:
            producer.partitions_for(self._target.settings.topic)
            self._check(producer)
        except BaseException:
            _close(producer)
            raise
        return producer

    def _check(self, producer: KafkaProducer) -> None:
        check_unchanged(producer._metadata, self._target)  # noqa: SLF001 (there is no public way)


def check_unchanged(metadata: Any, target: Target) -> None:  # noqa: ANN401 (kafka-python's)
    """Compares the topic with what the client last heard of it, seconds ago.

    Raises LogRefused.
    """
    topic = target.settings.topic
    found_id, found = metadata.topic_id(topic), metadata.partitions_for_topic(topic)
    if found_id is not None and found_id.int and str(found_id) != target.topic_id:
        raise LogRefused(
            f"topic {topic} was made anew: its id was {target.topic_id} and is {found_id}"
        )
    if found and len(found) != target.partitions:
        raise LogRefused(
            f"topic {topic} has {len(found)} partitions and had {target.partitions}: new events "
            "would not follow the old ones of their key; copy it into a new topic instead"
        )


def _close(producer: KafkaProducer) -> None:
    try:
        producer.close(timeout=_CLOSE_TIMEOUT_S)
    except errors.KafkaError:
        # 3.0.12 raises where batches are under way, before it has ended its thread.
        producer._sender.force_close()  # noqa: SLF001


def _batch(queue: deque[int], records: Sequence[NewRecord]) -> list[int]:
    """Takes from the queue what fits into one batch, at least one."""
    batch = [queue.popleft()]
    size = record_bytes(records[batch[0]])
    while queue:
        size += record_bytes(records[queue[0]])
        if size > topics.BATCH_BYTES_MAX:
            break
        batch.append(queue.popleft())
    return batch


def _failed(batch: Sequence[int], outcomes: Sequence[Outcome]) -> bool:
    return any(not isinstance(outcomes[index], Position) for index in batch)


def _outcome(future: Any, timeout_s: float) -> Outcome:  # noqa: ANN401 (kafka-python's)
    try:
        sent = future.get(timeout=timeout_s)
    except _TOO_LARGE as error:
        return Refused(said_by(error))
    except errors.KafkaError as error:
        return Unsent(said_by(error))
    return Position(sent.partition, sent.offset)

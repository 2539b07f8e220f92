"""The log in a Kafka topic: made with the right settings, opened only where it has them.

Rules (RELIABILITY.md, "Kafka client"): idempotent producer, every acknowledgement waited for,
positions from the read model and never from Kafka. An open log holds no connection, so it may be
opened before a fork; readers and writers connect at their first use, in the process that uses them.
Opening says within 10 s that nobody is there.

    log = open_kafka_log(KafkaSettings(bootstrap="kafka:9092", topic="metaledger"))
    reader = log.reader(positions, group="projector")
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kafka import TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec

from metaledger.schemas.errors import LogRefused, UsageError
from metaledger.schemas.log import LogReader, LogWriter, Positions
from metaledger.schemas.log import topic as topics
from metaledger.schemas.log._kafka_client import (
    REQUEST_TIMEOUT_S,
    KafkaSettings,
    client_config,
    connected,
    kafka_errors,
)
from metaledger.schemas.log._kafka_reader import KafkaReader
from metaledger.schemas.log._kafka_writer import KafkaWriter, Target

__all__ = ["KafkaLog", "KafkaSettings", "create_topic", "open_kafka_log"]

_UNKNOWN_TOPIC: Final = errors.UnknownTopicOrPartitionError.errno


def create_topic(
    settings: KafkaSettings,
    *,
    partitions: int = topics.PARTITIONS_DEFAULT,
    replication: int = topics.REPLICATION_DEFAULT,
) -> None:
    """Makes the topic; returns when it can be used.

    Raises UsageError (it is there already, too few brokers, a bad name), Unreachable.
    """
    asked = {
        "num_partitions": partitions,
        "replication_factor": replication,
        "configs": topics.settings(replication),
    }
    with _administration(settings, request_timeout_s=10) as admin:
        try:
            admin.create_topics({settings.topic: asked})
            admin.wait_for_topics([settings.topic])
        except errors.TopicAlreadyExistsError as error:
            raise UsageError(f"there is a topic {settings.topic} already") from error
        except _NOT_AS_ASKED as error:
            brokers = len(admin.describe_cluster()["brokers"])
            raise UsageError(
                f"Kafka makes no topic {settings.topic} with {partitions} partitions and "
                f"{replication} replicas on {brokers} brokers ({type(error).__name__}): set "
                "topic.partitions or topic.replication"
            ) from error


_NOT_AS_ASKED: Final = (
    errors.InvalidReplicationFactorError,
    errors.InvalidPartitionsError,
    errors.InvalidTopicError,
    errors.InvalidConfigurationError,
    errors.PolicyViolationError,
)


def open_kafka_log(settings: KafkaSettings) -> "KafkaLog":
    """Opens the topic. Raises Unreachable within 10 s, UsageError where there is no such topic,
    LogRefused where its settings would lose history: one sentence, each setting named.
    """
    with _administration(settings) as admin:
        found = _describe(admin, settings)
        resource = ConfigResource(
            ConfigResourceType.TOPIC, settings.topic, list(topics.SETTINGS_READ)
        )
        configs = admin.describe_configs([resource], config_filter="all")
    held = configs.get("topic", {}).get(settings.topic, {})
    wrong = topics.problems({name: config["value"] for name, config in held.items()})
    if wrong:
        raise LogRefused(f"topic {settings.topic} is no log: {'; '.join(wrong)}")
    return KafkaLog(
        Target(
            settings=settings,
            topic_id=str(found["topic_id"]),
            partitions=len(found["partitions"]),
        )
    )


class KafkaLog:
    """An open log; the protocol `Log`."""

    def __init__(self, target: Target) -> None:
        """Use `open_kafka_log`, which looks at the topic first."""
        self._target = target

    @property
    def topic_id(self) -> str:
        """The broker's own id of the topic."""
        return self._target.topic_id

    @property
    def partitions(self) -> int:
        """As they were when it was opened; readers and writers refuse another number."""
        return self._target.partitions

    def writer(self) -> LogWriter:
        """Connects at its first append."""
        return KafkaWriter(self._target)

    def reader(self, positions: Positions, *, group: str | None = None) -> LogReader:
        """Connects at its first poll."""
        return KafkaReader(self._target, positions, group)

    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """Asks the broker. Raises Unreachable, LogRefused (made anew)."""
        name = self._target.settings.topic
        places = [TopicPartition(name, partition) for partition in range(self.partitions)]
        with _administration(self._target.settings) as admin:
            if str(_describe(admin, self._target.settings)["topic_id"]) != self.topic_id:
                raise LogRefused(f"topic {name} was made anew while it was open")
            firsts = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
            ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        return {place.partition: (firsts[place].offset, ends[place].offset) for place in places}

    def close(self) -> None:
        """It holds nothing of its own."""


def _describe(admin: KafkaAdminClient, settings: KafkaSettings) -> dict[str, Any]:
    found: dict[str, Any] = admin.describe_topics([settings.topic])[0]
    code = found["error_code"]
    if code == _UNKNOWN_TOPIC:
        raise UsageError(
            f"Kafka at {settings.bootstrap} has no topic {settings.topic}: make it with "
            "`metaledger topic create`"
        )
    if code:
        raise errors.for_code(code)(settings.topic)
    return found


@contextmanager
def _administration(
    settings: KafkaSettings, *, request_timeout_s: float = REQUEST_TIMEOUT_S
) -> Iterator[KafkaAdminClient]:
    config = client_config(settings) | {"request_timeout_ms": int(request_timeout_s * 1000)}
    with kafka_errors(settings):
        admin = connected(KafkaAdminClient, config)
        try:
            yield admin
        finally:
            admin.close()

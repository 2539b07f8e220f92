"""What the conformance suite needs of a backend, and the backends that there are."""

import sqlite3
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from metaledger.schemas.log import Log
from metaledger.schemas.log.embedded import create_embedded_log, open_embedded_log
from metaledger.schemas.log.kafka import KafkaSettings, create_topic, open_kafka_log

PARTITIONS = 4


class Backend(Protocol):
    """One log for one test."""

    def create(self) -> None:
        """Makes the log, empty."""

    def remove(self) -> None:
        """Takes it away, so that it can be made anew in the same place."""

    def open(self) -> Log:
        """Opens it as its users do."""

    def append_raw(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        """Appends past the writer, as a hostile or foreign program would."""

    shares_partitions: bool
    """Whether the readers of a group share the partitions."""


class Embedded:
    shares_partitions = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.db"

    def create(self) -> None:
        create_embedded_log(self.path).close()

    def remove(self) -> None:
        for path in self.path.parent.glob("log.db*"):
            path.unlink()

    def open(self) -> Log:
        return open_embedded_log(self.path)

    def append_raw(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        held = dict(headers)
        with sqlite3.connect(self.path) as connection:
            connection.execute(
                "INSERT INTO records VALUES ((SELECT coalesce(max(offset) + 1, 0) FROM records),"
                " ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    "no time",
                    key,
                    held.get("stream_id"),
                    held.get("epoch"),
                    held.get("stream_seq"),
                    held.get("event_id"),
                    value or b"",
                    held.get("sha256"),
                ),
            )
        connection.close()


class Kafka:
    shares_partitions = True

    def __init__(self, bootstrap: str) -> None:
        self.settings = KafkaSettings(
            bootstrap=bootstrap, topic=f"log-{uuid4().hex}", send_timeout_s=12, session_timeout_s=6
        )

    def create(self) -> None:
        create_topic(self.settings, partitions=PARTITIONS, replication=1)

    def remove(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.settings.bootstrap)
        admin.delete_topics([self.settings.topic])
        while self.settings.topic in admin.list_topics():
            pass
        admin.close()

    def open(self) -> Log:
        return open_kafka_log(self.settings)

    def append_raw(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        producer = KafkaProducer(bootstrap_servers=self.settings.bootstrap)
        producer.send(self.settings.topic, key=key, value=value, headers=headers, partition=0)
        producer.flush(timeout=30)
        producer.close()

"""`topic create|check`: the Kafka topic that is a ledger."""

from typing import Annotated

import typer

from metaledger.schemas.errors import UsageError
from metaledger.services import parts
from metaledger.services.output import Document, Views
from metaledger.services.settings import KafkaLedger, ledger_of
from metaledger.services.shell import DONE, Shell, add_group


def register(app: typer.Typer) -> None:
    """Adds the group."""
    add_group(app, "topic", "The Kafka topic that is a ledger.", create=create, check=check)


def create(
    shell: Shell,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="fixed for ever \\[topic.partitions]")
    ] = None,
    replication: Annotated[
        int | None, typer.Option(min=1, help="copies of each record \\[topic.replication]")
    ] = None,
) -> int:
    """Make the topic: kept for ever, never compacted, with the broker's time."""
    ledger = ledger_of(shell.settings.ledger)
    if not isinstance(ledger, KafkaLedger):
        raise UsageError("an embedded ledger has no topic: its first writer makes its file")
    from metaledger.schemas.log.kafka import create_topic  # noqa: PLC0415 (only where it is used)

    given = shell.settings.topic
    create_topic(
        parts.kafka_settings(shell.settings, ledger),
        partitions=partitions or given.partitions,
        replication=replication or given.replication,
    )
    return _answer(shell, "made")


def check(shell: Shell) -> int:
    """Is it fit to be a ledger? Refuses a topic that would lose history."""
    return _answer(shell, "fit")


def _answer(shell: Shell, state: str) -> int:
    with parts.open_log(shell.settings) as log:
        bounds = log.bounds()
        document: Document = {
            "topic_id": log.topic_id,
            "partitions": log.partitions,
            "records": sum(end - first for first, end in bounds.values()),
            "state": state,
        }

    def view() -> Views:
        yield (
            f"The log {document['topic_id']} is {state}: {document['partitions']} partitions, "
            f"{document['records']:,} records."
        )

    shell.output.answer(document, view)
    return DONE

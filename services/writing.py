"""How the command line itself writes into the ledger: events from files, operators' decisions.

Embedded, numbers and records are one transaction of the ledger's file: all of it is there, or
nothing. Into Kafka they go through a spool of the operator's own, one for each ledger (a stream's
numbers count in one log only), which is relayed at once: what was interrupted is sent by the next
run.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from metaledger.producers import administration
from metaledger.producers.outbox import Outbox
from metaledger.schemas.errors import EventTooLarge
from metaledger.schemas.events import Draft
from metaledger.schemas.log import Refused
from metaledger.schemas.log.embedded import create_embedded_log
from metaledger.services.parts import codec_of, producer_settings
from metaledger.services.settings import EmbeddedLedger, KafkaLedger, Settings, ledger_of

# Some 5 MB of events; large enough that statements cost little, small enough to be held.
_CHUNK_EVENTS = 5_000

Advance = Callable[[int], None]


def append(
    settings: Settings, drafts: Iterable[Draft], advance: Advance = lambda _done: None
) -> int:
    """Appends the drafts in their order, and gives how many they were.

    `advance` hears how many are written. Raises UsageError, LogRefused, Unreachable, EventTooLarge.
    """
    match ledger_of(settings.ledger):
        case EmbeddedLedger(path):
            return _append_embedded(path, settings, drafts, advance)
        case KafkaLedger():
            raise NotImplementedError


def _append_embedded(
    path: Path, settings: Settings, drafts: Iterable[Draft], advance: Advance
) -> int:
    log = create_embedded_log(path)
    try:
        administration.install(log.engine)
        outbox = Outbox(producer_settings(settings), codec_of(settings))
        done = 0
        with log.transaction() as connection:
            for chunk in _chunks(drafts):
                outcomes = log.append_in(connection, outbox.number(connection, chunk))
                for outcome in outcomes:
                    if isinstance(outcome, Refused):
                        raise EventTooLarge(f"the log refuses an event: {outcome.reason}")
                done += len(chunk)
                advance(done)
        return done
    finally:
        log.close()


def _chunks(drafts: Iterable[Draft]) -> Iterator[list[Draft]]:
    source = iter(drafts)
    while chunk := list(islice(source, _CHUNK_EVENTS)):
        yield chunk

"""How the command line itself writes into the ledger: events from files, operators' decisions.

Embedded, numbers and records are one transaction of the ledger's file: all of it is there, or
nothing. Into Kafka they go through a spool of the operator's own, one for each ledger (a stream's
numbers count in one log only), which is relayed at once: what was interrupted is sent by the next
run.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from metaledger.producers import administration
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import RelaySettings
from metaledger.producers.spool import Spool
from metaledger.schemas.errors import EventTooLarge, Unreachable
from metaledger.schemas.events import Draft, Written
from metaledger.schemas.log import Refused
from metaledger.schemas.log.embedded import create_embedded_log
from metaledger.services.parts import codec_of, open_log, producer_settings, relay_owner
from metaledger.services.settings import EmbeddedLedger, KafkaLedger, Settings, ledger_of

# Some 5 MB of usual events; large enough that statements cost little, small enough to be held.
_CHUNK_EVENTS = 5_000
# Those that are not usual have up to 900,000 bytes each.
_CHUNK_BYTES = 16_000_000
# Nobody waits for an operator's spool, so it reports no progress.
_RELAY = RelaySettings(progress_interval_s=None)
# Another command may be at the same spool; one that died there holds its lease for 45 s.
_STANDBY_S, _STANDBY_MAX_S = 0.5, 60.0

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
            return _append_through_spool(settings, drafts, advance)


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


def _append_through_spool(settings: Settings, drafts: Iterable[Draft], advance: Advance) -> int:
    producer = producer_settings(settings)
    with open_log(settings) as log:
        spool = Spool(settings.spool_folder / f"{log.topic_id}.db", producer)
        writer = log.writer()
        try:
            spool.install()
            relay = Relay(
                spool.engine,
                writer,
                spool.outbox,
                partitions=log.partitions,
                owner=relay_owner(settings),
                settings=_RELAY,
            )
            done = 0
            for chunk in _chunks(drafts):
                spool.emit(chunk)
                _drain(relay)
                done += len(chunk)
                advance(done)
            return done
        finally:
            writer.close()
            spool.engine.dispose()


def _drain(relay: Relay) -> None:
    """Sends what the spool holds. Raises Unreachable, EventTooLarge; it stays in the spool then."""
    waited_s = 0.0
    while (result := relay.drain()).standby:
        if waited_s >= _STANDBY_MAX_S:
            raise Unreachable("another process sends from the operator's spool: run this again")
        time.sleep(_STANDBY_S)
        waited_s += _STANDBY_S
    if result.refused:
        raise EventTooLarge("the log refuses an event: see max.message.bytes of the topic")
    if result.unsent is not None:
        raise Unreachable(f"not sent, and kept to be sent by the next run: {result.unsent}")


def _chunks(drafts: Iterable[Draft]) -> Iterator[list[Draft]]:
    chunk: list[Draft] = []
    size = 0
    for draft in drafts:
        # What an operator decides is not written yet, and small.
        added = len(draft.data.value) if isinstance(draft.data, Written) else 0
        if len(chunk) == _CHUNK_EVENTS or (chunk and size + added > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(draft)
        size += added
    if chunk:
        yield chunk

"""Records whose key nobody can read, and the decisions that settle them, on both databases."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from sqlalchemy import text

from metaledger.projector.quarantine import skip
from metaledger.schemas.errors import UsageError
from metaledger.schemas.events import Event
from metaledger.schemas.ledger import RecordSkipped, record_aggregate
from metaledger.schemas.log import LogRecord, Position

from ..store.readmodels import Place, dump, engine_of, store_of
from .ledgers import CONTEXT, Hooked, Ledger, damaged, event, registered, updated


def told(offset: int, *, topic_id: str = "the-log", partition: int = 0) -> RecordSkipped:
    return RecordSkipped(
        topic_id=topic_id, log_partition=partition, log_offset=offset, reason="hopeless"
    )


def decision(data: RecordSkipped, seq: int = 1, *, aggregate: str | None = None) -> Event:
    """Of a record without a key, unless it says of what."""
    name = record_aggregate(data.topic_id, data.log_partition, data.log_offset)
    return event(data, seq, stream="operator", aggregate=aggregate or name)


def without_keys(ledger: Ledger, *offsets: int) -> Hooked:
    def hook(records: Iterable[LogRecord]) -> Iterable[LogRecord]:
        return [
            replace(found, key=None) if found.position.offset in offsets else found
            for found in records
        ]

    return Hooked(ledger.log, hook=hook)


def settled(url: str) -> dict[int, str | None]:
    """By offset: the decision that settled what stands in quarantine."""
    with engine_of(url) as engine, engine.connect() as connection:
        found = connection.execute(
            text("SELECT log_offset, skipped_by_event FROM quarantined_records")
        ).all()
    return {row.log_offset: row.skipped_by_event for row in found}


def test_a_record_without_a_key_is_settled_once(place: Place, ledger: Ledger) -> None:
    url, anew = place(), place()
    ledger.append(event(registered("b"), 1), event(registered("c"), 1))
    log = without_keys(ledger, 0, 1)
    ledger.project(url, log=log)
    assert settled(url) == {0: None, 1: None}
    with store_of(url) as store:
        draft = skip(store, Position(0, 0), reason="hopeless", context=CONTEXT)
    assert (draft.aggregate, draft.data) == ("record:the-log/0/0", told(0))
    first, second = decision(told(0), 1), decision(told(0), 2)
    ledger.append(first)
    ledger.project(url, log=log)
    with (
        store_of(url) as store,
        pytest.raises(UsageError, match=f"0:0 was .*{first.meta.event_id}"),
    ):
        skip(store, Position(0, 0), reason="again", context=CONTEXT)
    # Of an operator who decided at the same time.
    ledger.append(second)
    ledger.project(url, log=log)
    assert settled(url) == {0: first.meta.event_id, 1: None}
    ledger.project(anew, log=log)
    assert settled(anew) == settled(url)
    assert dump(anew) == dump(url)


def test_a_decision_may_come_before_its_record(url: str, ledger: Ledger) -> None:
    # As that of another partition does, where a rebuild reads that one first.
    early = decision(told(2))
    ledger.append(early)
    log = without_keys(ledger, 1, 2)
    ledger.project(url, log=log)
    assert settled(url) == {}
    ledger.append(event(registered("b"), 1), event(registered("c"), 1))
    ledger.project(url, log=log)
    assert settled(url) == {1: None, 2: early.meta.event_id}


@pytest.mark.parametrize(
    "other",
    [
        decision(told(0, topic_id="another")),
        decision(told(0, partition=1)),
        decision(told(7)),
        # Whoever writes by hand: what it names and what it stands on are two things.
        decision(told(0, topic_id="another"), aggregate="record:the-log/0/0"),
        decision(told(7), aggregate="record:the-log/0/0"),
        decision(told(0), aggregate="record:another/0/0"),
        decision(told(0), aggregate="image:a"),
    ],
    ids=lambda other: f"{other.meta.aggregate} for {other.data.topic_id}, {other.data.log_offset}",
)
def test_a_decision_about_something_else_settles_nothing(
    url: str, ledger: Ledger, other: Event
) -> None:
    ledger.append(event(registered("b"), 1), other)
    ledger.project(url, log=without_keys(ledger, 0))
    assert len(dump(url)["ledger_events"]) == 1
    assert settled(url) == {0: None}
    with store_of(url) as store:
        assert skip(store, Position(0, 0), reason="hopeless", context=CONTEXT).data == told(0)


def test_a_record_with_a_key_is_settled_by_its_own_aggregate_alone(
    url: str, ledger: Ledger
) -> None:
    ledger.append(event(registered(k="1"), 1), damaged(event(updated(k="2"), 2)))
    ledger.append(decision(told(1)))
    ledger.project(url)
    assert settled(url) == {1: None}
    acts = decision(told(1), aggregate="image:a")
    ledger.append(acts)
    ledger.project(url)
    assert settled(url) == {1: acts.meta.event_id}

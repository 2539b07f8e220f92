"""The next batch is folded while one is written: what it knows of that, and what it drops."""

import itertools
import os
from dataclasses import replace
from datetime import timedelta

import pytest

from metaledger.projector.intake import Rules
from metaledger.projector.memory import Memory
from metaledger.projector.project import bring_up_to_end
from metaledger.projector.quarantine import release
from metaledger.projector.recall import Recall
from metaledger.projector.store import Prepared, Store
from metaledger.schemas.ledger import GapAccepted

from ..store.readmodels import BACKENDS, Place, dump, engine_of, store_of
from .ledgers import (
    AT,
    CODEC,
    POLL_IS_BATCH,
    TOLERANT,
    Hooked,
    Ledger,
    damaged,
    event,
    registered,
    split,
    updated,
)


def one_by_one(ledger: Ledger) -> Hooked:
    return split(ledger.log, itertools.repeat(1))


def test_the_next_batch_knows_what_the_one_before_admitted(place: Place, ledger: Ledger) -> None:
    first = event(registered(k="1"), 1)
    another = event(registered("b", k="1"), 1, event_id=first.meta.event_id)
    ledger.append(first, first, another, event(updated(k="2"), 2), event(updated(k="3"), 2))
    whole, parts = place(), place()
    ledger.project(whole)
    ledger.project(parts, POLL_IS_BATCH, one_by_one(ledger))
    found = dump(parts)
    assert [row["reason"] for row in found["quarantine"]] == [
        "event_id_conflict",
        "event_id_conflict",
    ]
    assert found == dump(whole)


def test_the_next_batch_knows_what_waits_since_the_one_before(place: Place, ledger: Ledger) -> None:
    gap = GapAccepted(gap_stream_id="glance-1", gap_epoch=1, from_seq=2, to_seq=2, reason="r")
    ledger.append(
        event(registered(k="1"), 1),
        event(updated(k="3"), 3),
        event(updated(k="2"), 2),
        event(registered("b", k="1"), 1),
        event(updated("b", k="3"), 3),
        event(gap, 1, stream="operator", aggregate="image:b"),
        damaged(event(registered("c", k="1"), 1)),
        damaged(event(registered("c", k="1"), 1)),
        event(updated("c", k="2"), 2),
    )
    whole, parts = place(), place()
    ledger.project(whole)
    ledger.project(parts, POLL_IS_BATCH, one_by_one(ledger))
    assert dump(parts) == dump(whole)


def test_a_release_after_a_batch_was_folded_is_not_overwritten(
    place: Place, ledger: Ledger
) -> None:
    url, clean = place(), place()
    ledger.append(event(registered(k="1"), 1), event(updated(k="3"), 3))
    with store_of(url) as store:
        bring_up_to_end(ledger.log, store, CODEC, settings=POLL_IS_BATCH)
    ledger.append(event(updated(k="4"), 4))
    released = []

    class Overtaken(Store):
        """Another process has released the image when the batch is to be committed."""

        def commit(self, prepared: Prepared) -> None:
            if not released:
                with engine_of(url) as engine:
                    rules = Rules(topic_id="the-log")
                    released.append(release(Store(engine), CODEC, rules, "image:a"))
            super().commit(prepared)

    with engine_of(url) as engine:
        bring_up_to_end(ledger.log, Overtaken(engine), CODEC, settings=POLL_IS_BATCH)
        with store_of(url) as store:
            assert store.checkpoints([0])[0].releases == len(released) == 1
    ledger.project(clean)
    assert dump(url) == dump(clean)


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("place", BACKENDS[1:], indirect=True)
def test_what_was_folded_upon_a_refused_batch_is_folded_again(
    place: Place, ledger: Ledger, size: int
) -> None:
    # A key of an index row that PostgreSQL cannot hold, for noise does not compress.
    noise = os.urandom(4_000).hex()
    ledger.append(event(registered(k="1"), 1), event(registered("bad", k="1"), 1))
    ledger.append(event(updated(k="2"), 2), event(updated("bad", **{noise: "2"}), 2))
    ledger.append(event(updated(k="3"), 3), event(updated("bad", k="3"), 3))
    ledger.append(event(updated(k="4"), 4), event(updated("b", k="5"), 1))
    whole, parts = place(), place()
    ledger.project(whole)
    ledger.project(parts, POLL_IS_BATCH, split(ledger.log, itertools.repeat(size)))
    found = dump(parts)
    assert [row["reason"] for row in found["quarantine"]] == ["unstorable"]
    assert len(found["ledger_events"]) == 6
    assert found == dump(whole)


def test_a_batch_ends_at_its_time(place: Place, ledger: Ledger) -> None:
    ledger.append(*(event(registered(str(number)), 1) for number in range(12)))
    looks = itertools.count()
    sizes: list[int] = []
    with store_of(place()) as store:
        bring_up_to_end(
            one_by_one(ledger),
            store,
            CODEC,
            settings=replace(TOLERANT, batch_time_max_s=3.0),
            on_progress=lambda progress: sizes.append(progress.done),
            # A poll, which brings one record, takes a second.
            clock=lambda: AT + timedelta(seconds=next(looks)),
        )
    assert sizes == [3, 6, 9, 12]


def sound(name: str, stored_bytes: int = 10) -> Memory:
    return Memory(name=name, partition=0, is_changed=True, stored_bytes=stored_bytes)


def kept(recall: Recall, *memories: Memory) -> None:
    recall.keep({memory.name: memory for memory in memories}, {})


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    recall = Recall(bytes_max=30)
    for name in ("a", "b", "c"):
        kept(recall, sound(name))
    kept(recall, sound("a"))
    kept(recall, sound("d"))
    assert set(recall.of("abcd")) == {"a", "c", "d"}
    kept(recall, sound("e", 30))
    assert set(recall.of("abcde")) == {"e"}


def test_a_batch_is_remembered_whole_until_the_next() -> None:
    recall = Recall(bytes_max=30)
    kept(recall, *(sound(name) for name in "abcde"))
    assert set(recall.of("abcde")) == set("abcde")
    kept(recall, sound("f"))
    assert set(recall.of("abcdef")) == {"d", "e", "f"}


def test_an_aggregate_in_trouble_is_not_remembered() -> None:
    recall = Recall()
    kept(recall, sound("a"))
    kept(recall, replace(sound("a"), quarantined=1))
    assert not recall.of(["a"])

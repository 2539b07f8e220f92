"""What holds of every history, whatever the aggregate: of batches, order, state and anomalies."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaledger.projector.folds import PROJECTIONS
from metaledger.schemas.events import Event

from .histories import fact
from .interleaved import HISTORIES, ledgers
from .rows import Folding, projection_of

some = settings(max_examples=60, deadline=None)
EVERY = pytest.mark.parametrize("kind", HISTORIES)


def test_no_aggregate_is_left_out() -> None:
    assert set(HISTORIES) == {projection.aggregate_kind for projection in PROJECTIONS}


@EVERY
@some
@given(data=st.data())
def test_any_split_into_batches_gives_the_same_rows(kind: str, data: st.DataObject) -> None:
    events = data.draw(HISTORIES[kind]("it"))
    whole = Folding().take(events)
    split = Folding()
    for each in events:
        split.take([each])
        if data.draw(st.booleans()):
            split.sleep()
    assert split.tables == whole.tables


@settings(max_examples=40, deadline=None)
@given(ledgers(), st.randoms(use_true_random=False))
def test_aggregates_do_not_touch_each_other(events: list[Event], source: Any) -> None:
    together = Folding().take(events)
    apart = Folding()
    aggregates = sorted({each.meta.aggregate for each in events})
    source.shuffle(aggregates)
    for aggregate in aggregates:
        apart.take([each for each in events if each.meta.aggregate == aggregate])
    assert apart.tables == together.tables


@EVERY
@some
@given(data=st.data())
def test_folding_is_deterministic_and_changes_nothing_that_it_was_given(
    kind: str, data: st.DataObject
) -> None:
    events = data.draw(HISTORIES[kind]("it"))
    fold = projection_of(f"{kind}:it").fold
    state, told = None, []
    for each in events:
        stored = repr(state)
        step = fold(state, fact(each))
        assert step == fold(state, fact(each))
        assert repr(state) == stored
        told.append(step)
        state = step.state
    state = None
    for each, step in zip(events, told, strict=True):
        assert fold(state, fact(each)) == step
        state = step.state


@EVERY
@some
@given(data=st.data())
def test_a_kind_of_anomaly_is_raised_once_an_event(kind: str, data: st.DataObject) -> None:
    events = data.draw(HISTORIES[kind]("it"))
    anomalies = Folding().take(events).tables.rows("anomalies")
    told = [(row["event_id"], row["kind"]) for row in anomalies]
    assert len(set(told)) == len(told) == len({row["anomaly_id"] for row in anomalies})

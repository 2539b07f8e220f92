"""The relay's core: laws that hold for any rows, batches and answers of the log."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from metaledger.producers.sending import Sent, Waiting, sendable, settle
from metaledger.schemas.log import Outcome, Position, Refused, Unsent

ANY = 10**9
ANSWERS = st.sampled_from([Position(0, 0), Position(0, 0), Unsent("away"), Refused("too large")])


def row(aggregate: str, epoch: int, seq: int, *, id_: int, stream: str = "own") -> Waiting:
    return Waiting(id_, aggregate, stream, epoch, seq, f"{id_}", 100)


def ids(rows: Sequence[Waiting]) -> list[int]:
    return [it.id for it in rows]


@st.composite
def outboxes(draw: st.DrawFn) -> list[Waiting]:
    """All the rows of some aggregates, of one or two epochs, their ids in any order."""
    lanes = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4))
    numbers = [
        (f"image:{lane}", epoch, seq)
        for lane, lengths in enumerate(lanes)
        for epoch, length in enumerate(lengths, start=1)
        for seq in range(1, length + 1)
    ]
    order = draw(st.permutations(range(len(numbers))))
    return [row(*number, id_=id_) for number, id_ in zip(numbers, order, strict=True)]


@given(outboxes(), st.data())
def test_whatever_the_log_answers_all_arrive_in_order(
    waiting: list[Waiting], data: st.DataObject
) -> None:
    everything = list(waiting)
    sent: dict[str, Sent] = {}
    first_seen: list[tuple[str, int, int]] = []
    faults = data.draw(st.integers(0, 5))
    while waiting:
        batch = data.draw(st.lists(st.sampled_from(waiting), unique=True, min_size=1))
        plan = sendable(batch, sent, stream_id="own", bytes_max=ANY)
        if plan.gaps:
            known = set(plan.gaps)
            rows = [it for it in batch if it.aggregate not in known]
            rows += [it for it in waiting if it.aggregate in known]
            plan = sendable(rows, sent, stream_id="own", whole=known, bytes_max=ANY)
            assert not plan.gaps
        outcomes: list[Outcome] = [Position(0, 0)] * len(plan.rows)
        if faults:
            faults -= 1
            outcomes = [data.draw(ANSWERS) for _ in plan.rows]
        stopped: set[str] = set()
        for it, outcome in zip(plan.rows, outcomes, strict=True):
            # As the log promises: behind what it did not take, nothing of that key is in it.
            if not isinstance(outcome, Position):
                stopped.add(it.aggregate)
            number = (it.aggregate, it.epoch, it.stream_seq)
            if it.aggregate not in stopped and number not in first_seen:
                first_seen.append(number)
        settled = settle(plan.rows, outcomes, sent, stream_id="own")
        sent |= settled.sent
        waiting = [it for it in waiting if it.id not in set(settled.acknowledged)]
    assert len(first_seen) == len(everything)
    for aggregate in {it.aggregate for it in everything}:
        seen = [number for number in first_seen if number[0] == aggregate]
        assert seen == sorted(seen)


def test_order_is_that_of_the_numbers_and_not_of_the_ids() -> None:
    rows = [row("a", 1, 2, id_=1), row("a", 1, 1, id_=9)]
    assert ids(sendable(rows, {}, stream_id="own", bytes_max=ANY).rows) == [9, 1]


def test_nothing_goes_behind_a_number_that_is_not_there() -> None:
    rows = [row("a", 1, 3, id_=1), row("a", 1, 5, id_=2), row("b", 1, 1, id_=3)]
    plan = sendable(rows, {"a": Sent(1, 2)}, stream_id="own", bytes_max=ANY)
    assert ids(plan.rows) == [1, 3]
    assert plan.gaps == {"a": "number 4 of epoch 1 is not there"}


def test_a_new_epoch_waits_for_what_an_older_one_left() -> None:
    newer = [row("a", 2, 1, id_=1)]
    unknown = sendable(newer, {}, stream_id="own", bytes_max=ANY)
    assert (ids(unknown.rows), set(unknown.gaps)) == ([], {"a"})
    rows = [*newer, row("a", 1, 1, id_=2)]
    known = sendable(rows, {}, stream_id="own", whole={"a"}, bytes_max=ANY)
    assert ids(known.rows) == [2, 1]


def test_a_held_aggregate_offers_its_first_row_only() -> None:
    rows = [row("a", 1, 1, id_=1), row("a", 1, 2, id_=2)]
    plan = sendable(rows, {"a": Sent(0, 0, held=True)}, stream_id="own", bytes_max=ANY)
    assert ids(plan.rows) == [1]


def test_rows_that_another_stream_numbered_are_not_held_back() -> None:
    rows = [row("a", 4, 9, id_=1, stream="file"), row("a", 4, 7, id_=2, stream="file")]
    plan = sendable(rows, {}, stream_id="own", bytes_max=ANY)
    assert ids(plan.rows) == [2, 1]
    settled = settle(plan.rows, [Position(0, 0)] * 2, {}, stream_id="own")
    assert (settled.acknowledged, settled.sent) == ([2, 1], {})


def test_a_batch_is_bounded_in_bytes_and_never_empty() -> None:
    rows = [row("a", 1, seq, id_=seq) for seq in range(1, 6)]
    assert ids(sendable(rows, {}, stream_id="own", bytes_max=250).rows) == [1, 2]
    assert ids(sendable(rows, {}, stream_id="own", bytes_max=1).rows) == [1]


def test_what_was_acknowledged_behind_a_failure_stays() -> None:
    rows = [row("a", 1, seq, id_=seq) for seq in range(1, 4)]
    outcomes = [Position(0, 0), Unsent("away"), Position(0, 2)]
    settled = settle(rows, outcomes, {}, stream_id="own")
    assert settled.acknowledged == [1]
    assert settled.sent == {"a": Sent(1, 1)}

"""What holds of every log: splits, repeats and gaps that are filled change nothing."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from metaledger.schemas.events import Event, StreamNumber, recorded
from metaledger.schemas.identity import derived_id
from metaledger.schemas.jsonform import parse_line

from ..folds.interleaved import ledgers
from ..folds.test_oracle import ORDER
from ..store.readmodels import (
    Dump,
    Place,
    dump,
    empty,
    engine_of,
    kept_open,
    store_of,
)
from .ledgers import AT, CONTEXT, POLL_IS_BATCH, Ledger, damaged, split

SCENARIOS = Path(__file__).parents[1] / "scenarios"
few = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@pytest.fixture
def read_models(place: Place) -> Iterator[tuple[str, str]]:
    """Two, which every example empties."""
    first, second = place(), place()
    with kept_open(first), kept_open(second):
        yield first, second


def project(url: str, ledger: Ledger, sizes: list[int] | None = None) -> Dump:
    empty(url)
    if sizes is None:
        ledger.project(url)
    else:
        ledger.project(url, POLL_IS_BATCH, split(ledger.log, itertools.cycle(sizes)))
    return dump(url)


def fresh(tmp_path: Path) -> Ledger:
    fresh.count += 1  # type: ignore[attr-defined]
    return Ledger(tmp_path / f"law-{fresh.count}.db")  # type: ignore[attr-defined]


fresh.count = 0  # type: ignore[attr-defined]


def shuffled(events: list[Event], seed: int) -> list[Event]:
    """Some out of turn, some twice: what a log may hold after all."""
    source = random.Random(seed)
    result = list(events)
    for _ in range(source.randint(0, 4)):
        result.insert(source.randint(0, len(result)), source.choice(events))
    for _ in range(source.randint(0, 3)):
        result.insert(source.randint(0, len(result)), result.pop(source.randrange(len(result))))
    return result


@few
@given(ledgers().filter(bool), st.integers(0, 2**32), st.lists(st.booleans(), max_size=4), SIZES)
def test_where_a_batch_ends_changes_nothing(
    read_models: tuple[str, str],
    tmp_path: Path,
    events: list[Event],
    seed: int,
    spoilt: list[bool],
    sizes: list[int],
) -> None:
    ledger = fresh(tmp_path)
    spoils = itertools.chain(spoilt, itertools.repeat(False))
    ledger.append(*(damaged(item) if next(spoils) else item for item in shuffled(events, seed)))
    whole, parts = read_models
    assert project(parts, ledger, sizes) == project(whole, ledger)
    ledger.log.close()


@few
@given(ledgers().filter(bool), st.data(), SIZES)
def test_repeats_and_gaps_that_are_filled_change_no_row_of_an_aggregate(
    read_models: tuple[str, str],
    tmp_path: Path,
    events: list[Event],
    data: st.DataObject,
    sizes: list[int],
) -> None:
    in_order, out_of_order = fresh(tmp_path), fresh(tmp_path)
    in_order.append(*events)
    order = shuffled(events, data.draw(st.integers(0, 2**32)))
    out_of_order.append(*order)
    first, second = read_models
    expected = project(first, in_order)
    found = project(second, out_of_order, sizes)
    for table in ORDER.keys() - {"anomalies"}:
        assert found[table] == expected[table]
    assert not found["parked_events"]
    assert not found["quarantine"]
    told = [row for row in found["anomalies"] if row["kind"] != "aggregate_gap"]
    assert told == expected["anomalies"]
    in_order.log.close()
    out_of_order.log.close()


@pytest.mark.parametrize("sizes", [None, [1], [2]])
def test_scenario_1_tells_what_the_purge_took(
    url: str, ledger: Ledger, sizes: list[int] | None
) -> None:
    lines = (SCENARIOS / "1-purge-on-upload.jsonl").read_text(encoding="utf-8").splitlines()
    for seq, line in enumerate(lines, 1):
        draft = parse_line(line, CONTEXT)
        number = StreamNumber(stream_id="file", epoch=1, stream_seq=seq)
        ledger.append(
            recorded(draft, event_id=derived_id("test", seq), number=number, occurred_at=AT)
        )
    with store_of(url):
        pass
    project(url, ledger, sizes)
    expected = json.loads((SCENARIOS / "1-purge-on-upload.expect.json").read_text("utf-8"))
    with engine_of(url) as engine, engine.connect() as connection:
        for query, rows in expected["sql"].items():
            assert [list(row) for row in connection.execute(text(query))] == rows

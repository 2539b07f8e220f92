"""What a read model must be: the naive oracles' rows, and each event once.

Aggregates do not know each other, so the oracle, which looks back over all that came before, is
asked for one at a time.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from metaledger.projector.judgements import JUDGED
from metaledger.schemas.tables import TABLES
from metaledger.schemas.tables.ledger import ledger_events, quarantined_bytes
from metaledger.schemas.times import time_text
from tests.folds.oracle import final_rows
from tests.folds.test_oracle import ORDER, plain
from tests.projector import derived_oracle
from tests.store.readmodels import engine_of, rows, streamed

Rows = Mapping[str, Sequence[dict[str, Any]]]
JsonEvent = dict[str, Any]


def assert_told(read_model: str, events: Iterable[JsonEvent]) -> int:
    """The read model has exactly the events, in their order, the rows that the folds' oracle makes
    of them, and what the stage's derives from these.

    Gives their number. Nothing waits, nothing is in quarantine, and no mark is left.
    """
    histories = defaultdict(list)
    for event in events:
        histories[event["meta"]["aggregate"]].append(event)
    found = _found(read_model)
    admitted = defaultdict(list)
    for row in sorted(found["ledger_events"], key=lambda row: row["stream_seq"]):
        if row["aggregate_kind"] != "stream":
            name = f"{row['aggregate_kind']}:{row['aggregate_id']}"
            admitted[name].append((row["stream_seq"], row["event_id"], row["data"]))
    assert admitted.keys() == histories.keys(), admitted.keys() ^ histories.keys()
    for name, history in histories.items():
        expected = [
            (event["meta"]["stream_seq"], event["meta"]["event_id"], event["data"])
            for event in history
        ]
        assert admitted[name] == expected, name
    assert found["quarantine"] == []
    assert found["parked_events"] == []
    assert [row for row in found["aggregate_states"] if row["parked_since"]] == []
    assert_rows(found, histories)
    assert derived_oracle.made(found) == derived_oracle.derived(found)
    return sum(map(len, histories.values()))


def assert_rows(found: Rows, histories: Mapping[str, Sequence[JsonEvent]]) -> None:
    """The rows of the aggregates and their anomalies are the oracle's; `found` may be of some
    tables only.
    """
    expected = defaultdict(list)
    for history in histories.values():
        for table, its_rows in final_rows(list(_with_times(history))).items():
            expected[table] += its_rows
    assert expected.keys() <= found.keys()
    for table in ORDER.keys() & found.keys():
        order = lambda row, key=ORDER[table]: tuple(row[name] for name in key)  # noqa: E731
        folded = (row for row in found[table] if row.get("kind") not in JUDGED)
        mine = sorted((plain(row) for row in folded), key=order)
        assert mine == sorted(expected[table], key=order), table


def _with_times(history: Sequence[JsonEvent]) -> Iterator[tuple[JsonEvent, str]]:
    """Valid time is that of the event, and never goes back."""
    latest = datetime.min.replace(tzinfo=UTC)
    for event in history:
        latest = max(latest, datetime.fromisoformat(event["meta"]["occurred_at"]))
        yield event, time_text(latest)


def standing(found: Rows) -> Rows:
    """Without what was judged and withdrawn: who reads all at once never sees it wrong."""
    anomalies = [
        row
        for row in found["anomalies"]
        if row["kind"] not in JUDGED or row["withdrawn_by_event"] is None
    ]
    return {**found, "anomalies": anomalies}


def _found(read_model: str) -> Rows:
    with engine_of(read_model) as engine:
        return {table.name: rows(engine, table) for table in (*TABLES, ledger_events)}


def assert_same(one: str, other: str) -> None:
    """Both read models have the same rows in all tables that records make; however many."""
    with engine_of(one) as mine, engine_of(other) as its:
        for table in (*TABLES, ledger_events, quarantined_bytes):
            for row, same in zip_longest(streamed(mine, table), streamed(its, table)):
                assert row == same, table.name

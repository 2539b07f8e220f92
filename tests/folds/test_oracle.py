"""The folds and the oracle come to the same rows, whatever happened."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metaledger.schemas.events import Event
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.tables import DERIVED, TABLES, ledger
from metaledger.schemas.times import time_text

from . import hypervisor_histories, instance_histories
from .histories import realistic, wild
from .interleaved import ledgers
from .oracle import final_rows
from .rows import Folding

# The tables that folds write, with what their rows are known by.
ORDER = {
    **{
        table.name: tuple(table.primary_key.columns.keys())
        for table in TABLES
        if table not in (*ledger.TABLES, *DERIVED)
    },
    "anomalies": ("aggregate_id", "event_id", "kind"),
}


def by_folds(events: list[Event]) -> dict[str, list[dict[str, Any]]]:
    tables = Folding().take(events).tables
    return {table: [plain(row) for row in tables.rows(table)] for table in ORDER}


def by_oracle(events: list[Event]) -> dict[str, list[dict[str, Any]]]:
    history = [(to_json(event), time_text(event.meta.occurred_at)) for event in events]
    return final_rows(history)


def plain(row: dict[str, Any]) -> dict[str, Any]:
    # The oracle knows nothing of how an anomaly gets its id; test_laws has its promise.
    return {
        name: time_text(value) if isinstance(value, datetime) else value
        for name, value in row.items()
        if name != "anomaly_id"
    }


@pytest.mark.parametrize(
    ("histories", "examples"),
    [
        (wild(), 120),
        (realistic(), 200),
        (instance_histories.wild(), 200),
        (instance_histories.realistic(), 100),
        (hypervisor_histories.wild(), 150),
        (hypervisor_histories.realistic(), 100),
        (ledgers(), 25),
    ],
    ids=[
        "wild",
        "realistic",
        "wild instances",
        "realistic instances",
        "wild hypervisors",
        "realistic hypervisors",
        "interleaved",
    ],
)
def test_folds_and_oracle_agree_row_by_row(
    histories: st.SearchStrategy[list[Event]], examples: int
) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(histories)
    @example(instance_histories.LOST_BASE)
    def agree(events: list[Event]) -> None:
        folded, told = by_folds(events), by_oracle(events)
        for table, key in ORDER.items():
            order = lambda row, key=key: tuple(row[name] for name in key)  # noqa: E731
            assert sorted(folded[table], key=order) == sorted(told[table], key=order), table

    agree()

"""The views of instances say what their tables say, on both databases."""

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from sqlalchemy import text

from metaledger.schemas.events import Event

from ..folds.instance_histories import realistic, wild
from ..store.readmodels import Dump, Place, dump, empty, engine_of, kept_open
from .ledgers import Ledger

few = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_views_compare_what_is_live(place: Place, tmp_path: Path) -> None:
    url = place()
    count = 0

    @few
    @given((realistic() | wild()).filter(bool))
    def agree(events: list[Event]) -> None:
        nonlocal count
        count += 1
        empty(url)
        ledger = Ledger(tmp_path / f"views-{count}.db")
        ledger.append(*events)
        ledger.project(url)
        ledger.log.close()
        tables = dump(url)
        shown = asked(url, "instance_uuid, key, authoritative, stored, drifted", "image")
        assert sorted(shown) == sorted(compared(tables))
        shown = asked(url, "key, value, set_by_event", "rescue")
        assert sorted(shown) == sorted(used(tables))

    with kept_open(url):
        agree()


def asked(url: str, columns: str, what: str) -> list[tuple[str, ...]]:
    with engine_of(url) as engine, engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {columns} FROM instance_{what}_metadata"))
        return [comparable(*row) for row in rows]


def compared(tables: Dump) -> list[tuple[str, ...]]:
    told = live(tables["instance_attribute_history"], "authoritative")
    stored = live(tables["instance_metadata_history"], None)
    found = []
    for instance in tables["instances"]:
        uuid = instance["instance_uuid"]
        for key in {*told, *stored}:
            if not key.startswith("image_"):
                continue
            known = instance["authoritative_by_event"] is not None
            drifted = known and told.get(key, ...) != stored.get(key, ...)
            found.append(comparable(uuid, key, told.get(key), stored.get(key), drifted))
    return found


def comparable(*values: Any) -> tuple[str, ...]:
    # SQLite has 0 and 1 for a truth, and null stands in no order.
    return tuple(repr(int(value) if isinstance(value, bool) else value) for value in values)


def live(rows: list[dict[str, Any]], kind: str | None) -> dict[str, str | None]:
    return {
        row["key"]: row["value"]
        for row in rows
        if row["valid_to"] is None and row.get("kind") == kind
    }


def used(tables: Dump) -> list[tuple[str, ...]]:
    rescued = [row for row in tables["instances"] if row["deleted_at"] is None]
    return [
        comparable(row["key"], row["value"], row["set_by_event"])
        for row in tables["instance_attribute_history"]
        if row["kind"] == "rescue" and row["valid_to"] is None and rescued
    ]

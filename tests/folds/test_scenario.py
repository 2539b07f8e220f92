"""Glance bug 901534, as the folds see it: the same answers that its `expect.json` asks of SQL."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from metaledger.schemas.events import Event, StreamNumber, recorded
from metaledger.schemas.image import Mode, PropertyChange, SnapshotUploaded
from metaledger.schemas.jsonform import parse_line
from metaledger.schemas.meta import Context

from .rows import Folding

SCENARIOS = Path(__file__).parents[1] / "scenarios"
IMAGE = "f411e336-fdd2-4d9b-8fd6-78dfe6809d3b"


def told() -> list[Event]:
    lines = (SCENARIOS / "1-purge-on-upload.jsonl").read_text(encoding="utf-8").splitlines()
    context = Context(service="glance-api", host="controller-1")
    events = []
    for seq, line in enumerate(lines, start=1):
        draft = parse_line(line, context)
        number = StreamNumber(stream_id="file", epoch=1, stream_seq=seq)
        assert isinstance(draft.occurred_at, datetime)
        events.append(
            recorded(draft, event_id=f"event-{seq}", number=number, occurred_at=draft.occurred_at)
        )
    return events


@pytest.mark.parametrize("sleeps", [False, True], ids=["one batch", "a batch each"])
def test_what_the_purge_took_is_known(*, sleeps: bool) -> None:
    folding = Folding()
    for event in told():
        folding.take([event])
        if sleeps:
            folding.sleep()
    expected = json.loads((SCENARIOS / "1-purge-on-upload.expect.json").read_text(encoding="utf-8"))
    live, ended, contradictory, anomalies = expected["sql"].values()
    history = folding.tables.rows("image_property_history")
    assert [[row["key"]] for row in history if row["valid_to"] is None] == live
    assert [
        [row["key"], row["end_reason"]] for row in history if row["valid_to"] is not None
    ] == ended
    assert contradictory == [[0]]
    found = folding.tables.rows("anomalies")
    assert [[row["kind"], row["aggregate_id"]] for row in found] == anomalies
    (lost,) = found
    assert lost["severity"] == "error"
    assert lost["details"] == {
        "mode": "PURGE",
        "properties": {
            "backup_type": None,
            "image_type": "snapshot",
            "instance_ref": "http://127.0.0.1:8774/v1.1/servers/"
            "60fc2546-a436-461d-a7b6-36285c8379ae",
            "instance_uuid": "60fc2546-a436-461d-a7b6-36285c8379ae",
            "key1": "value1",
            "key2": "value2",
            "user_id": "admin",
        },
    }
    (image,) = folding.tables.rows("images")
    assert (image["image_type"], image["status"], image["size"]) == ("snapshot", "active", 1048576)


def test_under_merge_all_twelve_properties_stay() -> None:
    registered, uploaded = told()
    assert isinstance(uploaded.data, SnapshotUploaded)
    change = PropertyChange(mode=Mode.MERGE, set=uploaded.data.change.set, removed=())
    data = SnapshotUploaded(image_id=IMAGE, size=1048576, status="active", change=change)
    folding = Folding().take([registered, Event(uploaded.meta, data)])
    live = [row for row in folding.tables.rows("image_property_history") if row["valid_to"] is None]
    assert len(live) == 12
    assert not folding.tables.rows("anomalies")

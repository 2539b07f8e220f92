"""Events in the JSON form, as a user writes them into a file."""

import json
from pathlib import Path

SCENARIO = Path(__file__).parents[1] / "scenarios" / "1-purge-on-upload.jsonl"
HOSTNAME_CHANGE = SCENARIO.with_name("4-hostname-change.jsonl")
SCENARIO_HYPERVISOR = "3b1f6c1e-8a55-4f3e-9d2e-0c6f5d3f7a10"
SCENARIO_IMAGE = "f411e336-fdd2-4d9b-8fd6-78dfe6809d3b"
TIME = "2026-01-01T00:00:{:02}Z"


def registered(image="i-1", second=0, **data):
    return line("ImageRegistered", second, image_id=image, status="queued", **data)


def updated(image="i-1", second=1, mode="MERGE", meta=None, **change):
    return line("ImageUpdated", second, meta=meta, image_id=image, change={"mode": mode, **change})


def line(event_type, second, meta=None, **data):
    head = {"occurred_at": TIME.format(second), **(meta or {})}
    return {"type": event_type, "meta": head, "data": data}


def hypervisor_events():
    """Those of the scenario of the changed host name that hypervisors tell."""
    lines = map(json.loads, HOSTNAME_CHANGE.read_text(encoding="utf-8").splitlines())
    return [event for event in lines if event["type"].startswith("Hypervisor")]


def file_of(path: Path, *events) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path

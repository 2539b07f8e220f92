"""The relay's metrics as a file in Prometheus' text format, for a collector that reads files.

The file is written anew with each report and renamed into place, so that nobody reads half of it.
No port is opened: the relay needs none, and a service's host has a node exporter already.
"""

import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import structlog

from metaledger.producers.relay import Report

_log = structlog.get_logger()
# What counts on from report to report, and what is as it is.
_COUNTERS = {
    "sent": "Events that the log has acknowledged.",
    "retries": "Rounds in which the log did not take what it was given.",
}
_GAUGES = {
    "rows_waiting": "Events that wait in the outbox.",
    "rows_max": "The limit of waiting events.",
    "oldest_row_age_s": "The age of the oldest waiting event, in seconds.",
    "unrecorded_aggregates": "Aggregates that lack a change.",
}


def metrics_file(path: Path, stream_id: str) -> Callable[[Report], None]:
    """What writes each report of a relay into the file."""
    totals = dict.fromkeys(_COUNTERS, 0)

    def write(report: Report) -> None:
        for name in totals:
            totals[name] += getattr(report, name)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_text(metrics_text(report, totals, stream_id), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            # Metrics are no reason to stop sending.
            _log.warning("metrics not written", file=str(path), reason=error.strerror)

    return write


def metrics_text(report: Report, totals: dict[str, int], stream_id: str) -> str:
    """The text: a counter ends in `_total`, seconds in `_seconds`."""
    label = stream_id.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = []
    for one in fields(report):
        counter = one.name in _COUNTERS
        name = f"{one.name}_total" if counter else re.sub("_s$", "_seconds", one.name)
        value = totals[one.name] if counter else getattr(report, one.name)
        about = _COUNTERS[one.name] if counter else _GAUGES[one.name]
        lines += [
            f"# HELP metaledger_relay_{name} {about}",
            f"# TYPE metaledger_relay_{name} {'counter' if counter else 'gauge'}",
            f'metaledger_relay_{name}{{stream_id="{label}"}} {value}',
        ]
    return "\n".join(lines) + "\n"

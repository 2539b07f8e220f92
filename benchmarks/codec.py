"""What our promises about bytes cost beside bare fastavro, on the same records.

The bare loop writes and reads what is known to be good: no checksum, no bounds, plain dicts.
"""

import io
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from fastavro import schemaless_reader, schemaless_writer

from metaledger.schemas.catalogue import latest
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event, recorded
from metaledger.schemas.jsonform import parse_line, to_json

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure
from .history import CONTEXT, history

_CODEC = Codec()
_FRAME_BYTES = 10


def _encode(bench: Bench) -> Figure:
    events = _events(bench)
    return _measured(bench, _bare_writer(events), partial(_for_each, _CODEC.encode, events))


def _parse(bench: Bench) -> Figure:
    events = _events(bench)
    lines = [json.dumps(to_json(told)) for told in events]
    return _measured(bench, _bare_writer(events), partial(_parse_and_encode, lines, events))


def _decode(bench: Bench) -> Figure:
    events = _events(bench)
    encoded = [_CODEC.encode(told) for told in events]
    payloads = [
        (latest(told.type).parsed, it.value[_FRAME_BYTES:])
        for told, it in zip(events, encoded, strict=True)
    ]

    def bare() -> None:
        for schema, payload in payloads:
            schemaless_reader(io.BytesIO(payload), schema, None)

    return _measured(
        bench, bare, partial(_for_each, lambda it: _CODEC.decode(it.value, it.sha256), encoded)
    )


def _for_each(function: Callable[[Any], object], each: Iterable[Any]) -> None:
    for it in each:
        function(it)


def _parse_and_encode(lines: list[str], events: list[Event]) -> None:
    for line, told in zip(lines, events, strict=True):
        draft = parse_line(line, CONTEXT)
        number, meta = draft.number, told.meta
        assert number is not None
        _CODEC.encode(
            recorded(draft, event_id=meta.event_id, number=number, occurred_at=meta.occurred_at)
        )


def _bare_writer(events: list[Event]) -> Callable[[], None]:
    records: list[tuple[Any, Any]] = []
    for told in events:
        value = _CODEC.encode(told).value
        schema = latest(told.type).parsed
        source = io.BytesIO(value[_FRAME_BYTES:])
        records.append((schema, schemaless_reader(source, schema, None)))

    def bare() -> None:
        for schema, datum in records:
            schemaless_writer(io.BytesIO(), schema, datum)

    return bare


def _events(bench: Bench) -> list[Event]:
    return list(history(100 if bench.size is Size.QUICK else 1_000))


def _measured(bench: Bench, bare: Callable[[], object], ours: Callable[[], object]) -> Figure:
    rounds = 5 if bench.size is Size.QUICK else 15
    count = len(_events(bench))
    pairs = list(bench.pairs(bare, ours, rounds=rounds))
    best_us = min(ours_s for _, ours_s in pairs) / count * 1e6
    bare_us = min(bare_s for bare_s, _ in pairs) / count * 1e6
    return figure(
        [ours_s / bare_s for bare_s, ours_s in pairs],
        f"{best_us:.1f} µs an event beside {bare_us:.1f} µs",
    )


BENCHMARKS = (
    Benchmark(
        name="encode",
        measures="a typed event to bytes with its SHA-256 / fastavro.schemaless_writer",
        promise=Promise.AT_MOST,
        bound=1.6,
        unit="",
        run=_encode,
    ),
    Benchmark(
        name="parse",
        measures="a line of JSON, strictly validated, to bytes / fastavro.schemaless_writer",
        promise=Promise.AT_MOST,
        bound=4,
        unit="",
        run=_parse,
    ),
    Benchmark(
        name="decode",
        measures="bytes to a typed event, sum and bounds checked / fastavro.schemaless_reader",
        promise=Promise.AT_MOST,
        bound=1.6,
        unit="",
        run=_decode,
    ),
)

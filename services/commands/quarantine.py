"""`quarantine list|show|release|skip|accept-gap`: what waits, and the operator's decisions.

A release is done here, by the projector's own means. Skipping and accepting are events: they are
written into the ledger, and act when the projector meets them there.
"""

import re
from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from metaledger.projector import quarantine as decisions
from metaledger.projector.intake import Rules
from metaledger.projector.stage import derive
from metaledger.schemas.errors import MetaledgerError, UsageError
from metaledger.schemas.events import Draft
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.log import Position
from metaledger.services import parts, queries
from metaledger.services.output import Document, Views, json_text
from metaledger.services.reading import reading
from metaledger.services.settings import Settings
from metaledger.services.shell import DONE, NO, Shell, add_group, answer_no
from metaledger.services.terminal import cell, table_of
from metaledger.services.writing import append


def _said(reason: str) -> str:
    """Refuses an empty reason: the ledger keeps the decision for ever. Raises UsageError."""
    if not reason.strip():
        raise UsageError("--reason: say why; it stays in the ledger")
    return reason


Where = Annotated[
    str, typer.Argument(metavar="PARTITION:OFFSET", help="where the record stands in the log")
]
Aggregate = Annotated[str, typer.Argument(metavar="AGGREGATE", help="such as image:ID")]
Reason = Annotated[
    str, typer.Option("--reason", callback=_said, help="why; it stays in the ledger")
]
_RECORDS = ("place", "recorded_at", "aggregate", "reason", "error", "skipped_by_event")
_PARKED = ("aggregate", "since", "events")
_ON_RECORDS = """
What is in one: metaledger quarantine show PARTITION:OFFSET
Once this build reads it: metaledger quarantine release AGGREGATE
Never to be folded: metaledger quarantine skip PARTITION:OFFSET --reason …
"""
_ON_PARKED = """
What one waits for: metaledger anomalies
A number that will never come: metaledger quarantine accept-gap AGGREGATE --reason …
"""
_STILL = """
For which of these: metaledger quarantine list
A record in quarantine: metaledger quarantine show PARTITION:OFFSET
One never to be folded: metaledger quarantine skip PARTITION:OFFSET --reason …
A number that will never come: metaledger quarantine accept-gap {aggregate} --reason …
"""
# So many bytes tell what a record is; --json has all of them.
_SHOWN_BYTES = 256


def register(app: typer.Typer) -> None:
    """Adds the group."""
    add_group(
        app,
        "quarantine",
        "What could not be read, what waits behind it, and what is to become of it.",
        list=list_all,
        show=show,
        release=release,
        skip=skip,
        accept_gap=accept_gap,
    )


def list_all(shell: Shell) -> int:
    """The records in quarantine, and the aggregates that wait."""
    with reading(shell.settings.read_model) as connection:
        records = [_named(row) for row in queries.ledger.quarantine(connection)]
        parked = [_named(row) for row in queries.ledger.parked(connection)]

    def view() -> Views:
        if not records and not parked:
            yield "Nothing waits."
        if records:
            yield table_of(_RECORDS, records, title="Records in quarantine")
            is_open = any(record["skipped_by_event"] is None for record in records)
            yield _ON_RECORDS if is_open or parked else "\nAll of them were skipped: nothing waits."
        if parked:
            yield table_of(_PARKED, parked, title="Aggregates that wait")
            yield _ON_PARKED

    shell.output.answer({"quarantine": records, "parked": parked}, view)
    return DONE


def show(shell: Shell, where: Where) -> int:
    """One record with its bytes, and what this build makes of them."""
    position = _position(where)
    with reading(shell.settings.read_model) as connection:
        row = queries.ledger.quarantined(connection, position.partition, position.offset)
    if row is None:
        return answer_no(shell, f"no record in quarantine stands at {where}")
    document = {**_named(row), **_decoded(shell.settings, row)}

    def view() -> Views:
        for name, value in document.items():
            if name not in ("value", "event"):
                yield Text(f"{name}: ").append(cell(value))
        yield cell(f"event: {json_text(document['event']) if document['event'] else '-'}")
        yield f"bytes: {len(row['value']):,}"
        yield row["value"][:_SHOWN_BYTES].hex(" ")

    shell.output.answer(document, view)
    return DONE


def release(shell: Shell, aggregate: Aggregate) -> int:
    """Let what waits for an aggregate have its turn again, in the log's order."""
    _check_aggregate(aggregate)
    settings = shell.settings
    with parts.open_log(settings) as log, parts.open_store(settings) as store:
        rules = Rules(
            topic_id=log.topic_id,
            deployment_id=settings.deployment_id,
            clock_skew_max=timedelta(seconds=settings.projector.clock_skew_max_s),
        )
        released = decisions.release(store, parts.codec_of(settings), rules, aggregate)
        derive(store, at_end=False)

    def view() -> Views:
        yield f"{released.turns:,} records had their turn."
        if released.is_free:
            yield f"{aggregate} is free."
        else:
            yield f"{aggregate} still waits."
            yield _STILL.format(aggregate=aggregate)

    shell.output.answer(
        {"aggregate": aggregate, "turns": released.turns, "is_free": released.is_free}, view
    )
    return DONE if released.is_free else NO


def skip(shell: Shell, where: Where, reason: Reason) -> int:
    """Decide that a record is never to be folded."""
    settings = shell.settings
    with parts.open_store(settings) as store:
        draft = decisions.skip(
            store, _position(where), reason=reason, context=parts.context_of(settings)
        )
    return _decided(shell, draft)


def accept_gap(shell: Shell, aggregate: Aggregate, reason: Reason) -> int:
    """Decide that the numbers an aggregate waits for will never come."""
    _check_aggregate(aggregate)
    settings = shell.settings
    with parts.open_store(settings) as store:
        draft = decisions.accept_gap(
            store, aggregate, reason=reason, context=parts.context_of(settings)
        )
    return _decided(shell, draft)


def _decided(shell: Shell, draft: Draft) -> int:
    append(shell.settings, [draft])
    document = {"decided": type(draft.data).__name__, "aggregate": draft.aggregate}

    def view() -> Views:
        yield cell(
            f"{document['decided']} is in the ledger for {draft.aggregate}; it acts when the "
            "projector meets it."
        )

    shell.output.answer(document, view)
    return DONE


def _check_aggregate(aggregate: str) -> None:
    if not all(aggregate.partition(":")):
        raise UsageError(
            f"{aggregate} is no aggregate: give KIND:ID, such as image:ID; `metaledger quarantine "
            "list` has those that wait"
        )


def _position(where: str) -> Position:
    form = re.fullmatch(r"(\d{1,9})[:/](\d{1,18})", where)
    if form is None:
        raise UsageError(f"{where} is no place in the log: give PARTITION:OFFSET, such as 3:1742")
    return Position(int(form[1]), int(form[2]))


def _named(row: queries.Row) -> Document:
    """The row with its place and its aggregate in one word each."""
    kind, bare_id = row.pop("aggregate_kind"), row.pop("aggregate_id")
    named = {"aggregate": None if kind is None else f"{kind}:{bare_id}", **row}
    if "log_offset" in row:
        named = {"place": f"{row['log_partition']}:{row['log_offset']}", **named}
    return named


def _decoded(settings: Settings, row: queries.Row) -> Document:
    """What this build makes of the record."""
    try:
        event = parts.codec_of(settings).decode(row["value"], row["sha256"])
    except MetaledgerError as error:
        return {"event": None, "decodes": str(error)}
    return {"event": to_json(event), "decodes": "yes"}

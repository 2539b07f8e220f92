"""`reconcile glance|nova URL [--mend]`: where a service's database and the ledger differ."""

import time
from collections import Counter as Tally
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from metaledger.producers import administration
from metaledger.producers.live import LiveWriter
from metaledger.producers.mending import Mender
from metaledger.producers.source import Kind
from metaledger.services import parts
from metaledger.services.commands.importing import Service, Teller, Url
from metaledger.services.comparison import Absent, Difference
from metaledger.services.output import Document, Views, progress
from metaledger.services.reading import reading
from metaledger.services.reconciling import Page, Patience, Reconciliation
from metaledger.services.settings import Settings
from metaledger.services.shell import DONE, NO, Shell, add_command
from metaledger.services.terminal import table

# A screen and a half; all of them are for --json.
_SHOWN_MAX = 50
# A projector that is behind is waited for as long as the guard waits.
_PAUSES_MAX, _PAUSE_S = 50, 0.1
_COLUMNS = ("aggregate", "what", "key", "ledger", "database")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "reconcile", reconcile)


@dataclass(slots=True)
class _Found:
    """What came of it: `differing` counts the aggregates that differ, in `values`; `settled` those
    that counted as unrecorded and lack nothing, `unrecorded` those that still do in the end.

    Of the differences it keeps the first `kept_max`; None: all.
    """

    kept_max: int | None
    compared: int = 0
    differing: int = 0
    values: int = 0
    mended: int = 0
    settled: int = 0
    unrecorded: int = 0
    differences: list[Difference] = field(default_factory=list)
    left_out: Tally[str] = field(default_factory=Tally)


def reconcile(
    shell: Shell,
    service: Service,
    url: Url = None,
    mend: Annotated[
        bool, typer.Option("--mend", help="tell the ledger what the database holds")
    ] = False,
) -> int:
    """Where a service's database and the ledger differ.

    Exits 1 if they do and are not mended, and with --mend if anything still counts as unrecorded.
    """
    found = _Found(kept_max=None if shell.output.as_json else _SHOWN_MAX)
    settings = shell.settings
    with (
        parts.service_database(settings, service, url) as (engine, kinds),
        reading(settings.read_model) as read_model,
        ExitStack() as stack,
    ):
        log = None
        if _unrecorded(engine):
            log = stack.enter_context(parts.open_log(settings))
        patience = Patience(_PAUSES_MAX, lambda: time.sleep(_PAUSE_S))
        both = Reconciliation(engine=engine, read_model=read_model, log=log, patience=patience)
        both.require_same_log()
        if mend and log is not None:
            # A mark that goes says that this log lacks nothing: no other one may come after.
            administration.bind(engine, log)
        mender = _mender(settings, engine) if mend else None
        for kind in kinds:
            with progress(f"compare {kind.name}") as advance:
                for page in both.pages(kind):
                    _add(found, page)
                    if mender is not None:
                        _mend(found, mender, kind, page)
                    advance(found.compared, None)
        found.unrecorded = _unrecorded(engine)
    shell.output.answer(_document(service, found), lambda: _view(found))
    is_open = found.differing > found.mended or (mend and found.unrecorded)
    return NO if is_open else DONE


def _mender(settings: Settings, engine: Engine) -> Mender:
    writer = LiveWriter(engine, parts.producer_settings(settings), on_wait=Teller().waiting)
    return Mender(writer=writer, context=parts.context_of(settings))


def _unrecorded(engine: Engine) -> int:
    return administration.status(engine).unrecorded_aggregates


def _mend(found: _Found, mender: Mender, kind: Kind[Any], page: Page) -> None:
    if page.differing:
        found.mended += mender.mend(kind, page.differing).told
    if page.agreeing:
        found.settled += mender.settle(kind, page.agreeing)


def _add(found: _Found, page: Page) -> None:
    found.compared += page.compared
    found.differing += len(page.differing)
    found.values += len(page.found)
    kept = found.differences
    kept += page.found if found.kept_max is None else page.found[: found.kept_max - len(kept)]
    found.left_out += page.left_out


def _document(service: str, found: _Found) -> Document:
    return {
        "service": service,
        "compared": found.compared,
        "differing": found.differing,
        "mended": found.mended,
        "settled": found.settled,
        "unrecorded": found.unrecorded,
        "left_out": dict(found.left_out),
        "differences": [_shown(one) for one in found.differences],
    }


def _shown(one: Difference) -> Document:
    """What is absent has no member; null is a value."""
    return {name: value for name, value in asdict(one).items() if not isinstance(value, Absent)}


def _view(found: _Found) -> Views:
    if shown := found.differences:
        yield table(_COLUMNS, ([_cell(getattr(one, name)) for name in _COLUMNS] for one in shown))
        if len(shown) < found.values:
            yield f"… and {found.values - len(shown):,} more; --json shows all"
        yield ""
    for why, count in sorted(found.left_out.items()):
        yield f"{count:,} left out: {why}."
    yield (
        f"{found.compared:,} compared: {found.differing:,} differ, in "
        f"{found.values:,} values; {found.mended:,} mended."
    )
    if found.settled:
        yield f"{found.settled:,} counted as unrecorded, and lack nothing."
    if found.unrecorded:
        yield f"{found.unrecorded:,} still count as unrecorded."


def _cell(value: object) -> object:
    match value:
        case Absent():
            return value.value
        case None:
            return "null"
        case _:
            return value

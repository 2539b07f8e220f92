"""`guard`: may this compute service destroy these instances, which it holds?

The rules stand in `services/guard`; here is the order of things. First the log's end, then a look
at the read model, and again for a little while where a projector or a source is just behind; then
every judgement is made durable as DestroyJudged, and only then it is answered. Where that fails,
the answer is UNKNOWN: the ledger may then show an ALLOW that nobody was given, and never the other
way round.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from metaledger.schemas.errors import MetaledgerError, UsageError
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import system_clock
from metaledger.schemas.instance import DestroyJudged, Verdict
from metaledger.schemas.representable import representable
from metaledger.services import parts, queries
from metaledger.services.guard import Facts, Judgement, Question, is_passing, judge
from metaledger.services.output import Views
from metaledger.services.reading import reading
from metaledger.services.settings import Settings
from metaledger.services.shell import DONE, NO, Shell, add_command
from metaledger.services.terminal import table_of
from metaledger.services.writing import append

# A host holds some hundreds; a statement of any database takes as many parameters.
INSTANCES_MAX = 5_000
# What Nova's own columns hold.
_NAME_CHARS_MAX = 255
_POLL_S = 0.1
_COLUMNS = ("instance_uuid", "verdict", "reason")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, "guard", guard)


def guard(
    shell: Shell,
    hypervisor: Annotated[str, typer.Option(metavar="ID", help="the hypervisor that asks")],
    host: Annotated[str, typer.Option(metavar="NAME", help="the host name that it goes by")],
    instance: Annotated[
        list[str] | None,
        typer.Option(metavar="UUID", help="an instance that it holds; may be given again"),
    ] = None,
    instances_from: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="more of them, one a line (-: standard input)"),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="the ledger is fed by files alone: no source reports"),
    ] = False,
) -> int:
    """May this compute service destroy these instances? Exits 0 only if all are ALLOW."""
    settings = shell.settings
    question = Question(
        hypervisor_id=_name(hypervisor, "--hypervisor"),
        host=_name(host, "--host"),
        instance_uuids=_instances(instance or (), instances_from),
        source_lag_max_s=settings.guard_source_lag_max_s,
        sources=frozenset(settings.guard_streams),
        offline=offline,
    )
    judgements = recorded(settings, question, judge(question, _look(settings, question)))
    document = {"verdicts": [asdict(one) for one in judgements]}

    def view() -> Views:
        yield table_of(_COLUMNS, document["verdicts"])
        if offline:
            yield "Offline: no source was waited for; what the ledger holds was judged."

    shell.output.answer(document, view)
    return DONE if all(one.verdict is Verdict.ALLOW for one in judgements) else NO


def _look(settings: Settings, question: Question) -> Facts:
    """The facts, once nothing is in the way that passes by itself, or after some waiting."""
    with parts.open_log(settings) as log:
        identity = (log.topic_id, log.partitions)
        ends = {partition: end for partition, (_, end) in log.bounds().items()}
    waited_s = 0.0
    while True:
        with reading(settings.read_model) as connection:
            facts = queries.guard.facts(
                connection, question, log=identity, ends=ends, now=system_clock()
            )
        if not waited_s < settings.guard_wait_s or not is_passing(question, facts):
            return facts
        time.sleep(_POLL_S)
        waited_s += _POLL_S


def recorded(
    settings: Settings, question: Question, judgements: Sequence[Judgement]
) -> Sequence[Judgement]:
    """The judgements, which are durable now; or else those that may be given without."""
    context = parts.context_of(settings)
    events = [
        DestroyJudged(
            instance_uuid=one.instance_uuid,
            hypervisor_id=question.hypervisor_id,
            host=question.host,
            verdict=one.verdict,
            reason=one.reason,
        )
        for one in judgements
    ]
    drafts = [Draft(data=event, aggregate=event.aggregate, context=context) for event in events]
    try:
        append(settings, drafts)
    except (MetaledgerError, SQLAlchemyError, OSError) as error:
        said = " ".join(str(error).split())
        reason = f"the judgement could not be recorded, and so it is none: {said}"
        return [Judgement(one.instance_uuid, Verdict.UNKNOWN, reason) for one in judgements]
    return judgements


def _instances(named: Sequence[str], file: str | None) -> tuple[str, ...]:
    """All instances that are asked about, each once. Raises UsageError."""
    found = {_name(one, "--instance"): None for one in named}
    if file is not None:
        found |= {_name(line, "--instances-from"): None for line in _lines(file)}
    if not found:
        raise UsageError("guard what? Name an instance by --instance or --instances-from")
    if len(found) > INSTANCES_MAX:
        raise UsageError(f"at most {INSTANCES_MAX:,} instances in one question")
    return tuple(found)


def _lines(file: str) -> list[str]:
    """The lines that are not empty, as far as they may be asked about."""
    limit = (INSTANCES_MAX + 1) * (_NAME_CHARS_MAX + 1)
    try:
        if file == "-":
            text = sys.stdin.read(limit)
        else:
            with Path(file).open(encoding="utf-8") as source:
                text = source.read(limit)
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"--instances-from: {file} is no file of text: {error}") from error
    if len(text) == limit:
        raise UsageError(f"--instances-from: {file} is too large for {INSTANCES_MAX:,} instances")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _name(text: str, option: str) -> str:
    """A name that the ledger can hold. Raises UsageError."""
    if not text or len(text) > _NAME_CHARS_MAX or representable(text) != text:
        raise UsageError(f"{option}: expected a name of 1 to {_NAME_CHARS_MAX} plain characters")
    return text

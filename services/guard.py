"""The rules of the destroy guard: may a compute service destroy what it holds? Pure.

The question names the asking hypervisor by its id and by the host name that it goes by; the facts
are what one look at the log and the read model found. What is not proved is refused.

DENY: the instance is on this hypervisor. That needs no fresh source and no projection that has
reached its end, for a late DENY destroys nothing. Where only a host name was recorded and one
hypervisor had it in that time, that is reason enough to deny. It is never reason to allow: a name
says where somebody pointed, machines swap names, and an instance that is wrongly taken to be
elsewhere is lost, while one that is wrongly taken to be here is only in the way.

ALLOW, where all of this holds:

1. The last stay here was ended by an evacuation that names this hypervisor by its id. So an
   instance that came back since then, by whatever way, is judged by its last departure.
2. It is elsewhere now, and that stay and each one since the evacuation names its hypervisor by id:
   one that was told by host name alone may have been here.
3. The one who asks is who the ledger knows: this hypervisor is registered, not removed, and has the
   host name that the question has. The one where the instance is, is known as well, and the two
   never had a host name in common: a copied id file would let a machine ask for what it runs
   itself, one with a second id would take what it runs to be elsewhere, and a place told by a name
   that both had may be either.
4. No `hypervisor_duplicate` is open for either of the two hypervisors, and none is still to be
   judged.
5. Nothing of the instance or of either hypervisor is parked or in quarantine, and since the
   evacuation no record went there whose key nobody could read. What an operator skipped is settled.
6. The read model is of this log, and has reached the end that the log had when the question came.
7. Every source that may place instances has reported for all partitions, lately, with nothing
   unsent and nothing unrecorded. These are the sources that the settings name, else all that ever
   reported; and those that told of the evacuation and of what came after it. A ledger that is fed
   by files alone has none: there the question says so (`offline`), which a source that did report
   refutes.

Everything else is UNKNOWN, with all that is missing as its reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from metaledger.schemas.instance import Verdict
from metaledger.schemas.times import time_text
from metaledger.services.terminal import seconds_only

_EVACUATION = "EVACUATION"
_TOLD_BY = "`metaledger reconcile nova URL --mend` tells it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Who asks about which instances. `sources` are the streams that place instances; none: all
    that report.
    """

    hypervisor_id: str
    host: str
    instance_uuids: Sequence[str]
    source_lag_max_s: float
    sources: frozenset[str] = frozenset()
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A stay of an instance. `hypervisor_id` was told by the event, `likely_id` follows from the
    host name alone.
    """

    hypervisor_id: str | None
    likely_id: str | None
    host: str | None
    cause: str
    since: datetime
    until: datetime | None
    event_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An event that told where an instance came to: `left_id` is the hypervisor that it left, if
    that was told, and `recorded_at` when the log took it.
    """

    left_id: str | None
    stream_id: str
    recorded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What is known of an instance; `stays` in their order."""

    deleted_at: datetime | None
    stays: Sequence[Stay]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervisor:
    """What is known of a hypervisor; `names` are all host names that it ever had."""

    host: str | None
    removed_at: datetime | None
    names: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The worst of what a stream has reported, and for how many partitions it has."""

    partitions: int
    reported_at: datetime
    oldest_unsent_at: datetime | None
    rows_waiting: int
    unrecorded_aggregates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found at `now`. `ends` is the log's end when the question came, by partition, and
    `checkpoints` how far it is projected. `moves` are the events behind `evacuated` stays, by id.

    `duplicates` are the hypervisors that an open anomaly of that kind names, `unjudged` those of
    which one is still to be judged; `waiting` the aggregates that are parked or have a record in
    quarantine, and `nameless_at` when the log took the last record in quarantine whose key cannot
    be read and that nobody skipped.
    """

    now: datetime
    log: tuple[str, int]
    projected_log: tuple[str | None, int | None]
    ends: Mapping[int, int]
    checkpoints: Mapping[int, int]
    sources: Mapping[str, Source]
    instances: Mapping[str, Instance]
    moves: Mapping[str, Move]
    hypervisors: Mapping[str, Hypervisor]
    duplicates: frozenset[str]
    unjudged: frozenset[str]
    waiting: frozenset[str]
    nameless_at: datetime | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and the sentence that explains it."""

    instance_uuid: str
    verdict: Verdict
    reason: str


def judge(question: Question, facts: Facts) -> list[Judgement]:
    """A judgement for each instance, in the order of the question."""
    if facts.log != facts.projected_log:
        other = "the read model was built from another log than this: see `metaledger doctor`"
        return [Judgement(uuid, Verdict.UNKNOWN, other) for uuid in question.instance_uuids]
    shared = [*_of_the_asking(question, facts), *_of_projection(facts)]
    return [_judged(question, facts, uuid, shared) for uuid in question.instance_uuids]


def is_passing(question: Question, facts: Facts) -> bool:
    """Whether something is in the way that passes by itself within moments: a projector that is
    just behind, a source that just reported while it had something to send.
    """
    awaited = question.sources or frozenset(facts.sources)
    sending = any(facts.sources[name].rows_waiting for name in awaited & facts.sources.keys())
    behind = any(_of_projection(facts)) or bool(facts.unjudged)
    return behind or (sending and not question.offline)


def _judged(
    question: Question, facts: Facts, instance_uuid: str, shared: Sequence[str]
) -> Judgement:
    instance = facts.instances.get(instance_uuid)
    if instance is None:
        reason = _sentence(
            [f"the ledger knows no such instance: {_TOLD_BY}, if Nova does", *shared]
        )
        return Judgement(instance_uuid, Verdict.UNKNOWN, reason)
    here = _here(question, instance)
    if here is not None:
        return Judgement(instance_uuid, Verdict.DENY, here)
    stays = _since_evacuation(question, facts, instance)
    missing = [
        *_of_whereabouts(question, instance, stays),
        *_of_the_other(question, facts, instance),
        *_of_what_waits(facts, f"instance:{instance_uuid}", stays),
        *shared,
        *_of_sources(question, facts, stays),
    ]
    if missing or not stays:
        return Judgement(instance_uuid, Verdict.UNKNOWN, _sentence(missing))
    return Judgement(instance_uuid, Verdict.ALLOW, _allowed(question, stays))


def _here(question: Question, instance: Instance) -> str | None:
    """Why the instance is to be taken as being on this hypervisor, if it is."""
    stay = _current(instance)
    if stay is None:
        return None
    if stay.hypervisor_id == question.hypervisor_id:
        return f"it is on this hypervisor, since {_at(stay.since)} ({stay.cause})"
    if not stay.hypervisor_id and stay.likely_id == question.hypervisor_id:
        return (
            f"it is on host {stay.host} since {_at(stay.since)}, and this hypervisor alone "
            "had that name in this time"
        )
    return None


def _current(instance: Instance) -> Stay | None:
    """Where it is; None: nowhere that is known."""
    last = instance.stays[-1] if instance.stays else None
    return last if last is not None and last.until is None else None


def evacuated(hypervisor_id: str, stays: Sequence[Stay]) -> Sequence[Stay]:
    """The stays since the last one here, if that was ended by an evacuation; else none."""
    here = [place for place, stay in enumerate(stays) if stay.hypervisor_id == hypervisor_id]
    after = stays[here[-1] + 1 :] if here else ()
    return after if after and after[0].cause == _EVACUATION else ()


def _since_evacuation(question: Question, facts: Facts, instance: Instance) -> Sequence[Stay]:
    """As `evacuated`, where the evacuation names this hypervisor by its id."""
    after = evacuated(question.hypervisor_id, instance.stays)
    move = facts.moves.get(after[0].event_id) if after else None
    return after if move is not None and move.left_id == question.hypervisor_id else ()


def _of_whereabouts(question: Question, instance: Instance, since: Sequence[Stay]) -> Iterator[str]:
    if not since:
        yield _no_evacuation(question.hypervisor_id, instance.stays)
    elif unnamed := [stay for stay in since[:-1] if not stay.hypervisor_id]:
        yield (
            f"since its evacuation it was at a place told by host name alone ({unnamed[0].host}), "
            "which may have been here"
        )
    elif any(stay.host is None for stay in since):
        yield (
            "a place that it came to since its evacuation was told without its host name: a way "
            "back that was told by host name alone would not be seen"
        )
    current = _current(instance)
    if current is not None:
        if not current.hypervisor_id:
            yield (
                f"where it is was told by host name alone ({current.host}): see `metaledger "
                "hypervisor unmapped`"
            )
    elif instance.deleted_at is not None:
        yield f"it is nowhere: it was deleted at {_at(instance.deleted_at)}"
    else:
        yield "the ledger does not know where it is"


def _no_evacuation(hypervisor_id: str, stays: Sequence[Stay]) -> str:
    here = [place for place, stay in enumerate(stays) if stay.hypervisor_id == hypervisor_id]
    if not here:
        return "the ledger never saw it on this hypervisor"
    after = stays[here[-1] + 1 :]
    if not after:
        return "it did not leave this hypervisor by an evacuation"
    if after[0].cause == _EVACUATION:
        return "its evacuation does not name this hypervisor by its id"
    return f"it left this hypervisor last by {after[0].cause}, and not by an evacuation"


def _of_the_asking(question: Question, facts: Facts) -> Iterator[str]:
    asking = facts.hypervisors.get(question.hypervisor_id)
    if asking is None:
        yield f"the ledger knows no such hypervisor as asks: {_TOLD_BY}"
    elif asking.removed_at is not None:
        yield f"the asking hypervisor was removed at {_at(asking.removed_at)}"
    elif asking.host != question.host:
        yield (
            f"the ledger knows the asking hypervisor as host {asking.host}, and it asks as "
            f"{question.host}: it was renamed, or another machine has its id"
        )
    if facts.unjudged:
        yield "whether a hypervisor is two machines is not judged yet: run `metaledger project`"
    yield from _of_hypervisor(facts, question.hypervisor_id, "the asking hypervisor")


def _of_the_other(question: Question, facts: Facts, instance: Instance) -> Iterator[str]:
    """Of the hypervisor where it is."""
    current = _current(instance)
    if current is None:
        return
    asking = facts.hypervisors.get(question.hypervisor_id)
    other = facts.hypervisors.get(current.hypervisor_id or "")
    if current.hypervisor_id and (other is None or not other.names):
        yield (
            "nobody registered the hypervisor where it is "
            f"({current.hypervisor_id}), so it may be the one that asks, under a second id"
        )
    here = {question.host} | (asking.names if asking else frozenset())
    there = {current.host} | (other.names if other else frozenset())
    if common := sorted(here & there):
        yield (
            f"{common[0]} is or was the host name of the asking hypervisor and of the one where it "
            "is: two machines may have one id or one name"
        )
    if current.hypervisor_id:
        yield from _of_hypervisor(facts, current.hypervisor_id, "the hypervisor where it is")


def _of_hypervisor(facts: Facts, hypervisor_id: str, name: str) -> Iterator[str]:
    if hypervisor_id in facts.duplicates:
        yield f"{name} may be two machines: see `metaledger anomalies --kind hypervisor_duplicate`"
    if f"hypervisor:{hypervisor_id}" in facts.waiting:
        yield f"events of {name} wait: see `metaledger quarantine list`"


def _of_what_waits(facts: Facts, aggregate: str, since: Sequence[Stay]) -> Iterator[str]:
    if aggregate in facts.waiting:
        yield "events of it wait: see `metaledger quarantine list`"
    nameless_at = facts.nameless_at
    if nameless_at is not None and not (
        since and nameless_at < facts.moves[since[0].event_id].recorded_at
    ):
        yield (
            f"a record of {_at(nameless_at)} may be about it, for nobody can read its key: "
            "see `metaledger quarantine list`"
        )


def _of_projection(facts: Facts) -> Iterator[str]:
    lag = sum(max(end - facts.checkpoints.get(n, 0), 0) for n, end in facts.ends.items())
    if lag:
        yield f"{lag:,} of the log's records are not projected yet: run `metaledger project`"


def _of_sources(question: Question, facts: Facts, since: Sequence[Stay]) -> Iterator[str]:
    awaited = question.sources or frozenset(facts.sources)
    if question.offline:
        if awaited:
            yield (
                f"--offline is for a ledger that is fed by files alone, and source {min(awaited)} "
                "is waited for in this one"
            )
        return
    if not awaited:
        yield (
            "no source has reported: is its relay running? (--offline judges a ledger that is fed "
            "by files alone)"
        )
        return
    told_by = {
        facts.moves[stay.event_id].stream_id for stay in since if stay.event_id in facts.moves
    }
    for stream_id in sorted(awaited | told_by):
        for trouble in _of_source(question, facts, facts.sources.get(stream_id)):
            yield f"source {stream_id} {trouble}: see `metaledger status`"


def _of_source(question: Question, facts: Facts, source: Source | None) -> Iterator[str]:
    """What keeps a source from being fresh."""
    if source is None:
        yield "tells where instances are, and has never reported how far it is"
        return
    if source.partitions < facts.log[1]:
        yield "has not reported for every partition"
    age_s = (facts.now - source.reported_at).total_seconds()
    # Not the other way round: a limit that is no number is kept by nothing.
    if not age_s <= question.source_lag_max_s:
        yield f"has not reported since {_at(source.reported_at)}"
    # Its clock or ours is wrong, and then nobody knows how old the report is.
    if age_s < -question.source_lag_max_s:
        yield f"reports from the future ({_at(source.reported_at)})"
    if source.rows_waiting or source.oldest_unsent_at is not None:
        yield "has events that are not sent yet"
    if source.unrecorded_aggregates:
        yield (
            f"lacks changes of {source.unrecorded_aggregates:,} aggregates (`metaledger reconcile "
            "… --mend` tells them)"
        )


def _allowed(question: Question, since: Sequence[Stay]) -> str:
    first, last = since[0], since[-1]
    told = (
        f"it was evacuated from this hypervisor at {_at(first.since)}, and is on hypervisor "
        f"{last.hypervisor_id} since {_at(last.since)}"
    )
    return f"{told} (offline: no source was waited for)" if question.offline else told


def _at(time: datetime) -> str:
    return seconds_only(time_text(time))


def _sentence(parts: Sequence[str]) -> str:
    return "; ".join(parts)

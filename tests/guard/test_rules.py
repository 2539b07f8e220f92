"""The rules of the guard, alone: what an ALLOW takes, told once more from the events themselves."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceDeleted,
    InstanceRelocated,
    RelocationCause,
    Verdict,
)
from metaledger.services.guard import (
    Facts,
    Hypervisor,
    Instance,
    Move,
    Question,
    Source,
    Stay,
    judge,
)

from ..folds.histories import START, event
from ..folds.rows import Folding

HERE, THERE, ELSEWHERE = "hv-a", "hv-b", "hv-c"
HOSTS = {HERE: "a", THERE: "b", ELSEWHERE: "c"}
INSTANCE = "i-1"
NOW = START + timedelta(days=1)
CAUSES = [cause for cause in RelocationCause if cause is not RelocationCause.UNKNOWN]
QUESTION = Question(hypervisor_id=HERE, host="a", instance_uuids=(INSTANCE,), source_lag_max_s=60.0)
FRESH = Source(
    partitions=2,
    reported_at=NOW - timedelta(seconds=59),
    oldest_unsent_at=None,
    rows_waiting=0,
    unrecorded_aggregates=0,
)
EVACUATION = InstanceRelocated(
    instance_uuid=INSTANCE,
    cause=RelocationCause.EVACUATION,
    from_hypervisor_id=HERE,
    to_hypervisor_id=THERE,
    from_host="a",
    to_host="b",
)
BOOT = InstanceBooted(instance_uuid=INSTANCE, hypervisor_id=HERE, host="a")


def facts_of(datas):
    """What the read model would hold of an instance's events, with all else in order."""
    events = [
        event(data, number=n, at=START + timedelta(minutes=n)) for n, data in enumerate(datas, 1)
    ]
    tables = Folding().take(events).tables
    by_id = {each.meta.event_id: each for each in events}
    stays = [_stay(row) for row in tables.rows("instance_locations")]
    moves = {
        event_id: Move(
            left_id=getattr(each.data, "from_hypervisor_id", None),
            stream_id=each.meta.stream_id,
            recorded_at=each.meta.occurred_at,
        )
        for event_id, each in by_id.items()
    }
    rows = tables.rows("instances")
    instances = {
        row["instance_uuid"]: Instance(deleted_at=row["deleted_at"], stays=stays) for row in rows
    }
    return Facts(
        now=NOW,
        log=("log", 2),
        projected_log=("log", 2),
        ends={0: 5, 1: 7},
        checkpoints={0: 5, 1: 7},
        sources={"glance-1": FRESH},
        instances=instances,
        moves=moves,
        hypervisors=KNOWN,
        duplicates=frozenset(),
        unjudged=frozenset(),
        waiting=frozenset(),
        nameless_at=None,
    )


def _stay(row):
    return Stay(
        hypervisor_id=row["hypervisor_id"],
        likely_id={host: each for each, host in HOSTS.items()}.get(row["host"]),
        host=row["host"],
        cause=row["cause"],
        since=row["valid_from"],
        until=row["valid_to"],
        event_id=row["set_by_event"],
    )


def verdict(datas, question=QUESTION, **changed):
    [judged] = judge(question, replace(facts_of(datas), **changed))
    assert judged.reason
    return judged.verdict


IDS = st.sampled_from([None, HERE, HERE, THERE, ELSEWHERE, ""])
NAMES = st.sampled_from([None, "a", "b", "c"])


@st.composite
def histories(draw, *, told_whole):
    """Events that place an instance; `told_whole`: each place with its id and its own host name."""

    def place(prefix):
        each = draw(st.sampled_from(list(HOSTS)) if told_whole else IDS)
        host = HOSTS[each] if told_whole else draw(NAMES)
        return {f"{prefix}hypervisor_id": each, f"{prefix}host": host}

    found = []
    for kind in draw(st.lists(st.sampled_from("bmmmmd"), max_size=8)):
        if kind == "b":
            found.append(InstanceBooted(instance_uuid=INSTANCE, **place("")))
        elif kind == "d":
            found.append(InstanceDeleted(instance_uuid=INSTANCE, deleted_at=START))
        else:
            cause = draw(st.sampled_from([RelocationCause.EVACUATION, *CAUSES]))
            both = place("from_") | place("to_")
            found.append(InstanceRelocated(instance_uuid=INSTANCE, cause=cause, **both))
    return found


def evacuated_for_good(datas):
    """Whether an evacuation from here to another hypervisor is told by ids, and nothing behind it
    tells of this hypervisor, or of a place that may be this one, or of a deletion at the end.
    """
    leaves = [
        n
        for n, data in enumerate(datas)
        if isinstance(data, InstanceRelocated)
        and data.cause is RelocationCause.EVACUATION
        and data.from_hypervisor_id == HERE
        and data.to_hypervisor_id not in (None, "", HERE)
    ]
    if not leaves:
        return False
    behind = datas[leaves[-1] + 1 :]
    told = [
        place
        for data in behind
        if not isinstance(data, InstanceDeleted)
        for place in (
            [(data.hypervisor_id, data.host)]
            if isinstance(data, InstanceBooted)
            else [
                (data.from_hypervisor_id, data.from_host),
                (data.to_hypervisor_id, data.to_host),
            ]
        )
    ]
    may_be_here = any(each == HERE or (not each and host == "a") for each, host in told)
    ends = bool(behind) and isinstance(behind[-1], InstanceDeleted)
    return not may_be_here and not ends


@settings(max_examples=200, deadline=None)
@given(histories(told_whole=False))
def test_nothing_is_allowed_that_was_not_evacuated_for_good(datas):
    if verdict(datas) is Verdict.ALLOW:
        assert evacuated_for_good(datas)


def naive(datas):
    """The verdict, where every place is told whole: by the way that the instance went."""
    way = []
    for data in datas:
        match data:
            case InstanceDeleted():
                way.append(None)
            case InstanceBooted():
                way.append((data.hypervisor_id, "BOOTED"))
            case InstanceRelocated():
                way += [(data.from_hypervisor_id, "UNSEEN"), (data.to_hypervisor_id, data.cause)]
    # To be told to be where one is moves nothing.
    stays = [
        step
        for n, step in enumerate(way)
        if n == 0 or step is None or way[n - 1] is None or step[0] != way[n - 1][0]
    ]
    if not stays or stays[-1] is None:
        return Verdict.UNKNOWN
    if stays[-1][0] == HERE:
        return Verdict.DENY
    at = max((n for n, stay in enumerate(stays) if stay and stay[0] == HERE), default=None)
    left = stays[at + 1] if at is not None else None
    return Verdict.ALLOW if left and left[1] == "EVACUATION" else Verdict.UNKNOWN


@settings(max_examples=200, deadline=None)
@given(histories(told_whole=True))
def test_what_is_told_whole_is_judged_as_it_went(datas):
    assert verdict(datas) is naive(datas)


def changed(source=FRESH, **what):
    return {"sources": {"glance-1": replace(source, **what)}}


KNOWN = {
    each: Hypervisor(host=host, removed_at=None, names=frozenset({host}))
    for each, host in HOSTS.items()
}


def hypervisor(each, **what):
    return {"hypervisors": {**KNOWN, each: replace(KNOWN[each], **what)}}


def without(*those):
    return {"hypervisors": {each: it for each, it in KNOWN.items() if each not in those}}


MISSING = {
    "another log": {"projected_log": ("other", 2)},
    "other partitions": {"projected_log": ("log", 1)},
    "one record behind": {"checkpoints": {0: 5, 1: 6}},
    "a partition that was never projected": {"checkpoints": {0: 5}},
    "no source": {"sources": {}},
    "a silent source": changed(reported_at=NOW - timedelta(seconds=61)),
    "a report from the future": changed(reported_at=NOW + timedelta(seconds=61)),
    "an unsent event": changed(rows_waiting=1),
    "an unsent event, by its age": changed(oldest_unsent_at=NOW),
    "an unrecorded change": changed(unrecorded_aggregates=1),
    "a partition not reported": changed(partitions=1),
    "another source is silent": {
        "sources": {"glance-1": FRESH, "b": replace(FRESH, reported_at=START)}
    },
    "its own source never reported": {"sources": {"b": FRESH}},
    "parked": {"waiting": frozenset({f"instance:{INSTANCE}"})},
    "the asking one parked": {"waiting": frozenset({f"hypervisor:{HERE}"})},
    "the other one parked": {"waiting": frozenset({f"hypervisor:{THERE}"})},
    "a nameless record since": {"nameless_at": START + timedelta(minutes=2)},
    "a duplicate here": {"duplicates": frozenset({HERE})},
    "a duplicate there": {"duplicates": frozenset({THERE})},
    "not judged here": {"unjudged": frozenset({HERE})},
    "not judged there": {"unjudged": frozenset({THERE})},
    "neither is registered": {"hypervisors": {}},
    "the asking one was never registered": without(HERE),
    "the other one was never registered": without(THERE),
    "the other one has no name": hypervisor(THERE, host=None, names=frozenset()),
    "removed": hypervisor(HERE, removed_at=START),
    "known by another host name": hypervisor(HERE, host="z"),
    "a host name in common": hypervisor(HERE, names=frozenset({"a", "b"})),
    "a host name in common, there": hypervisor(THERE, names=frozenset({"a", "b"})),
}


def test_who_is_not_known_is_told_by_a_command_that_the_reason_names():
    facts = replace(facts_of([BOOT, EVACUATION]), hypervisors={})
    unknown = replace(QUESTION, instance_uuids=(INSTANCE, "i-2"))
    for judged in judge(unknown, facts):
        assert "`metaledger reconcile nova URL --mend` tells it" in judged.reason


@pytest.mark.parametrize("what", MISSING)
def test_each_condition_is_needed_for_an_allow(what):
    assert verdict([BOOT, EVACUATION]) is Verdict.ALLOW
    assert verdict([BOOT, EVACUATION], **MISSING[what]) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "fine",
    [
        {"nameless_at": START + timedelta(minutes=1)},
        {"waiting": frozenset({"instance:i-2", f"hypervisor:{ELSEWHERE}", "image:i"})},
        {"duplicates": frozenset({ELSEWHERE})},
        hypervisor(THERE, removed_at=START),
    ],
    ids=["older nameless record", "others wait", "another duplicate", "the other one is gone"],
)
def test_what_is_about_others_or_before_is_in_nobodys_way(fine):
    assert verdict([BOOT, EVACUATION], **fine) is Verdict.ALLOW


@pytest.mark.parametrize("what", [name for name in MISSING if "log" not in name])
def test_what_is_here_is_denied_whatever_else_is_wrong(what):
    if what != "other partitions":
        assert verdict([BOOT], **MISSING[what]) is Verdict.DENY


def test_of_another_log_nothing_is_told_but_unknown():
    assert verdict([BOOT], **MISSING["another log"]) is Verdict.UNKNOWN


def test_the_sources_that_are_named_are_awaited_and_no_others():
    silent = replace(FRESH, reported_at=START)
    named = replace(QUESTION, sources=frozenset({"glance-1"}))
    sources = {"glance-1": FRESH, "spool": silent}
    assert verdict([BOOT, EVACUATION], sources=sources) is Verdict.UNKNOWN
    assert verdict([BOOT, EVACUATION], named, sources=sources) is Verdict.ALLOW
    # But for those that told of the instance, and one that is named has to be there.
    sources = {"glance-1": silent, "spool": FRESH}
    other = replace(QUESTION, sources=frozenset({"spool"}))
    assert verdict([BOOT, EVACUATION], other, sources=sources) is Verdict.UNKNOWN
    assert verdict([BOOT, EVACUATION], named, sources={}) is Verdict.UNKNOWN


def test_a_limit_that_is_no_number_lets_nothing_pass():
    question = replace(QUESTION, source_lag_max_s=float("nan"))
    assert verdict([BOOT, EVACUATION], question) is Verdict.UNKNOWN


def test_offline_waits_for_no_source_where_there_is_none():
    offline = replace(QUESTION, offline=True)
    assert verdict([BOOT, EVACUATION], offline, sources={}) is Verdict.ALLOW
    assert verdict([BOOT, EVACUATION], offline) is Verdict.UNKNOWN
    assert verdict([BOOT, EVACUATION], offline, checkpoints={}, sources={}) is Verdict.UNKNOWN


def test_another_machine_with_the_same_id_is_not_allowed_what_it_runs():
    as_host_of_the_other = replace(QUESTION, host="b")
    renamed = hypervisor(HERE, host="b", names=frozenset({"a", "b"}))
    assert verdict([BOOT, EVACUATION], as_host_of_the_other, **renamed) is Verdict.UNKNOWN


def test_a_place_by_host_name_alone_denies_and_never_allows():
    by_name = InstanceBooted(instance_uuid=INSTANCE, host="a")
    assert verdict([by_name]) is Verdict.DENY
    assert verdict([replace(by_name, host="b")]) is Verdict.UNKNOWN
    to_name = replace(EVACUATION, to_hypervisor_id=None)
    assert verdict([BOOT, to_name]) is Verdict.UNKNOWN
    from_name = replace(EVACUATION, from_hypervisor_id=None)
    assert verdict([BOOT, from_name]) is Verdict.UNKNOWN
    back = InstanceRelocated(
        instance_uuid=INSTANCE,
        cause=RelocationCause.LIVE_MIGRATION,
        to_host="d",
    )
    away = replace(back, to_hypervisor_id=THERE, to_host="b")
    assert verdict([BOOT, EVACUATION, back, away]) is Verdict.UNKNOWN

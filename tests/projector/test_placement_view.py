"""Where a stay was that was told by host name alone: the view against the tables it is made of."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from metaledger.schemas.events import Event, EventData
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.instance import InstanceBooted, InstanceRelocated, RelocationCause

from ..folds.histories import PAUSES, START, event
from ..store.readmodels import Dump, Place, dump, empty, engine_of, kept_open
from .ledgers import Ledger

HYPERVISORS = st.sampled_from(["hv-1", "hv-2", "hv-3"])
INSTANCES = st.sampled_from(["i-1", "i-2"])
HOSTS = st.sampled_from(["a", "b"])
MAYBE = st.sampled_from([None, None, "hv-1", "hv-2"])
TOLD: st.SearchStrategy[EventData] = st.one_of(
    st.builds(
        HypervisorRegistered,
        hypervisor_id=HYPERVISORS,
        id_source=st.just(IdSource.FILE),
        host=HOSTS,
        hypervisor_type=st.sampled_from([None, "QEMU", "QEMU", "ironic"]),
    ),
    st.builds(HypervisorHostChanged, hypervisor_id=HYPERVISORS, from_host=HOSTS, to_host=HOSTS),
    st.builds(HypervisorRemoved, hypervisor_id=HYPERVISORS),
    st.builds(InstanceBooted, instance_uuid=INSTANCES, hypervisor_id=MAYBE, host=HOSTS),
    st.builds(
        InstanceRelocated,
        instance_uuid=INSTANCES,
        cause=st.just(RelocationCause.LIVE_MIGRATION),
        to_hypervisor_id=MAYBE,
        to_host=HOSTS,
    ),
)
some = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def clouds(draw: st.DrawFn) -> list[Event]:
    """Hypervisors that are named, renamed and removed, and instances that are on some of them."""
    at, numbers = START, Counter[str]()
    events = []
    for data in draw(st.lists(TOLD, min_size=1, max_size=12)):
        at += timedelta(microseconds=draw(PAUSES))
        numbers[str(data.aggregate)] += 1
        events.append(event(data, number=numbers[str(data.aggregate)], at=at))
    return events


def test_a_stay_is_where_one_hypervisor_had_its_host_name(place: Place, tmp_path: Path) -> None:
    url = place()
    count = 0

    @some
    @given(clouds())
    def agree(events: list[Event]) -> None:
        nonlocal count
        count += 1
        empty(url)
        ledger = Ledger(tmp_path / f"placement-{count}.db")
        ledger.append(*events)
        ledger.project(url)
        ledger.log.close()
        assert shown(url) == sorted(map(repr, derived(dump(url))))

    with kept_open(url):
        agree()


def shown(url: str) -> list[str]:
    query = (
        "SELECT instance_uuid, version, told_hypervisor_id, hypervisor_id, resolved_by, host"
        " FROM instance_hypervisors"
    )
    with engine_of(url) as engine, engine.connect() as connection:
        return sorted(repr(tuple(row)) for row in connection.execute(text(query)))


def derived(tables: Dump) -> list[tuple[Any, ...]]:
    types = {row["hypervisor_id"]: row["hypervisor_type"] for row in tables["hypervisors"]}
    found = []
    for stay in tables["instance_locations"]:
        told = stay["hypervisor_id"]
        had_it = {
            row["hypervisor_id"]
            for row in tables["hypervisor_hosts"]
            if row["host"] == stay["host"] and overlap(row, stay)
        }
        if told is not None:
            where, by = told, "id"
        elif not had_it:
            where, by = None, "unknown"
        elif len(had_it) == 1 and types[min(had_it)] != "ironic":
            where, by = min(had_it), "host"
        else:
            where, by = None, "ambiguous"
        found.append((stay["instance_uuid"], stay["version"], told, where, by, stay["host"]))
    return found


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        first["valid_to"] is None or first["valid_to"] > second["valid_from"]
        for first, second in ((one, other), (other, one))
    )

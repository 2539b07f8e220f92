"""Random histories of hypervisors.

`realistic` simulates a cloud's compute host: it is registered, renamed, removed and registered
again, as its service tells it; with `faults` some of that goes unrecorded. `wild` says anything
that the contract lets one say.
"""

from datetime import timedelta

from hypothesis import strategies as st

from metaledger.schemas.events import Event, EventData
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.meta import Origin

from .histories import ORIGINS, PAUSES, START, TEXTS, event

HYPERVISOR = "3b1f6c1e-8a55-4f3e-9d2e-0c6f5d3f7a10"
HOSTS = st.sampled_from(["a", "b", "c", "", "höst"])
SOURCES = st.sampled_from([IdSource.NATIVE, IdSource.FILE, IdSource.DERIVED])


def _registered(name: str, host: st.SearchStrategy[str]) -> st.SearchStrategy[EventData]:
    return st.builds(
        HypervisorRegistered,
        hypervisor_id=st.just(name),
        id_source=SOURCES,
        host=host,
        hypervisor_hostname=TEXTS | st.just(""),
        hypervisor_type=TEXTS,
    )


@st.composite
def wild(draw: st.DrawFn, name: str = HYPERVISOR, *, events_max: int = 8) -> list[Event]:
    """Anything, in any order."""
    anything = st.one_of(
        _registered(name, HOSTS),
        st.builds(
            HypervisorHostChanged, hypervisor_id=st.just(name), from_host=HOSTS, to_host=HOSTS
        ),
        st.just(HypervisorRemoved(hypervisor_id=name)),
    )
    at = START
    events = []
    for number in range(1, draw(st.integers(1, events_max)) + 1):
        at += timedelta(microseconds=draw(PAUSES))
        events.append(event(draw(anything), number=number, at=at, origin=draw(ORIGINS)))
    return events


@st.composite
def realistic(
    draw: st.DrawFn, name: str = HYPERVISOR, *, events_max: int = 10, faults: bool = True
) -> list[Event]:
    """A compute host's life; each event tells the host as it then was."""
    host: str | None = None
    at = START
    events: list[Event] = []
    for _ in range(draw(st.integers(1, events_max))):
        at += timedelta(microseconds=draw(PAUSES))
        origin = Origin.OBSERVED
        data: EventData
        if host is None:
            host = draw(HOSTS)
            data = draw(_registered(name, st.just(host)))
            origin = draw(st.sampled_from([Origin.OBSERVED, Origin.IMPORTED]))
        elif draw(st.integers(0, 3)) == 0:
            host, data = None, HypervisorRemoved(hypervisor_id=name)
        else:
            before, host = host, draw(HOSTS.filter(lambda new, old=host: new != old))
            data = HypervisorHostChanged(hypervisor_id=name, from_host=before, to_host=host)
        if not (faults and draw(st.integers(0, 5)) == 0):
            events.append(event(data, number=len(events) + 1, at=at, origin=origin))
    return events

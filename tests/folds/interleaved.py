"""Random histories of every aggregate, alone and interleaved in one log."""

from hypothesis import strategies as st

from metaledger.schemas.events import Event

from . import histories, hypervisor_histories, instance_histories

# Any history of one aggregate with that id.
HISTORIES = {
    "image": lambda name: histories.realistic(name) | histories.wild(name),
    "instance": lambda name: instance_histories.realistic(name) | instance_histories.wild(name),
    "hypervisor": lambda name: (
        hypervisor_histories.realistic(name) | hypervisor_histories.wild(name)
    ),
}


@st.composite
def ledgers(draw: st.DrawFn, *, aggregates_max: int = 3) -> list[Event]:
    """Histories of several aggregates, interleaved; each keeps its own order."""
    waiting = []
    for number in range(draw(st.integers(1, aggregates_max))):
        kind = draw(st.sampled_from(sorted(HISTORIES)))
        waiting.append(draw(HISTORIES[kind](f"{kind}-{number}")))
    source = draw(st.randoms(use_true_random=False))
    events = []
    while any(waiting):
        events.append(source.choice([history for history in waiting if history]).pop(0))
    return events

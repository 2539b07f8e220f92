"""Several at one compute node at the same time: each thing that happened to it is told once."""

from functools import partial
from pathlib import Path

from metaledger.producers.nova_compute.identity import Identity
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
)

from ..folds.rows import Folding
from ..glance.ledger import recorded
from .cell import HOSTS, UUID, Cell
from .held import SPOOL
from .racing import (
    COMING,
    NODES,
    assert_numbers_have_no_holes,
    at_once,
    compute_service,
    differences,
    hypervisor,
    retried,
)

PROCESSES, ROUNDS = 4, 2


def live(nova: Cell, folder: Path, *, is_last: bool) -> None:
    """The node comes, is seen by all, gets another name and goes; meanwhile it is tracked, and so
    are the others, on which an instance moves.
    """
    compute = [compute_service(folder) for _ in range(PROCESSES)]
    compute[0].lacking([COMING])
    retried(lambda: nova.claim(COMING, "host-3", NODES[COMING]))
    for host in ("host-3", "host-4"):
        at_once([partial(work, nova, it, host) for it in compute])
    if not is_last:
        at_once([partial(remove, nova)] * PROCESSES)


def work(nova: Cell, compute: Identity, host: str) -> None:
    nodes = {uuid: known for known, uuid in HOSTS.items()} | {COMING: host}
    for uuid, known in nodes.items():
        retried(partial(nova.track, uuid, known))
        compute.seen([hypervisor(uuid, known)])
    for known in HOSTS:
        retried(partial(nova.place, known))
    assert compute.failures == 0


def remove(nova: Cell) -> None:
    retried(lambda: nova.remove(COMING))
    retried(nova.archive)


def test_each_thing_that_happens_to_a_hypervisor_is_told_once(raced: Cell, tmp_path: Path) -> None:
    raced.boot()
    for number in range(1, ROUNDS + 1):
        live(raced, tmp_path, is_last=number == ROUNDS)
    assert differences(raced, tmp_path, right=["hypervisor_host_changed"]) == []
    spooled = [
        it for it in recorded(f"sqlite:///{tmp_path}/{SPOOL}") if it.meta.aggregate.endswith(COMING)
    ]
    removed = raced.events(COMING, "hypervisor")
    for its in (spooled, removed, raced.events(UUID)):
        assert_numbers_have_no_holes(its)
    told = sorted([*spooled, *removed], key=lambda it: it.meta.occurred_at)
    kinds = [HypervisorRegistered, HypervisorHostChanged, HypervisorRemoved] * ROUNDS
    assert [type(it.data) for it in told] == kinds[:-1]
    anomalies = Folding().take(told).tables.rows("anomalies")
    assert {it["kind"] for it in anomalies} == {"hypervisor_host_changed"}

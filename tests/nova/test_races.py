"""Conductors that save at the same time: the ledger ends where Nova's database does."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from sqlalchemy.exc import OperationalError

from metaledger.schemas.instance import InstanceRelocated

from ..folds.rows import Folding
from .cell import HOSTS, UUID, Cell, cell

CONDUCTORS, SAVES = 4, 12
OTHERS = [f"0b7a4f2e-6d1c-4c3e-9a51-{number:012d}" for number in range(CONDUCTORS)]


@pytest.fixture(
    params=[
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def nova(request: pytest.FixtureRequest) -> Iterator[Cell]:
    with cell(request.getfixturevalue(f"{request.param}_url")) as made:
        yield made


def retried(save: Callable[[], None]) -> None:
    """As oslo.db does after a deadlock; whatever else goes wrong is raised."""
    for _ in range(50):
        try:
            return save()
        except OperationalError as error:
            if "eadlock" not in str(error):
                raise
    raise AssertionError("a deadlock each time")


def work(nova: Cell, number: int) -> None:
    """One conductor's: saves of the instance that all save, and an instance of its own."""
    random, own = Random(number), OTHERS[number]
    retried(lambda: nova.boot(own))
    for count in range(SAVES):
        uuid = random.choice([UUID, own])
        if random.random() < 0.3:
            retried(lambda uuid=uuid: nova.place(random.choice([*HOSTS, None]), uuid))
        else:
            metadata = {f"image_{number}": str(count), "image_shared": str(number)}
            retried(lambda uuid=uuid, kept=metadata: nova.save(uuid, metadata=kept))
    retried(lambda: nova.destroy(own))


def test_the_ledger_ends_where_racing_conductors_leave_the_database(nova: Cell) -> None:
    nova.boot()
    with ThreadPoolExecutor(CONDUCTORS) as pool:
        for done in [pool.submit(work, nova, number) for number in range(CONDUCTORS)]:
            done.result()
    events = [event for uuid in (UUID, *OTHERS) for event in nova.events(uuid)]
    assert not [event for event in events if event.meta.missed]
    tables = Folding().take(events).tables
    stored = {
        it["key"]: it["value"]
        for it in tables.rows("instance_metadata_history")
        if it["valid_to"] is None and it["instance_uuid"] == UUID
    }
    assert stored == nova.metadata()
    gone = {it["instance_uuid"] for it in tables.rows("instances") if it["deleted_at"] is not None}
    assert gone == set(OTHERS)
    assert "history_gap" not in {it["kind"] for it in tables.rows("anomalies")}
    moved = [it.data for it in nova.events() if isinstance(it.data, InstanceRelocated)]
    for left, arrived in zip(moved[1:], moved, strict=False):
        assert left.from_hypervisor_id == arrived.to_hypervisor_id

"""Conductors at the same instances at the same time: the ledger ends where Nova's database does."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from metaledger.schemas.events import Event
from metaledger.schemas.instance import (
    InstanceDeleted,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceSystemMetadataSaved,
)

from ..folds.rows import Folding
from .cell import HOSTS, OTHER, SNAPSHOT, UUID, Cell
from .racing import (
    assert_numbers_have_no_holes,
    at_once,
    compute_service,
    differences,
    hypervisor,
    retried,
)

CONDUCTORS, TURNS = 4, 6
DOOMED = "9c1e0f7a-55a1-4d0e-8a53-0a2f0f1d2c33"
SHARED = [UUID, OTHER, DOOMED]
OWN = [f"0b7a4f2e-6d1c-4c3e-9a51-{number:012d}" for number in range(CONDUCTORS)]
GONE = [DOOMED, *OWN]
IDLE = {"vm_state": "active", "task_state": None}
OF_IMAGE = ("image_base_image_ref", "image_min_disk")


@dataclass(frozen=True)
class Rebuild:
    """One of which both transactions were committed."""

    uuid: str
    request_id: str
    image_ref: str


class Conductor:
    """Serves one request after the other, of the instances that all serve and of one of its own."""

    def __init__(self, nova: Cell, number: int, serving: threading.local) -> None:
        self.rebuilds: list[Rebuild] = []
        self._nova = nova
        self._number = number
        self._serving = serving
        self._random = Random(number)

    def work(self) -> None:
        own = OWN[self._number]
        retried(lambda: self._nova.boot(own))
        retried(lambda: self._nova.spawned(uuid=own))
        for turn in range(TURNS):
            self._serving.request = SimpleNamespace(request_id=f"req-{self._number}-{turn}")
            if turn == TURNS // 2:
                retried(lambda: self._nova.destroy(DOOMED))
            (serve,) = self._random.choices(
                [self._note, self._move, self._rebuild, self._shelve], [3, 3, 3, 1]
            )
            serve(self._random.choice([*SHARED, own]), turn)
        retried(lambda: self._nova.destroy(own))

    def _note(self, uuid: str, turn: int) -> None:
        key = self._random.choice(["old_vm_state", "owner_project_name", "owner_user_name"])
        retried(lambda: self._nova.note(uuid, **{key: f"{self._number}-{turn}"}))

    def _move(self, uuid: str, _turn: int) -> None:
        host = self._random.choice([*HOSTS, None])
        retried(lambda: self._nova.place(host, uuid))

    def _rebuild(self, uuid: str, turn: int) -> None:
        """`API.rebuild` and what its compute says of it. Others' notes of meanwhile are lost, as
        they are in Nova.
        """
        nova, image = self._nova, f"image-{self._number}-{turn}"
        kept = {key: it for key, it in nova.metadata(uuid).items() if not key.startswith("image_")}
        metadata = kept | {"image_base_image_ref": image, "image_min_disk": image}
        if not self._begin(uuid, image_ref=image, task_state="rebuilding"):
            return
        if retried(lambda: nova.save(uuid, metadata=metadata)):
            self.rebuilds.append(Rebuild(uuid, self._serving.request.request_id, image))
        retried(lambda: nova.save(uuid, task_state="rebuild_spawning"))
        retried(lambda: nova.save(uuid, **IDLE))

    def _shelve(self, uuid: str, _turn: int) -> None:
        """It is offloaded, and unshelved from its snapshot."""
        nova = self._nova
        # Deleted meanwhile, its row would name the snapshot for ever.
        if uuid == DOOMED or not self._begin(uuid, task_state="shelving"):
            return
        kept, image = nova.metadata(uuid), nova.image_ref(uuid)
        shelved = kept | {"shelved_at": "2026", "shelved_image_id": SNAPSHOT}
        offloaded = {"vm_state": "shelved_offloaded", "task_state": None}
        retried(lambda: nova.save(uuid, vm_state="shelved", metadata=shelved))
        retried(lambda: nova.place(None, uuid, **offloaded))
        retried(lambda: nova.save(uuid, task_state="spawning"))
        retried(lambda: nova.place("host-2", uuid, image_ref=SNAPSHOT))
        retried(lambda: nova.save(uuid, image_ref=image, metadata=kept, **IDLE))

    def _begin(self, uuid: str, **values: str) -> bool:
        """Whether nobody else was at it."""
        return retried(lambda: self._nova.save(uuid, expected=IDLE, **values))


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """The request that a thread serves, as oslo knows it."""
    current = threading.local()
    module = SimpleNamespace(get_current=lambda: getattr(current, "request", None))
    monkeypatch.setitem(sys.modules, "oslo_context.context", module)
    return current


def test_the_ledger_ends_where_racing_conductors_leave_the_database(
    raced: Cell, serving: threading.local, tmp_path: Path
) -> None:
    compute_service(tmp_path).seen([hypervisor(uuid, host) for host, uuid in HOSTS.items()])
    for uuid in SHARED:
        raced.boot(uuid)
        raced.spawned(uuid=uuid)
    conductors = [Conductor(raced, number, serving) for number in range(CONDUCTORS)]
    at_once([it.work for it in conductors])
    assert differences(raced, tmp_path) == []
    events = {uuid: raced.events(uuid) for uuid in (*SHARED, *OWN)}
    for uuid, its in events.items():
        assert_numbers_have_no_holes(its)
        assert_leaves_where_it_came(its)
        told = [it.data for it in its]
        assert len([it for it in told if isinstance(it, InstanceDeleted)]) == (uuid in GONE)
    assert any(it.rebuilds for it in conductors)
    for rebuild in [one for it in conductors for one in it.rebuilds]:
        assert_is_one_fact(rebuild, events[rebuild.uuid])


def assert_leaves_where_it_came(events: Sequence[Event]) -> None:
    moved = [it.data for it in events if isinstance(it.data, InstanceRelocated)]
    for left, arrived in zip(moved[1:], moved, strict=False):
        assert left.from_hypervisor_id == arrived.to_hypervisor_id


def assert_is_one_fact(rebuild: Rebuild, events: Sequence[Event]) -> None:
    """The rebuild is told once and completed by its own save, by which its image's metadata is the
    instance's by right.
    """
    told = [it for it in events if it.meta.request_id == rebuild.request_id]
    begun, completed = told
    assert isinstance(begun.data, InstanceRebuilt)
    assert isinstance(completed.data, InstanceSystemMetadataSaved)
    assert (begun.data.image_ref, completed.data.operation) == (rebuild.image_ref, "rebuild")
    by_right = {
        it["key"]: (it["value"], it["set_via"])
        for it in Folding().take(events).tables.rows("instance_attribute_history")
        if it["kind"] == "authoritative" and it["set_by_event"] == completed.meta.event_id
    }
    assert by_right == dict.fromkeys(OF_IMAGE, (rebuild.image_ref, "rebuilt"))

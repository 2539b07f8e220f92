"""A hypervisor is told when it is new or reached by another name, and once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from metaledger.producers.nova_compute import identity
from metaledger.producers.nova_compute.identity import Hypervisor, Identity
from metaledger.producers.spool import Spool
from metaledger.producers.tables import outbox
from metaledger.schemas.hypervisor import (
    HypervisorEvent,
    HypervisorHostChanged,
    HypervisorRegistered,
    IdSource,
)

from .kit import CODEC, SETTINGS

HERE = Hypervisor(
    hypervisor_id="3b1f6c1e-8a55-4f3e-9d2e-0c6f5d3f7a10",
    id_source=IdSource.FILE,
    host="compute-a",
    hypervisor_hostname="compute-a.example.org",
    hypervisor_type="QEMU",
)
REGISTERED = HypervisorRegistered(
    hypervisor_id=HERE.hypervisor_id,
    id_source=IdSource.FILE,
    host="compute-a",
    hypervisor_hostname="compute-a.example.org",
    hypervisor_type="QEMU",
)
RENAMED = HypervisorHostChanged(
    hypervisor_id=HERE.hypervisor_id, from_host="compute-a", to_host="compute-b"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def new_identity(path: Path) -> Identity:
    """Of a process that starts."""
    return Identity(Spool(path, SETTINGS, wait_s=0), SETTINGS.context)


def told(path: Path) -> Sequence[HypervisorEvent]:
    columns = (outbox.c.value, outbox.c.sha256)
    with Spool(path, SETTINGS).engine.connect() as connection:
        rows = connection.execute(select(*columns).order_by(outbox.c.id)).all()
    return [CODEC.decode(bytes(value), bytes(sha256)).data for value, sha256 in rows]


def test_a_hypervisor_is_registered_once_whatever_restarts(path: Path) -> None:
    for _ in range(2):
        started = new_identity(path)
        started.seen([HERE])
        started.seen([HERE])
    assert told(path) == [REGISTERED]


@pytest.mark.parametrize("restarts", [True, False])
def test_another_host_name_is_told_and_the_way_back_too(path: Path, restarts: bool) -> None:
    back = HypervisorHostChanged(
        hypervisor_id=HERE.hypervisor_id, from_host="compute-b", to_host="compute-a"
    )
    process = new_identity(path)
    for host in ("compute-a", "compute-b", "compute-b", "compute-a"):
        (new_identity(path) if restarts else process).seen([replace(HERE, host=host)])
    assert told(path) == [REGISTERED, RENAMED, back]


def test_a_lost_id_is_logged_and_both_claim_the_host(path: Path) -> None:
    new_identity(path).seen([HERE])
    with capture_logs() as logs:
        new_identity(path).seen([replace(HERE, hypervisor_id="another")])
    assert [log["log_level"] for log in logs] == ["error"]
    assert "compute_id lost" in logs[0]["event"]
    assert logs[0]["before"] == [HERE.hypervisor_id]
    assert [(it.hypervisor_id, it.host) for it in told(path)] == [
        (HERE.hypervisor_id, "compute-a"),
        ("another", "compute-a"),
    ]


def test_a_copied_id_is_logged_and_told_where_it_is(path: Path) -> None:
    with capture_logs() as logs:
        new_identity(path).seen([replace(HERE, host="compute-b", known_host="compute-a")])
    assert "compute_id copied" in logs[0]["event"]
    assert (logs[0]["host"], logs[0]["known_host"]) == ("compute-b", "compute-a")
    assert [it.host for it in told(path)] == ["compute-b"]


def test_nodes_of_ironic_come_and_go_without_an_error(path: Path) -> None:
    with capture_logs() as logs:
        for name in ("node-1", "node-2"):
            native = replace(HERE, hypervisor_id=name, id_source=IdSource.NATIVE)
            new_identity(path).seen([native])
    assert logs == []
    assert len(told(path)) == 2


def test_a_spool_that_cannot_be_written_fails_nobody_and_is_tried_again(path: Path) -> None:
    path.mkdir()
    started = new_identity(path)
    started.seen([HERE])
    assert started.failures == 1
    path.rmdir()
    started.seen([HERE])
    assert told(path) == [REGISTERED]


class ComputeManager:
    """Of the shape that is wrapped; the real one runs in `tests/nova_compute`."""

    host = "compute-b"

    def __init__(self, found: dict[str, object] | Exception) -> None:
        self.found = found
        names = {HERE.hypervisor_id: HERE.hypervisor_hostname}
        self.driver = SimpleNamespace(get_nodenames_by_uuid=lambda: names)

    def _get_nodes(self, _context: None) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_a_host_that_nova_refuses_is_told_all_the_same(path: Path) -> None:
    module = SimpleNamespace(ComputeManager=type("Copy", (ComputeManager,), {}))
    started = new_identity(path)
    identity.install(lambda: started, module)
    assert module.ComputeManager({})._get_nodes(None) == {}
    assert told(path) == []
    with pytest.raises(ValueError, match="refused"):
        module.ComputeManager(ValueError("refused"))._get_nodes(None)
    assert [it.host for it in told(path)] == ["compute-b"]


class ResourceTracker:
    """Likewise: it makes the compute nodes that Nova's database lacks, or lacks again."""

    host = "compute-a"

    def __init__(self) -> None:
        node = SimpleNamespace(
            uuid=HERE.hypervisor_id,
            hypervisor_hostname=HERE.hypervisor_hostname,
            hypervisor_type=HERE.hypervisor_type,
        )
        self.compute_nodes = {node.hypervisor_hostname: node}

    def update_available_resource(self) -> None:
        """Nothing here."""


def test_a_hypervisor_that_was_removed_and_comes_back_is_registered_again(path: Path) -> None:
    module = SimpleNamespace(
        ComputeManager=type("Copy", (ComputeManager,), {"host": "compute-a"}),
        ResourceTracker=type("Copy", (ResourceTracker,), {}),
    )
    running = [new_identity(path)]
    identity.install(lambda: running[-1], module)
    module.ResourceTracker().update_available_resource()
    running.append(new_identity(path))
    known = {HERE.hypervisor_id: SimpleNamespace(host="compute-a", hypervisor_type="QEMU")}
    module.ComputeManager(known)._get_nodes(None)
    module.ResourceTracker().update_available_resource()
    # Its service was deleted, and with that its node.
    running.append(new_identity(path))
    module.ComputeManager({})._get_nodes(None)
    for _ in range(2):
        module.ResourceTracker().update_available_resource()
    again = replace(REGISTERED, id_source=IdSource.NATIVE)
    assert told(path) == [again, again]

"""The file `compute_id`, lost or copied: Nova's own code reads and makes it, the hook tells of it,
and whoever asks the read model is told.
"""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings, RelaySettings
from metaledger.producers.spool import Spool
from metaledger.schemas.log.embedded import create_embedded_log

from ..services.conftest import Result, home, metaledger  # noqa: F401 (fixtures)
from .conftest import Host, Nova

FILE = "compute_id"
# So all is judged at the end of the log, and no source that is gone is waited for.
SILENT = RelaySettings(progress_interval_s=None)


def started(host: Host) -> str:
    """The id by which nova-compute goes there; its state folder is the host's."""
    host.folder.mkdir(exist_ok=True)
    assert host.take("start") == 0
    assert "raised" not in host.seen
    [hypervisor_id] = host.seen["nodes"]
    assert (host.folder / FILE).read_text() == hypervisor_id
    return str(hypervisor_id)


def anomalies(metaledger: Callable[..., Result], *hosts: Host) -> set[tuple[str, str]]:  # noqa: F811
    """The kinds of those that stand, and whose they are, once all is relayed and projected."""
    settings = ProducerSettings(service="relay", host="here")
    with closing(create_embedded_log(Path("metaledger.db"))) as log:
        for host in hosts:
            spool = Spool(host.spool, settings)
            Relay(
                *(spool.engine, log.writer(), spool.outbox),
                partitions=1,
                owner="relay",
                settings=SILENT,
            ).drain()
            spool.engine.dispose()
    assert metaledger("project").status == 0
    return {
        (one["kind"], one["aggregate_id"])
        for one in metaledger("--json", "anomalies").document
        if one["withdrawn_by_event"] is None
    }


def test_a_file_that_was_lost_makes_two_hypervisors_of_one_host(
    real_nova: Nova,
    metaledger: Callable[..., Result],  # noqa: F811
    tmp_path: Path,
) -> None:
    here, there = (Host(real_nova, tmp_path / name, name=name) for name in ("host-1", "host-2"))
    first, other = started(here), started(there)
    assert started(here) == first
    assert anomalies(metaledger, here, there) == set()
    (here.folder / FILE).unlink()
    second = started(here)
    assert len({first, second, other}) == 3
    both = {("hypervisor_duplicate", first), ("hypervisor_duplicate", second)}
    assert anomalies(metaledger, here, there) == both


def test_a_file_that_was_copied_makes_two_hosts_of_one_hypervisor(
    real_nova: Nova,
    metaledger: Callable[..., Result],  # noqa: F811
    tmp_path: Path,
) -> None:
    here, there = (Host(real_nova, tmp_path / name, name=name) for name in ("host-1", "host-2"))
    hypervisor_id = started(here)
    there.folder.mkdir()
    shutil.copy(here.folder / FILE, there.folder)
    assert started(there) == hypervisor_id
    told = {(kind, hypervisor_id) for kind in ("history_gap", "hypervisor_host_changed")}
    assert anomalies(metaledger, here, there) == told
    # The first machine is told of again, which takes a spool that does not remember it.
    for file in here.folder.glob("spool.db*"):
        file.unlink()
    assert started(here) == hypervisor_id
    told.add(("hypervisor_duplicate", hypervisor_id))
    assert anomalies(metaledger, here, there) == told

"""The way back after a restore, as an operator types it: `reseed`, then `reconcile --mend`."""

# ruff: noqa: F811 (fixtures come by their names)

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from metaledger.producers.nova.tables import COMPUTE_NODES

from ..services.conftest import Result, home, metaledger, start  # noqa: F401 (fixtures)
from ..services.waiting import wait_for
from .cell import OTHER, UUID, Cell, cell

Run = Callable[..., Result]
URL = "sqlite:///nova.sqlite"
PURGED = "9c1e0f7a-55a1-4d0e-8a53-0a2f0f1d2c33"
ASK = ("--json", "guard", "--hypervisor", "hv-1", "--host", "host-1", "--instance", UUID)


@pytest.fixture
def nova(home: Path) -> Iterator[Cell]:
    """A cell from which one instance was evacuated, with all that may be gone."""
    config = home / ".config" / "metaledger" / "metaledger.toml"
    config.parent.mkdir(parents=True)
    config.write_text("guard_wait_s = 0.0\nguard_source_lag_max_s = 3600.0\n")
    with cell(URL) as made:
        with made.stock.begin() as connection:
            row = {"uuid": "hv-3", "host": "host-3", "hypervisor_hostname": "n", "deleted": 0}
            connection.execute(insert(COMPUTE_NODES), row)
        yield made


@pytest.fixture
def relay(metaledger: Run, start: Callable) -> Callable[[], None]:
    """What relay and projector do until nothing waits, and the relay has said so."""

    def status() -> dict:
        return metaledger("--json", "outbox", "status", URL).document

    def run() -> None:
        before = status()["progress_at"]
        daemon = start("relay", URL)
        wait_for(lambda: (now := status())["progress_at"] != before and not now["rows_waiting"])
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=60)
        assert metaledger("project").status == 0

    return run


def live(nova: Cell, metaledger: Run) -> None:
    """Instances that are there, deleted and purged, and hypervisors that are there and removed."""
    assert metaledger("import", "nova", URL).status == 0
    for uuid in (UUID, OTHER, PURGED):
        nova.boot(uuid)
        nova.spawned(uuid=uuid)
    nova.destroy(PURGED)
    nova.archive()
    nova.destroy(OTHER)
    nova.save(task_state="rebuilding")
    nova.migrate("evacuation")
    nova.place("host-2")
    nova.save(vm_state="active", task_state=None)
    with nova.hooked.begin() as connection:
        gone = COMPUTE_NODES.c.uuid == "hv-3"
        connection.execute(update(COMPUTE_NODES).where(gone).values(deleted=3))


def judged(metaledger: Run) -> tuple[str, str]:
    (one,) = metaledger(*ASK).document["verdicts"]
    metaledger("project")
    return one["verdict"], one["reason"]


def test_after_a_reseed_the_guard_answers_again_once_all_is_reconciled(
    metaledger: Run, nova: Cell, relay: Callable[[], None]
) -> None:
    assert metaledger("outbox", "install", URL).status == 0
    live(nova, metaledger)
    relay()
    assert judged(metaledger)[0] == "ALLOW"
    reseeded = metaledger("outbox", "reseed", URL)
    assert "6 aggregates count as unrecorded" in reseeded.out
    assert "`metaledger reconcile glance|nova URL --mend`" in reseeded.out
    relay()
    verdict, reason = judged(metaledger)
    assert verdict == "UNKNOWN"
    assert "lacks changes of 6 aggregates" in reason
    problems = metaledger("--json", "status").document["problems"]
    assert "metaledger reconcile glance|nova URL --mend" in {one["help"] for one in problems}
    before = len(metaledger("--json", "events", "--instance", UUID).document)
    compared = metaledger("--json", "reconcile", "nova", URL)
    assert (compared.status, compared.document["unrecorded"]) == (0, 6)
    mended = metaledger("reconcile", "nova", URL, "--mend")
    assert mended.status == 0
    assert "6 counted as unrecorded, and lack nothing." in mended.out
    assert "still" not in mended.out
    relay()
    assert judged(metaledger)[0] == "ALLOW"
    # Nothing is told that was known, but the judgements.
    told = metaledger("--json", "events", "--instance", UUID).document
    assert {one["type"] for one in told[before:]} == {"DestroyJudged"}


def test_a_mend_settles_for_the_log_that_it_compared_with(
    metaledger: Run,
    nova: Cell,
    relay: Callable[[], None],
    start: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live(nova, metaledger)
    relay()
    metaledger("outbox", "reseed", URL)
    assert metaledger("reconcile", "nova", URL, "--mend").status == 0
    monkeypatch.setenv("METALEDGER_LEDGER_URL", "sqlite:///other.db")
    refused = start("relay", URL)
    _, err = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "outbox reseed" in err

"""What Nova's services do at the same time, and what the ledger has to say of it in the end."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm.exc import StaleDataError

from metaledger.producers.nova_compute.identity import Hypervisor, Identity
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.events import Event
from metaledger.schemas.hypervisor import IdSource

from .cell import HOSTS, Cell
from .compare import SPOOL, Compared

T = TypeVar("T")
# The nodes that `cell` has, and one that comes and goes.
COMING = "hv-3"
NODES = {**{uuid: f"node-{host}" for host, uuid in HOSTS.items()}, COMING: "node-host-3"}


@dataclass(frozen=True, slots=True)
class Kept:
    """A database with an outbox: a cell's, or a spool's."""

    cell: str
    url: str


def impatient(url: str) -> str:
    """Where it takes time to look for a deadlock, it looks at once."""
    made = make_url(url)
    if made.get_backend_name() == "postgresql":
        made = made.update_query_dict({"options": "-c deadlock_timeout=20ms"})
    return made.render_as_string(hide_password=False)


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """What each of them gives; they begin together."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [it.result() for it in [pool.submit(work) for work in works]]


def retried(change: Callable[[], T]) -> T:
    """As oslo.db does after a deadlock, and a user after a failure because what was to be changed
    is gone; whatever else goes wrong is raised.
    """
    for _ in range(50):
        try:
            return change()
        except StaleDataError:
            continue
        except OperationalError as error:
            if "eadlock" not in str(error):
                raise
    raise AssertionError("a deadlock each time")


def differences(nova: Cell, folder: Path) -> list[str]:
    """Between the cell and the read model of what it and its compute services' spool told."""
    kept = [Kept("cell", nova.url), Kept(SPOOL, f"sqlite:///{folder}/{SPOOL}")]
    return Compared(kept, folder / "compared").differences


def compute_service(folder: Path) -> Identity:
    """What a process of nova-compute tells of its hypervisors by, as it has just started."""
    settings = ProducerSettings(service="nova-compute", host="compute")
    return Identity(Spool(folder / SPOOL, settings), settings.context)


def hypervisor(uuid: str, host: str) -> Hypervisor:
    """As its compute service sees it."""
    return Hypervisor(
        hypervisor_id=uuid, id_source=IdSource.FILE, host=host, hypervisor_hostname=NODES[uuid]
    )


def assert_numbers_have_no_holes(events: Sequence[Event]) -> None:
    """Of one aggregate's events in one stream, in their order."""
    numbers = [event.meta.stream_seq for event in events]
    assert numbers == list(range(1, len(numbers) + 1))

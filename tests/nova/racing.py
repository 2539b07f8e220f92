"""What Nova's services do at the same time, and what the ledger has to say of it in the end."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Row, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm.exc import StaleDataError

from metaledger.producers.nova.rows import recorded_metadata
from metaledger.producers.nova.tables import COMPUTE_NODES, INSTANCES, SYSTEM_METADATA
from metaledger.producers.nova_compute.identity import Hypervisor, Identity
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.producers.tables import counters
from metaledger.schemas.events import Event
from metaledger.schemas.hypervisor import IdSource
from metaledger.schemas.meta import Origin

from ..glance.ledger import recorded
from ..glance.readmodel import ReadModel
from .cell import HOSTS, Cell
from .held import SPOOL
from .told import both

T = TypeVar("T")
# The nodes that `cell` has, and one that comes and goes.
COMING = "hv-3"
NODES = {**{uuid: f"node-{host}" for host, uuid in HOSTS.items()}, COMING: "node-host-3"}
# Tables of the read model, and what they are compared with.
COMPARED = [
    "instances",
    "instance_metadata_history",
    "instance_locations",
    "hypervisors",
    "anomalies",
]
HELD = {
    "instances": select(INSTANCES, COMPUTE_NODES.c.uuid.label("hypervisor_id")).outerjoin(
        COMPUTE_NODES, COMPUTE_NODES.c.id == INSTANCES.c.compute_id
    ),
    "metadata": select(SYSTEM_METADATA),
    "nodes": select(COMPUTE_NODES),
    "unrecorded": select(counters).where(counters.c.unrecorded_since.is_not(None)),
}
Held = Mapping[str, Sequence[Row[Any]]]
Tables = Mapping[str, Sequence[Mapping[str, Any]]]


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


def differences(nova: Cell, folder: Path, *, right: Collection[str] = ()) -> list[str]:
    """Between the cell and the read model of what it and its compute services' spool told. Its
    anomalies are differences, but those of the kinds that are `right`.
    """
    urls = (nova.url, f"sqlite:///{folder}/{SPOOL}")
    (folder / "compared").mkdir()
    model = ReadModel(folder / "compared", *urls)
    try:
        model.catch_up()
        tables = {name: model.rows(text(f"SELECT * FROM {name}")) for name in COMPARED}
    finally:
        model.close()
    with nova.stock.connect() as connection:
        held = {name: connection.execute(query).all() for name, query in HELD.items()}
    kinds = {it["kind"] for it in tables["anomalies"]} - {*right}
    found = [
        *both(_instances_held(held), _instances_told(tables)),
        *both(_nodes_held(held), _nodes_told(tables)),
        *both([], sorted(kinds)),
        *both([], [row.aggregate for row in held["unrecorded"]]),
    ]
    for event in [event for url in urls for event in recorded(url)]:
        found += both((Origin.OBSERVED, 0), (event.meta.origin, event.meta.missed))
    return found


def _instances_held(held: Held) -> dict[str, Any]:
    """Image, whether it is deleted, and of one that is not its place and metadata."""
    metadata: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for row in held["metadata"]:
        metadata[row.instance_uuid][row.key] = row.value
    return {
        row.uuid: (row.image_ref, True)
        if row.deleted
        else (
            *(row.image_ref, False),
            [] if row.host is None else [(row.hypervisor_id, row.host)],
            recorded_metadata(metadata[row.uuid]),
        )
        for row in held["instances"]
    }


def _instances_told(tables: Tables) -> dict[str, Any]:
    live = {
        name: [it for it in tables[name] if it["valid_to"] is None]
        for name in ("instance_metadata_history", "instance_locations")
    }
    return {
        row["instance_uuid"]: (row["image_ref"], True)
        if row["deleted_at"] is not None
        else (
            *(row["image_ref"], False),
            [
                (it["hypervisor_id"], it["host"])
                for it in live["instance_locations"]
                if it["instance_uuid"] == row["instance_uuid"]
            ],
            {
                it["key"]: it["value"]
                for it in live["instance_metadata_history"]
                if it["instance_uuid"] == row["instance_uuid"]
            },
        )
        for row in tables["instances"]
    }


def _nodes_held(held: Held) -> dict[str, Any]:
    return {
        row.uuid: (row.host, row.hypervisor_hostname, bool(row.deleted)) for row in held["nodes"]
    }


def _nodes_told(tables: Tables) -> dict[str, Any]:
    return {
        row["hypervisor_id"]: (
            *(row["host"], row["hypervisor_hostname"]),
            row["removed_at"] is not None,
        )
        for row in tables["hypervisors"]
    }


def compute_service(folder: Path) -> Identity:
    """What a process of nova-compute tells of its hypervisors by, as it has just started."""
    settings = ProducerSettings(service="nova-compute", host="compute")
    return Identity(Spool(folder / SPOOL, settings, wait_s=120), settings.context)


def hypervisor(uuid: str, host: str) -> Hypervisor:
    """As its compute service sees it."""
    return Hypervisor(
        hypervisor_id=uuid, id_source=IdSource.FILE, host=host, hypervisor_hostname=NODES[uuid]
    )


def assert_numbers_have_no_holes(events: Sequence[Event]) -> None:
    """Of one aggregate's events in one stream, in their order."""
    numbers = [event.meta.stream_seq for event in events]
    assert numbers == list(range(1, len(numbers) + 1))

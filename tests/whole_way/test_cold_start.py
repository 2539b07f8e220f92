"""A real Glance and a real Nova from before: imported, and then nothing differs.

Nova boots, takes snapshots and boots from them, and no hook is loaded. The ledger is told by
`import` alone, of the databases that Nova's and Glance's own migrations and models made.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metaledger.producers.database import open_database
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings, RelaySettings
from metaledger.schemas.codec import Codec
from metaledger.schemas.log.embedded import create_embedded_log

from ..glance.config import Extra
from ..glance.conftest import NewGlance
from ..nova.environment import nova_environment
from ..nova.harness import run_program
from ..nova.held import SPOOL
from ..services.conftest import Result, home, metaledger  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.glance, pytest.mark.nova]

PROGRAM = Path(__file__).parents[1] / "nova" / "ancestry.py"


@dataclass(frozen=True, slots=True)
class Before:
    """What was there: the services' databases, and the ids of the images by name."""

    databases: Sequence[tuple[str, str]]
    images: dict[str, str]


@pytest.fixture(scope="module")
def before(
    new_glance: NewGlance, product: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Before]:
    """An image, three snapshots that descend from it, and the image is deleted."""
    folder = tmp_path_factory.mktemp("before")
    with new_glance(Extra()) as glance:
        client = glance.client()
        base = client.create(name="base", visibility="public").body["id"]
        assert client.upload(base, b"data").status == 204
        ran = run_program(
            *(PROGRAM, folder, nova_environment(), product, (glance.url, base)), configuration={}
        )
        images = {it["name"]: it["id"] for it in client.list().body["images"]}
        assert client.delete(base).status == 204
        cells = [("nova", kept.url) for kept in ran.databases if kept.cell != SPOOL]
        yield Before([*cells, ("glance", glance.database_url)], images)


def relay(url: str) -> None:
    """What the daemon does until nothing waits."""
    outbox = Outbox(ProducerSettings(service="relay", host="here"), Codec())
    settings = RelaySettings(progress_interval_s=None)
    engine = open_database(url)
    with closing(create_embedded_log(Path("metaledger.db"))) as log:
        Relay(engine, log.writer(), outbox, partitions=1, owner="test", settings=settings).drain()
    engine.dispose()


def test_nothing_differs_from_a_cloud_that_was_imported(
    before: Before,
    metaledger: Callable[..., Result],  # noqa: F811
) -> None:
    total = dict[str, int]()
    for service, url in before.databases:
        told = metaledger("--json", "import", service, url)
        assert (told.status, told.err) == (0, "")
        for one in told.document["imported"]:
            assert one["total"] == one["imported"]
            total[one["kind"]] = total.get(one["kind"], 0) + one["total"]
        relay(url)
    assert total == {"hypervisor": 1, "instance": 2, "image": 4}
    assert metaledger("project").status == 0
    compared = 0
    for service, url in before.databases:
        found = metaledger("--json", "reconcile", service, url)
        assert (found.status, found.document["differences"]) == (0, [])
        compared += found.document["compared"]
    assert compared == sum(total.values())
    assert metaledger("--json", "anomalies").document == []

    def lineage(name: str) -> dict[str, Any]:
        found: dict[str, Any] = metaledger(
            "--json", "image", "lineage", before.images[name]
        ).document
        return found

    for name in ("snap-1", "snap-2", "snap-3"):
        found = lineage(name)
        assert (found["evidence"], found["parent_image_id"]) == ("declared", None)
        assert found["root_image_id"] == before.images["base"]

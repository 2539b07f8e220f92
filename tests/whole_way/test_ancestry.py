"""A real Glance and a real Nova on one ledger: snapshots of snapshots, and the first image is gone.

Nova boots, takes snapshots and boots from them through Glance's API. What nova-compute's
notifications, Nova's database and Glance's tell comes by three outboxes, each as a whole, so that
children come before their parents. What Nova hands down as `base_image_ref` names the first image
alone; the ledger knows each step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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

from ..glance.client import Client
from ..glance.config import Extra
from ..glance.conftest import NewGlance
from ..nova.environment import nova_environment
from ..nova.harness import PLUGIN as NOVA_PLUGIN
from ..nova.harness import run_program
from ..nova.held import SPOOL
from ..services.conftest import Result, home, metaledger  # noqa: F401 (fixtures)
from .conftest import PLUGIN

pytestmark = [pytest.mark.glance, pytest.mark.nova]

PROGRAM = Path(__file__).parents[1] / "nova" / "ancestry.py"


@dataclass(frozen=True, slots=True)
class Cloud:
    """What was done. `images` are the ids by name; `outboxes` are URLs, as they are relayed."""

    folder: Path
    client: Client
    images: Mapping[str, str]
    outboxes: Sequence[str]

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.db"

    def relay(self) -> None:
        """What the daemons do until nothing waits."""
        outbox = Outbox(ProducerSettings(service="relay", host="here"), Codec())
        # Nobody waits for the progress of a source, so what is judged is so at the log's end.
        settings = RelaySettings(progress_interval_s=None)
        with closing(create_embedded_log(self.ledger)) as log:
            for url in self.outboxes:
                engine, writer = open_database(url), log.writer()
                Relay(
                    *(engine, writer, outbox), partitions=1, owner="test", settings=settings
                ).drain()
                engine.dispose()


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the command line answers of it, with images by their names."""

    cloud: Cloud
    metaledger: Callable[..., Result]

    def run(self, *arguments: str) -> Result:
        urls = (f"sqlite:///{self.cloud.folder}/{name}.db" for name in ("ledger", "read"))
        options = zip(("--ledger", "--read-model"), urls, strict=True)
        return self.metaledger(*(it for option in options for it in option), *arguments)

    def answer(self, *arguments: str) -> Any:
        names = {image_id: name for name, image_id in self.cloud.images.items()}
        given = (self.cloud.images.get(it, it) for it in arguments)
        return named(self.run("--json", *given).document, names)

    def catch_up(self) -> None:
        self.cloud.relay()
        assert self.run("project").status == 0

    def anomalies(self) -> list[tuple[str, str]]:
        return [(it["kind"], it["aggregate_id"]) for it in self.answer("anomalies")]


def named(document: Any, names: Mapping[str, str]) -> Any:
    """The document with names in the place of ids."""
    if isinstance(document, dict):
        return {key: named(value, names) for key, value in document.items()}
    if isinstance(document, list):
        return [named(it, names) for it in document]
    return names.get(document, document)


@pytest.fixture(scope="module")
def cloud(
    new_glance: NewGlance, product: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    """An image, three snapshots that descend from it, and the image is deleted."""
    folder = tmp_path_factory.mktemp("ancestry")
    with new_glance(Extra(database_options=PLUGIN)) as glance:
        client = glance.client()
        base = client.create(name="base", visibility="public").body["id"]
        assert client.upload(base, b"data").status == 204
        ran = run_program(
            *(PROGRAM, folder, nova_environment(), product, (glance.url, base)),
            configuration=NOVA_PLUGIN,
        )
        images = {it["name"]: it["id"] for it in client.list().body["images"]}
        assert client.delete(base).status == 204
        of_nova = sorted(ran.databases, key=lambda kept: kept.cell != SPOOL)
        yield Cloud(folder, client, images, [*(it.url for it in of_nova), glance.database_url])


@pytest.fixture
def ledger(cloud: Cloud, metaledger: Callable[..., Result]) -> Ledger:  # noqa: F811
    return Ledger(cloud, metaledger)


def test_the_ancestry_stands_although_the_first_image_is_deleted(
    cloud: Cloud, ledger: Ledger
) -> None:
    ledger.catch_up()
    assert cloud.client.get(cloud.images["base"]).status == 404
    lineage = ledger.answer("image", "lineage", "snap-2")
    assert lineage["evidence"] == "agreed"
    assert lineage["parent_image_id"] == "snap-1"
    assert lineage["declared_base_image_ref"] == lineage["base_image_ref"] == "base"
    assert lineage["root_image_id"] == "base"
    assert lineage["declared_lost"] is False
    deleted = {it["image_id"]: it["deleted_at"] is not None for it in lineage["nodes"]}
    assert deleted == {"base": True, "snap-1": False, "snap-2": False}
    edges = {it["image_id"]: it["to_image_id"] for it in lineage["edges"]}
    assert edges == {"snap-2": "snap-1", "snap-1": "base"}

    first, second = (ledger.answer("snapshot", "show", it) for it in ("snap-1", "snap-2"))
    assert (first["parent_image_id"], second["parent_image_id"]) == ("base", "snap-1")
    # nova-compute's own word.
    assert (first["purpose"], second["purpose"]) == ("SNAPSHOT", "SNAPSHOT")
    assert (first["instance"]["image_ref"], second["instance"]["image_ref"]) == ("base", "snap-1")
    assert first["instance_uuid"] != second["instance_uuid"]
    assert [it for it in ledger.anomalies() if it[1] != "snap-3"] == []


def test_it_stands_although_all_properties_that_name_it_are_gone(
    cloud: Cloud, ledger: Ledger
) -> None:
    before = cloud.client.get(cloud.images["snap-3"]).body
    own = ("base_image_ref", "instance_uuid", "image_type", "owner_id", "user_id")
    assert before.keys() >= {*own}
    operations = [{"op": "remove", "path": f"/{key}"} for key in own]
    assert cloud.client.patch(cloud.images["snap-3"], operations).status == 200
    ledger.catch_up()
    lineage = ledger.answer("image", "lineage", "snap-3")
    assert (lineage["evidence"], lineage["declared_lost"]) == ("agreed", True)
    assert (lineage["parent_image_id"], lineage["root_image_id"]) == ("snap-1", "base")
    assert lineage["declared_base_image_ref"] == lineage["base_image_ref"] == "base"
    assert ledger.answer("snapshot", "show", "snap-3")["parent_image_id"] == "snap-1"
    assert ledger.anomalies() == [("base_image_ref_missing", "snap-3")]

"""A database with Glance's tables (or a Nova cell's) and an outbox, the ledger that it feeds, and a
naive comparison.

The tables are those that the hook reads, for each database made by SQLAlchemy; `tests/glance` has a
real Glance's.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
    update,
)

from metaledger.producers import administration
from metaledger.producers.database import open_database
from metaledger.producers.glance.source import KINDS
from metaledger.producers.glance.tables import IMAGES, LOCATIONS, PROPERTIES, TAGS
from metaledger.producers.importing import Importer, OnProgress, Progress
from metaledger.producers.live import LiveWriter
from metaledger.producers.mending import Mender
from metaledger.producers.nova.tables import (
    COMPUTE_NODES,
    INSTANCE_EXTRA,
    INSTANCES,
    SYSTEM_METADATA,
)
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings, RelaySettings
from metaledger.producers.source import Kind
from metaledger.projector import readmodel
from metaledger.projector.database import connect
from metaledger.projector.project import Settings, bring_up_to_end
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event
from metaledger.schemas.log.embedded import EmbeddedLog, create_embedded_log
from metaledger.services.comparison import Difference
from metaledger.services.reading import reading
from metaledger.services.reconciling import Reconciliation

SETTINGS = ProducerSettings(service="metaledger", host="here")
(IMAGE,) = KINDS
ATTRIBUTES = (
    *("name", "status", "owner", "visibility", "disk_format", "container_format"),
    *("min_disk", "min_ram", "protected", "os_hidden", "size", "virtual_size"),
    *("checksum", "os_hash_algo", "os_hash_value"),
)


class Halted(Exception):
    """The import's process ends here."""


@dataclass
class Cloud:
    """A service's database, with engines as the service, its hook and an operator have them."""

    url: str
    folder: Path
    settings: ProducerSettings = SETTINGS
    tables: MetaData = IMAGES.metadata

    def __post_init__(self) -> None:
        self.stock = create_engine(self.url)
        hooked = make_url(self.url).update_query_dict({"plugin": "metaledger"})
        self.hooked = create_engine(hooked)
        self.operator = open_database(self.url)
        self.tables.create_all(self.stock)
        administration.install(self.stock)
        self.log: EmbeddedLog = create_embedded_log(self.folder / "ledger.db")
        self.read_model_url = f"sqlite:///{self.folder}/read.db"
        self._reading = connect(self.read_model_url)
        readmodel.migrate(self._reading)
        self._relaying = open_database(self.url)
        self._relay = Relay(
            self._relaying,
            self.log.writer(),
            Outbox(self.settings, Codec()),
            partitions=1,
            owner="relay",
            settings=RelaySettings(progress_interval_s=None, lease_s=7 * 86_400),
        )

    def close(self) -> None:
        self.log.close()
        for engine in (self.stock, self.hooked, self.operator, self._relaying, self._reading):
            engine.dispose()

    def writer(self, **options: Any) -> LiveWriter:
        options.setdefault("pause", self.relay)
        return LiveWriter(self.operator, self.settings, **options)

    def bring(
        self,
        on_progress: OnProgress = lambda _progress: None,
        kind: Kind[Any] = IMAGE,
        **options: Any,
    ) -> Progress:
        """Imports all of a kind."""
        importer = Importer(
            self.operator,
            self.writer(**options),
            context=self.settings.context(),
            on_progress=on_progress,
        )
        return importer.run(kind)

    def relay(self) -> None:
        """Sends what waits; the lease stays taken."""
        while not self._relay.round().idle:
            pass

    def project(self) -> None:
        """Sends and projects all."""
        self.relay()
        bring_up_to_end(self.log, Store(self._reading), Codec(), settings=Settings())

    def events(self, image_id: str | None = None) -> list[Event]:
        """What the log has, of one image or of all."""
        self.relay()
        found = [
            Codec().decode(it.value, it.sha256) for it in self.log.read(0, records_max=1_000_000)
        ]
        return [it for it in found if image_id is None or it.meta.aggregate == f"image:{image_id}"]

    def compare(
        self, *kinds: Kind[Any], mend: bool = False
    ) -> tuple[list[Difference], dict[str, int], int]:
        """What differs, what was left out, and how many were mended."""
        mender = Mender(writer=self.writer(), context=self.settings.context())
        found: list[Difference] = []
        left_out = Counter[str]()
        mended = 0
        with reading(self.read_model_url) as read_model:
            both = Reconciliation(engine=self.operator, read_model=read_model, log=self.log)
            both.require_same_log()
            for kind in kinds:
                for page in both.pages(kind):
                    found += page.found
                    left_out += page.left_out
                    if mend:
                        mended += mender.mend(kind, page.differing).told
                        mender.settle(kind, page.agreeing)
        return found, dict(left_out), mended

    def told(self) -> dict[str, Any]:
        """What the read model says of each image."""
        with self._reading.connect() as connection:
            images = connection.execute(_IMAGES).mappings().all()
            lives = {row["image_id"]: dict[str, Any]() for row in images}
            ended = {row["image_id"]: dict[str, Any]() for row in images}
            for image_id, key, value in connection.execute(_ATTRIBUTES):
                lives[image_id][key] = value
            properties = {row["image_id"]: dict[str, Any]() for row in images}
            for image_id, key, value in connection.execute(_PROPERTIES):
                properties[image_id][key] = value
            for image_id, key, value in connection.execute(_ENDED):
                ended[image_id][key] = value
        return {
            row["image_id"]: (
                ("deleted", ended[row["image_id"]])
                if row["deleted_at"]
                else (_said(lives[row["image_id"]]), properties[row["image_id"]])
            )
            for row in images
        }

    def unrecorded(self) -> list[str]:
        """What counts as lacking a change."""
        return sorted(it.aggregate for it in administration.status(self.operator).unrecorded)

    def anomalies(self) -> list[str]:
        """The kinds of all anomalies."""
        with self._reading.connect() as connection:
            return list(connection.scalars(text("SELECT kind FROM anomalies ORDER BY kind")))

    def holds(self) -> dict[str, Any]:
        """What the database holds of each image, in the same form and by plain queries."""
        with self.stock.connect() as connection:
            return {
                row["id"]: _held(connection, dict(row))
                for row in connection.execute(select(IMAGES)).mappings()
            }


def _held(connection: Connection, row: dict[str, Any]) -> Any:
    def children(table: Any) -> list[Any]:
        found = select(table).where(table.c.image_id == row["id"]).order_by(table.c.id)
        return [it._mapping for it in connection.execute(found)]

    rows = children(PROPERTIES)
    if row["deleted"] or row["status"] == "deleted":
        return "deleted", {it["name"]: it["value"] for it in rows}
    attributes = {name: _text(row[name]) for name in ATTRIBUTES}
    tags = sorted({it["value"] for it in children(TAGS) if not it["deleted"]})
    attributes["tags"] = "[" + ",".join(f'"{tag}"' for tag in tags) + "]"
    attributes["location_count"] = str(sum(not it["deleted"] for it in children(LOCATIONS)))
    return _said(attributes), {it["name"]: it["value"] for it in rows if not it["deleted"]}


def _said(attributes: dict[str, Any]) -> dict[str, Any]:
    """Without those that an image has unless somebody says otherwise."""
    return {key: it for key, it in attributes.items() if it not in (None, "0", "false")}


def _text(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


_IMAGES = text("SELECT image_id, deleted_at FROM images")
_ATTRIBUTES = text(
    "SELECT image_id, key, value FROM image_attribute_history WHERE valid_to IS NULL"
)
_PROPERTIES = text("SELECT image_id, key, value FROM image_properties")
_ENDED = text(
    "SELECT image_id, key, value FROM image_property_history WHERE end_reason = 'image_deleted'"
)


def put_image(connection: Connection, image_id: str, **columns: Any) -> None:
    row = {
        "id": image_id,
        "name": "n",
        "status": "active",
        "visibility": "private",
        "min_disk": 0,
        "min_ram": 0,
        "protected": False,
        "os_hidden": False,
        "size": 5,
        "deleted": False,
    }
    row |= columns
    row["deleted_at"] = _naive(row.get("deleted_at"))
    connection.execute(insert(IMAGES), row)


def put_property(
    connection: Connection, image_id: str, name: str, value: str | None, *, deleted: bool = False
) -> None:
    row = {"image_id": image_id, "name": name, "value": value, "deleted": deleted}
    connection.execute(insert(PROPERTIES), row)


def put_tag(
    connection: Connection, image_id: str, value: str, deleted_at: datetime | None = None
) -> None:
    deleted = {"deleted": deleted_at is not None, "deleted_at": _naive(deleted_at)}
    connection.execute(insert(TAGS), {"image_id": image_id, "value": value, **deleted})


def _naive(time: datetime | None) -> datetime | None:
    return time and time.replace(tzinfo=None)


def rename(connection: Connection, image_id: str, name: str) -> None:
    connection.execute(update(IMAGES).where(IMAGES.c.id == image_id).values(name=name))


@contextmanager
def halting(engine: Engine, commits: int) -> Iterator[None]:
    """The process ends just before that commit, counted from 0."""
    left = commits
    counting = threading.Lock()

    def commit(_connection: object) -> None:
        nonlocal left
        with counting:
            if left == 0:
                raise Halted
            left -= 1

    event.listen(engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(engine, "commit", commit)


CREATED = datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC)
FLAVOR = '{"cur": {"nova_object.data": {"name": "m1.small", "flavorid": "1"}}, "old": null}'


def put_instance(connection: Connection, number: int, **columns: Any) -> None:
    """Instance `i-<number>` on the first compute node, with metadata and a flavor."""
    uuid, deleted = f"i-{number}", columns.get("deleted", 0)
    row = {
        "id": number,
        "uuid": uuid,
        "image_ref": "image-a",
        "host": "host-1",
        "node": "node-1",
        "compute_id": 1,
        "vm_state": "active",
        "hidden": False,
        "created_at": CREATED.replace(tzinfo=None),
        "deleted": 0,
    }
    connection.execute(insert(INSTANCES), row | columns)
    stored = {
        "image_base_image_ref": "image-a",
        "image_min_disk": "1",
        "password_0": "secret",
        "owner_user_name": "alice",
    }
    for key, value in stored.items():
        kept = {"instance_uuid": uuid, "key": key, "value": value, "deleted": deleted}
        connection.execute(insert(SYSTEM_METADATA), kept)
    extra = {"instance_uuid": uuid, "flavor": FLAVOR, "deleted": 0}
    connection.execute(insert(INSTANCE_EXTRA), extra)


def put_nodes(connection: Connection) -> None:
    for number, kind in ((1, "QEMU"), (2, "ironic"), (3, "QEMU")):
        row = {
            "id": number,
            "uuid": f"hv-{number}",
            "host": f"host-{number}",
            "hypervisor_hostname": f"node-{number}",
            "hypervisor_type": kind,
            "deleted": 3 if number == 3 else 0,
            "deleted_at": None,
        }
        connection.execute(insert(COMPUTE_NODES), row)

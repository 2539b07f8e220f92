"""Whatever happens to disks, and whatever of it could not be told: once each is touched, the read
model knows those that are there as they are, and nothing of it looks like a fault.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from metaledger.producers.disks import Disks, NewDisk
from metaledger.producers.spool import Spool
from metaledger.producers.tables import outbox
from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind

from ..folds.rows import Folding
from ..producers.kit import CODEC, SETTINGS

UUID = "f5000000-0000-4000-8000-000000000001"
NAMES = ("disk", "disk.swap")
# A lost outcome and a crash behind the deed leave the same.
DEEDS = (
    "make",
    "fail",
    "make, lost",
    "fail, lost",
    "vanish",
    "grow",
    "grow, lost",
    "touch",
    "gone",
)


class Machine:
    """A host whose disks the test knows; processes that come and go tell the ledger of them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spool.db"
        self.there: dict[str, NewDisk] = {}
        self.made = 0

    def process(self) -> Disks:
        return Disks(Spool(self.path, SETTINGS, wait_s=0), SETTINGS.context)

    def do(self, deed: str, name: str) -> None:
        what, lost = deed.removesuffix(", lost"), deed.endswith("lost")
        if what in {"make", "fail"} and name not in self.there:
            self.make(name, fails=what == "fail", lost=lost)
        elif what == "vanish":
            self.there.pop(name, None)
        elif what == "gone":
            self.there.clear()
            self.process().gone(UUID)
        elif what in {"grow", "touch"} and name in self.there:
            disk = self.there[name]
            if what == "grow":
                size = disk.layout.size_bytes * 2
                disk = replace(disk, layout=replace(disk.layout, size_bytes=size))
            self.there[name] = disk
            with locked(self.path, lost):
                self.process().met(disk)

    def make(self, name: str, *, fails: bool, lost: bool) -> None:
        self.made += 1
        source = DiskSource(kind=SourceKind.IMAGE, image_id=f"image {self.made}")
        layout = DiskLayout(
            version="1.0", backend="qcow2", format="qcow2", size_bytes=1024, source=source
        )
        disk = NewDisk(instance_uuid=UUID, disk=name, layout=layout)
        with ExitStack() as stack, suppress(OSError), self.process().creating(disk):
            stack.enter_context(locked(self.path, lost))
            if fails:
                raise OSError
            self.there[name] = disk

    def read_model(self) -> Folding:
        folding = Folding()
        query = select(outbox.c.value, outbox.c.sha256).order_by(outbox.c.id)
        with Spool(self.path, SETTINGS).engine.connect() as connection:
            rows = connection.execute(query).all()
        return folding.take([CODEC.decode(bytes(value), bytes(sha256)) for value, sha256 in rows])


@contextmanager
def locked(path: Path, really: bool) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        if really:
            holder.execute("BEGIN IMMEDIATE")
        yield


@settings(max_examples=25)
@example([("make, lost", "disk"), ("grow, lost", "disk")])
@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.sampled_from(NAMES)), max_size=8))
def test_a_disk_that_was_touched_is_known_as_it_is(deeds: list[tuple[str, str]]) -> None:
    # In memory where there is such a folder: each deed is a synced transaction.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        machine = Machine(Path(folder))
        machine.process().met()
        for deed, name in deeds:
            machine.do(deed, name)
        machine.process().met(*machine.there.values())
        tables = machine.read_model().tables
    known = {row["disk"]: row for row in tables.rows("disks")}
    for name, disk in machine.there.items():
        row = known[name]
        told = (row["state"], row["size_bytes"], row["source_image_id"])
        source = disk.layout.source
        assert told == ("created", disk.layout.size_bytes, source.image_id)
    assert tables.rows("anomalies") == [
        row for row in tables.rows("anomalies") if row["kind"] == "changes_missed"
    ]

"""A Nova cell's instances and compute nodes, from before and as they differ."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, delete, text, update

from metaledger.producers import administration, counters
from metaledger.producers.mending import Mender
from metaledger.producers.nova.source import KINDS
from metaledger.producers.nova.tables import (
    COMPUTE_NODES,
    INSTANCE_EXTRA,
    INSTANCES,
    SYSTEM_METADATA,
)
from metaledger.producers.relay import Relay
from metaledger.producers.settings import RelaySettings
from metaledger.producers.source import find_undated
from metaledger.producers.spool import Spool
from metaledger.projector.database import connect
from metaledger.schemas.events import Draft
from metaledger.schemas.hypervisor import HypervisorHostChanged, HypervisorRegistered, IdSource
from metaledger.schemas.instance import (
    InstanceRelocated,
    RelocationCause,
    SnapshotPurpose,
    SnapshotTaken,
)
from metaledger.services.reading import reading
from metaledger.services.reconciling import ELSEWHERE, Reconciliation

from .kit import CREATED, Cloud, put_instance, put_nodes

HYPERVISOR, INSTANCE = KINDS
GONE = datetime(2026, 2, 1, 12, 0, 5, tzinfo=UTC)


@pytest.fixture
def cell(nova: Cloud) -> Cloud:
    """A cell with a live instance, a deleted one, one deleted without a time, and a hidden one."""
    with nova.stock.begin() as connection:
        put_nodes(connection)
        put_instance(connection, 1)
        put_instance(connection, 2, deleted=2, deleted_at=GONE.replace(tzinfo=None))
        put_instance(connection, 3, deleted=3)
        put_instance(connection, 4, hidden=True)
    return nova


def bring(cell: Cloud) -> None:
    for kind in KINDS:
        cell.bring(kind=kind)
    cell.project()


def rows(cell: Cloud, query: str) -> list[dict[str, Any]]:
    engine = connect(cell.read_model_url)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(text(query)).mappings()]
    engine.dispose()
    return found


def tell_elsewhere(cell: Cloud, *told: Any) -> None:
    """Events that come through another stream into the same log."""
    spool = Spool(cell.folder / "spool.db", cell.settings)
    context = cell.settings.context()
    spool.emit([Draft(data=it, aggregate=it.aggregate, context=context) for it in told])
    settings = RelaySettings(progress_interval_s=None)
    Relay(
        spool.engine,
        cell.log.writer(),
        spool.outbox,
        partitions=1,
        owner="other",
        settings=settings,
    ).drain()
    cell.project()


def purge(connection: Connection, uuid: str) -> None:
    for table, column in (
        *((SYSTEM_METADATA, "instance_uuid"), (INSTANCE_EXTRA, "instance_uuid")),
        (INSTANCES, "uuid"),
    ):
        connection.execute(delete(table).where(table.c[column] == uuid))


def types(cell: Cloud) -> list[tuple[str, str]]:
    return sorted((it.meta.aggregate, it.type) for it in cell.events())


def test_a_cell_from_before_is_in_the_read_model(cell: Cloud) -> None:
    bring(cell)
    hypervisors = rows(cell, "SELECT * FROM hypervisors ORDER BY hypervisor_id")
    assert [(it["host"], it["id_source"], it["removed_at"] is None) for it in hypervisors] == [
        ("host-1", "FILE", True),
        ("host-2", "NATIVE", True),
        ("host-3", "FILE", False),
    ]
    live, dated, undated = rows(cell, "SELECT * FROM instances ORDER BY instance_uuid")
    assert (live["image_ref"], live["flavor"], live["hypervisor_id"]) == (
        *("image-a", "m1.small", "hv-1"),
    )
    assert live["authoritative_by_event"] is not None
    assert live["deleted_at"] is None
    assert dated["deleted_at"].startswith("2026-02-01T12:00:05")
    assert undated["deleted_at"] is not None
    stored = rows(cell, "SELECT DISTINCT key FROM instance_metadata_history ORDER BY key")
    assert [it["key"] for it in stored] == [
        *("image_base_image_ref", "image_min_disk", "owner_user_name"),
    ]
    found = find_undated(cell.operator, INSTANCE)
    assert (found.count, found.named) == (1, ["i-3"])
    assert find_undated(cell.operator, HYPERVISOR).count == 1


def test_twice_adds_nothing_to_a_cell(cell: Cloud) -> None:
    bring(cell)
    before = types(cell)
    bring(cell)
    assert types(cell) == before
    assert not [name for name, _ in before if name == "instance:i-4"]


def test_nothing_of_a_cell_differs_after_its_import(cell: Cloud) -> None:
    bring(cell)
    assert cell.compare(*KINDS) == ([], {ELSEWHERE: 1}, 0)


def test_what_was_done_behind_novas_hook_differs_and_is_mended(cell: Cloud) -> None:
    bring(cell)
    with cell.stock.begin() as connection:
        put_instance(connection, 5)
        put_instance(connection, 6)
    for kind in KINDS:
        cell.bring(kind=kind)
    cell.project()
    with cell.stock.begin() as connection:
        one = INSTANCES.c.uuid == "i-1"
        connection.execute(update(INSTANCES).where(one).values(image_ref="image-b"))
        base = (SYSTEM_METADATA.c.instance_uuid == "i-1") & (
            SYSTEM_METADATA.c.key == "image_base_image_ref"
        )
        connection.execute(update(SYSTEM_METADATA).where(base).values(value="image-b"))
        five = INSTANCES.c.uuid == "i-5"
        moved = {"compute_id": 2, "host": "host-2", "node": "node-2"}
        connection.execute(update(INSTANCES).where(five).values(moved))
        stored = (SYSTEM_METADATA.c.instance_uuid == "i-5") & (
            SYSTEM_METADATA.c.key == "image_min_disk"
        )
        connection.execute(update(SYSTEM_METADATA).where(stored).values(value="2"))
        connection.execute(
            update(COMPUTE_NODES).where(COMPUTE_NODES.c.uuid == "hv-2").values(deleted=2)
        )
        for table, column in ((SYSTEM_METADATA, "instance_uuid"), (INSTANCES, "uuid")):
            connection.execute(delete(table).where(table.c[column] == "i-6"))
    found, _, _ = cell.compare(*KINDS)
    assert {(it.aggregate, it.key, it.ledger, it.database) for it in found} == {
        ("hypervisor:hv-2", "", "there", "deleted"),
        ("instance:i-1", "image_ref", "image-a", "image-b"),
        ("instance:i-1", "image_base_image_ref", "image-a", "image-b"),
        ("instance:i-5", "hypervisor_id", "hv-1", "hv-2"),
        ("instance:i-5", "image_min_disk", "1", "2"),
        ("instance:i-6", "", "there", "purged"),
    }
    assert cell.compare(*KINDS, mend=True)[2] == 4
    cell.project()
    assert cell.compare(*KINDS) == ([], {ELSEWHERE: 1}, 0)
    live = rows(cell, "SELECT image_ref FROM instances WHERE instance_uuid = 'i-1'")
    assert live == [{"image_ref": "image-b"}]
    assert rows(cell, "SELECT kind FROM anomalies") == []


def test_what_lacks_a_change_since_it_was_compared_is_told_whole(cell: Cloud) -> None:
    """A mark gives no number, and a mend takes it."""
    bring(cell)
    stored = (SYSTEM_METADATA.c.instance_uuid == "i-1") & (
        SYSTEM_METADATA.c.key == "image_min_disk"
    )
    with cell.stock.begin() as connection:
        connection.execute(update(SYSTEM_METADATA).where(stored).values(value="2"))
    mender = Mender(writer=cell.writer(), context=cell.settings.context())
    with reading(cell.read_model_url) as read_model:
        both = Reconciliation(engine=cell.operator, read_model=read_model)
        (page,) = both.pages(INSTANCE)
    with cell.stock.begin() as connection:
        moved = {"compute_id": 2, "host": "host-2", "node": "node-2"}
        connection.execute(update(INSTANCES).where(INSTANCES.c.uuid == "i-1").values(moved))
        counters.mark(connection, ["instance:i-1"], CREATED)
    assert mender.mend(INSTANCE, page.differing).told == 1
    cell.project()
    assert cell.compare(*KINDS) == ([], {ELSEWHERE: 1}, 0)


def test_after_a_reseed_all_of_a_cell_lacks_nothing_that_agrees(cell: Cloud) -> None:
    """The deleted, the removed, and what is another cell's or is gone as well."""
    with cell.stock.begin() as connection:
        put_instance(connection, 5)
    bring(cell)
    with cell.hooked.begin() as connection:
        gone = {"deleted": 5, "deleted_at": GONE.replace(tzinfo=None)}
        connection.execute(update(INSTANCES).where(INSTANCES.c.uuid == "i-5").values(gone))
        hidden = INSTANCES.c.uuid == "i-1"
        connection.execute(update(INSTANCES).where(hidden).values(hidden=True))
    with cell.stock.begin() as connection:
        purge(connection, "i-5")
    cell.project()
    administration.reseed(cell.stock)
    assert len(cell.unrecorded()) == 7
    before = types(cell)
    assert cell.compare(*KINDS, mend=True) == ([], {ELSEWHERE: 2}, 0)
    assert cell.unrecorded() == []
    assert types(cell) == before


def test_what_is_told_whole_keeps_the_metadata_that_it_has_by_right(cell: Cloud) -> None:
    """Only a rebuild replaces that, and after a reseed all that differs is told whole."""
    bring(cell)
    stored = (SYSTEM_METADATA.c.instance_uuid == "i-1") & (
        SYSTEM_METADATA.c.key == "image_min_disk"
    )
    with cell.hooked.begin() as connection:
        connection.execute(update(SYSTEM_METADATA).where(stored).values(value="2"))
    cell.project()
    administration.reseed(cell.stock)
    with cell.stock.begin() as connection:
        moved = {"compute_id": 2, "host": "host-2", "node": "node-2"}
        connection.execute(update(INSTANCES).where(INSTANCES.c.uuid == "i-1").values(moved))
    assert cell.compare(*KINDS, mend=True)[2] == 1
    cell.project()
    assert cell.compare(*KINDS) == ([], {ELSEWHERE: 1}, 0)
    assert cell.unrecorded() == []
    by_right = (
        "SELECT value FROM instance_attribute_history WHERE kind = 'authoritative'"
        " AND key = 'image_min_disk' AND valid_to IS NULL"
    )
    assert rows(cell, by_right) == [{"value": "1"}]


def test_a_boot_that_a_hook_saw_is_not_told_again(cell: Cloud) -> None:
    with cell.hooked.begin() as connection:
        put_instance(connection, 7)
    bring(cell)
    told = [kind for name, kind in types(cell) if name == "instance:i-7"]
    assert told.count("InstanceBooted") == 1
    assert cell.compare(*KINDS) == ([], {ELSEWHERE: 1}, 0)


def test_an_instance_that_is_there_again_is_told(cell: Cloud) -> None:
    bring(cell)
    with cell.stock.begin() as connection:
        back = {"deleted": 0, "deleted_at": None}
        connection.execute(update(INSTANCES).where(INSTANCES.c.uuid == "i-2").values(back))
        connection.execute(
            update(SYSTEM_METADATA)
            .where(SYSTEM_METADATA.c.instance_uuid == "i-2")
            .values(deleted=0)
        )
    found, _, _ = cell.compare(*KINDS)
    assert [(it.aggregate, it.ledger, it.database) for it in found] == [
        ("instance:i-2", "deleted", "there")
    ]
    cell.compare(*KINDS, mend=True)
    cell.project()
    assert cell.compare(*KINDS) == ([], {ELSEWHERE: 1}, 0)


def test_an_instance_that_went_to_another_cell_is_not_this_ones_to_end(cell: Cloud) -> None:
    bring(cell)
    tell_elsewhere(
        cell,
        InstanceRelocated(
            instance_uuid="i-1",
            cause=RelocationCause.RESIZE,
            to_hypervisor_id="hv-9",
            to_host="host-9",
        ),
    )
    # What Nova does when a resize between cells is finished, and when it is confirmed.
    with cell.hooked.begin() as connection:
        one = INSTANCES.c.uuid == "i-1"
        connection.execute(update(INSTANCES).where(one).values(hidden=True))
    with cell.hooked.begin() as connection:
        purge(connection, "i-1")
    cell.project()
    assert cell.compare(*KINDS, mend=True) == ([], {ELSEWHERE: 2}, 0)


def test_what_is_another_cells_to_tell_keeps_the_mark_of_what_was_lost_here(cell: Cloud) -> None:
    """Nothing of it was compared, so only what the reseed itself marked lacks nothing."""
    bring(cell)
    with cell.hooked.begin() as connection:
        hidden = INSTANCES.c.uuid.in_(["i-1", "i-2"])
        connection.execute(update(INSTANCES).where(hidden).values(hidden=True))
    cell.project()
    with cell.stock.begin() as connection:
        counters.mark(connection, ["instance:i-1"], CREATED)
    administration.reseed(cell.stock)
    assert cell.compare(*KINDS, mend=True)[0] == []
    assert cell.unrecorded() == ["instance:i-1"]


def test_a_hypervisor_that_nova_compute_told_of_is_still_its_databases(cell: Cloud) -> None:
    bring(cell)
    told = HypervisorRegistered(
        hypervisor_id="hv-2",
        id_source=IdSource.NATIVE,
        host="host-2",
        hypervisor_hostname="node-2",
        hypervisor_type="ironic",
    )
    tell_elsewhere(cell, told)
    with cell.stock.begin() as connection:
        connection.execute(delete(COMPUTE_NODES).where(COMPUTE_NODES.c.uuid == "hv-2"))
    found, _, mended = cell.compare(*KINDS, mend=True)
    assert [(it.aggregate, it.database) for it in found] == [("hypervisor:hv-2", "purged")]
    assert mended == 1


def test_what_was_told_beside_its_database_leaves_an_instance_its_own(cell: Cloud) -> None:
    bring(cell)
    taken = SnapshotTaken(
        instance_uuid="i-1", snapshot_image_id="s", image_ref="a", purpose=SnapshotPurpose.SNAPSHOT
    )
    tell_elsewhere(cell, taken)
    with cell.stock.begin() as connection:
        purge(connection, "i-1")
    found, _, mended = cell.compare(*KINDS, mend=True)
    assert [(it.aggregate, it.database) for it in found] == [("instance:i-1", "purged")]
    assert mended == 1


def test_by_which_name_a_hypervisor_is_reached_is_for_itself_to_say(cell: Cloud) -> None:
    bring(cell)
    renamed = HypervisorHostChanged(hypervisor_id="hv-1", from_host="host-1", to_host="host-9")
    tell_elsewhere(cell, renamed)
    assert cell.compare(*KINDS, mend=True) == ([], {ELSEWHERE: 1}, 0)
    with cell.stock.begin() as connection:
        later = COMPUTE_NODES.c.uuid == "hv-2"
        connection.execute(update(COMPUTE_NODES).where(later).values(host="host-7"))
    assert cell.compare(*KINDS, mend=True) == ([], {ELSEWHERE: 1}, 0)


def test_an_instance_that_runs_no_image_any_more_does_not_differ_for_ever(cell: Cloud) -> None:
    """As one on a volume, which Nova rebuilds without saying of which image in its row."""
    bring(cell)
    with cell.stock.begin() as connection:
        one = INSTANCES.c.uuid == "i-1"
        connection.execute(update(INSTANCES).where(one).values(image_ref=""))
    assert cell.compare(*KINDS, mend=True) == ([], {ELSEWHERE: 1}, 0)

"""What the ledger is told of instances, story by story, in the statements and states of Nova 34."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, delete, event, insert, text, update

from metaledger.producers.nova import intents
from metaledger.producers.nova.tables import (
    COMPUTE_NODES,
    INSTANCE_ACTIONS,
    INSTANCES,
    SYSTEM_METADATA,
)
from metaledger.producers.owners import Owner, owned_by
from metaledger.schemas.events import Event
from metaledger.schemas.hypervisor import HypervisorRemoved
from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceDeleted,
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceSystemMetadataSaved,
    RelocationCause,
)

from .cell import HOSTS, IMAGE, NEXT_IMAGE, OTHER, SNAPSHOT, UUID, Cell, cell

REBUILT_METADATA = {"image_base_image_ref": NEXT_IMAGE, "image_min_disk": "2"}


@pytest.fixture
def nova(cell_url: str) -> Iterator[Cell]:
    with cell(cell_url) as made:
        yield made
    owned = {it.__name__ for it in owned_by(Owner.ENGINE_PLUGIN)}
    assert {it.type for it in all_events(made)} <= owned


def all_events(nova: Cell) -> list[Event]:
    return [*nova.events(), *nova.events(OTHER), *nova.events("hv-1", "hypervisor")]


def names(told: list[object]) -> list[str]:
    return [type(it).__name__ for it in told]


def relocations(nova: Cell) -> list[tuple[str | None, str | None, RelocationCause]]:
    return [
        (it.from_hypervisor_id, it.to_hypervisor_id, it.cause)
        for it in nova.told()
        if isinstance(it, InstanceRelocated)
    ]


def begin_rebuild(nova: Cell, image: str = NEXT_IMAGE) -> None:
    """The API's first transaction."""
    nova.save(image_ref=image, task_state="rebuilding", expected={"task_state": None})


def test_a_boot_is_told_before_it_is_scheduled_and_its_first_host_is_a_relocation(
    nova: Cell,
) -> None:
    nova.boot(owner_user_name="alice", password_0="secret", locked_reason="free text")
    nova.spawned()
    booted, placed = nova.told()
    assert booted == InstanceBooted(
        instance_uuid=UUID,
        image_ref=IMAGE,
        system_metadata={
            "image_base_image_ref": IMAGE,
            "image_min_disk": "1",
            "owner_user_name": "alice",
        },
        flavor="m1.small",
    )
    assert placed == InstanceRelocated(
        instance_uuid=UUID,
        cause=RelocationCause.SCHEDULED,
        to_hypervisor_id="hv-1",
        to_host="host-1",
    )
    assert nova.events()[0].meta.service == "nova"


def test_a_boot_from_a_volume_has_no_image(nova: Cell) -> None:
    nova.boot(image="")
    assert nova.told()[0].image_ref is None


def test_an_instance_that_was_never_scheduled_is_deleted_like_any_other(nova: Cell) -> None:
    nova.boot()
    nova.save(vm_state="error", task_state=None)
    nova.destroy()
    assert names(nova.told()) == ["InstanceBooted", "InstanceDeleted"]


def test_states_of_tasks_cost_no_statement_and_tell_nothing(nova: Cell) -> None:
    nova.boot()
    nova.spawned()
    seen: list[str] = []
    event.listen(nova.hooked, "before_cursor_execute", lambda *args: seen.append(args[2]))
    nova.save(task_state="powering-off", expected={"task_state": None})
    nova.save(vm_state="stopped", task_state=None)
    with nova.hooked.begin() as connection:
        # A resource tracker, each minute.
        connection.execute(update(COMPUTE_NODES).values(host=COMPUTE_NODES.c.host))
    assert not [words for words in seen if "metaledger" in words]
    assert len(nova.told()) == 2


def test_a_rebuild_is_completed_by_its_save(nova: Cell) -> None:
    nova.boot()
    nova.spawned()
    before = nova.metadata()
    begin_rebuild(nova)
    nova.save(metadata=REBUILT_METADATA)
    nova.save(task_state="rebuild_spawning")
    nova.save(vm_state="active", task_state=None)
    *_, rebuilt, saved = nova.told()
    assert rebuilt == InstanceRebuilt(
        instance_uuid=UUID, previous_image_ref=IMAGE, image_ref=NEXT_IMAGE, before=before
    )
    assert saved == InstanceSystemMetadataSaved(
        instance_uuid=UUID, operation="rebuild", before=before, after=REBUILT_METADATA
    )
    assert len(nova.told()) == 4


def test_the_first_transaction_of_a_rebuild_tells_no_metadata(nova: Cell) -> None:
    nova.boot()
    nova.spawned()
    begin_rebuild(nova)
    last = nova.told()[-1]
    assert isinstance(last, InstanceRebuilt)
    assert (last.image_ref, last.after) == (NEXT_IMAGE, None)


def test_a_rebuild_without_a_host_is_rolled_back(nova: Cell) -> None:
    nova.boot()
    nova.spawned()
    begin_rebuild(nova)
    nova.save(metadata=REBUILT_METADATA)
    # The conductor restores the image alone, and says ERROR in the next transaction.
    nova.save(image_ref=IMAGE)
    nova.save(vm_state="error", task_state=None)
    last = nova.told()[-1]
    assert last == InstanceRebuildRolledBack(instance_uuid=UUID, image_ref=IMAGE)
    assert names(nova.told()).count("InstanceRebuilt") == 1


def test_a_rebuild_from_the_same_image_is_known_by_novas_own_call(
    nova: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    nova.boot()
    nova.spawned()
    rebuild = told_to_rebuild(monkeypatch, nova)
    rebuild(image_href=IMAGE, instance=UUID)
    *_, rebuilt, saved = nova.told()
    assert isinstance(rebuilt, InstanceRebuilt)
    assert (rebuilt.previous_image_ref, rebuilt.image_ref) == (IMAGE, IMAGE)
    assert saved.operation == "rebuild"


def test_a_rebuild_that_is_tried_again_has_its_metadata_although_nova_saves_none(
    nova: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    nova.boot()
    nova.spawned()
    rebuild = told_to_rebuild(monkeypatch, nova)
    rebuild(image_href=NEXT_IMAGE, instance=UUID)
    nova.save(image_ref=IMAGE)
    nova.save(vm_state="error", task_state=None)
    rebuild(image_href=NEXT_IMAGE, instance=UUID)
    *_, rolled_back, rebuilt, saved = nova.told()
    assert names([rolled_back, rebuilt]) == ["InstanceRebuildRolledBack", "InstanceRebuilt"]
    assert saved == InstanceSystemMetadataSaved(
        instance_uuid=UUID, operation="rebuild", before=REBUILT_METADATA, after=REBUILT_METADATA
    )
    assert len(nova.told()) == 7


def told_to_rebuild(monkeypatch, nova):
    """`nova.compute.api.API.rebuild`, wrapped as it is where Nova is loaded."""

    class Given:
        def __init__(self, uuid: str) -> None:
            self.uuid = uuid

    class API:
        def rebuild(self, _context, _instance, image_href, _password) -> None:
            changed = {} if image_href == IMAGE else {"image_ref": image_href}
            nova.save(task_state="rebuilding", expected={"task_state": None}, **changed)
            nova.save(metadata={"image_base_image_ref": image_href, "image_min_disk": "2"})
            row = {"instance_uuid": UUID, "action": "rebuild", "deleted": 0}
            with nova.hooked.begin() as connection:
                connection.execute(insert(INSTANCE_ACTIONS), row)

    module = type("module", (), {"API": API})
    monkeypatch.setitem(sys.modules, "nova.compute.api", module)
    intents.install()
    intents.install()
    return lambda image_href, instance: API().rebuild(None, Given(instance), image_href, "pw")


def test_an_evacuation_is_no_rebuild(nova: Cell) -> None:
    nova.boot()
    nova.spawned()
    nova.save(task_state="rebuilding", expected={"task_state": None})
    nova.migrate("evacuation")
    nova.place("host-2")
    nova.save(vm_state="active", task_state=None)
    assert relocations(nova)[1:] == [("hv-1", "hv-2", RelocationCause.EVACUATION)]
    assert len(nova.told()) == 3


def test_shelving_borrows_the_image_and_that_is_no_rebuild(nova: Cell) -> None:
    nova.boot()
    nova.spawned()
    kept = nova.metadata()
    nova.save(task_state="shelving", metadata={**kept, "image_base_image_ref": IMAGE})
    shelved = {"shelved_at": "2026", "shelved_image_id": SNAPSHOT, "shelved_host": "host-1"}
    nova.save(vm_state="shelved", task_state=None, metadata={**kept, **shelved})
    nova.place(None, vm_state="shelved_offloaded", task_state=None)
    nova.save(task_state="spawning")
    nova.place("host-2", image_ref=SNAPSHOT)
    nova.save(image_ref=IMAGE, vm_state="active", task_state=None, metadata=kept)
    told = nova.told()
    assert not {"InstanceRebuilt", "InstanceRebuildRolledBack"} & set(names(told))
    saves = [it for it in told if isinstance(it, InstanceSystemMetadataSaved)]
    assert [it.operation for it in saves] == ["save", "unshelve"]
    assert relocations(nova)[1:] == [
        ("hv-1", None, RelocationCause.SCHEDULED),
        (None, "hv-2", RelocationCause.UNSHELVE),
    ]


def test_an_instance_that_is_first_met_while_its_image_is_borrowed_runs_its_own(
    nova: Cell,
) -> None:
    with nova.stock.begin() as connection:
        row = {"uuid": UUID, "image_ref": SNAPSHOT, "vm_state": "shelved_offloaded", "deleted": 0}
        connection.execute(insert(INSTANCES), {**row, "hidden": False, "task_state": "spawning"})
        kept = {"shelved_image_id": SNAPSHOT, "image_base_image_ref": IMAGE}
        for key, value in kept.items():
            row = {"instance_uuid": UUID, "key": key, "value": value, "deleted": 0}
            connection.execute(insert(SYSTEM_METADATA), row)
    nova.place("host-1")
    imported, _ = nova.events()
    assert imported.meta.origin.value == "IMPORTED"
    assert imported.data.image_ref == IMAGE


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("resize", RelocationCause.RESIZE),
        ("migration", RelocationCause.COLD_MIGRATION),
        ("live-migration", RelocationCause.LIVE_MIGRATION),
        ("evacuation", RelocationCause.EVACUATION),
    ],
)
def test_a_move_has_the_cause_of_its_migration_and_a_revert_too(
    nova: Cell, kind: str, cause: RelocationCause
) -> None:
    nova.boot()
    nova.spawned()
    nova.migrate(kind)
    nova.place("host-2")
    nova.place("host-1")
    assert relocations(nova)[1:] == [("hv-1", "hv-2", cause), ("hv-2", "hv-1", cause)]


def test_a_resize_that_sets_the_base_says_that_it_is_one(nova: Cell) -> None:
    nova.boot(image_base_image_ref="older")
    nova.spawned()
    after = {**nova.metadata(), "image_base_image_ref": IMAGE}
    nova.save(task_state="resize_prep", metadata=after)
    saved = nova.told()[-1]
    assert (saved.operation, saved.after) == ("resize", after)


def test_a_reschedule_is_a_relocation_to_nowhere_and_back(nova: Cell) -> None:
    nova.boot()
    nova.place("host-1")
    nova.place(None)
    nova.place("host-2")
    assert [cause for *_, cause in relocations(nova)] == [RelocationCause.SCHEDULED] * 3
    assert relocations(nova)[-1][:2] == (None, "hv-2")


def test_a_deletion_is_told_once_and_its_archive_tells_nothing(nova: Cell) -> None:
    nova.boot()
    nova.boot(OTHER)
    nova.spawned()
    nova.save(vm_state="soft-delete", task_state=None)
    nova.destroy()
    nova.archive()
    told = nova.told()
    assert names(told) == ["InstanceBooted", "InstanceRelocated", "InstanceDeleted"]
    assert told[-1].deleted_at == nova.events()[-1].meta.occurred_at
    assert len(nova.told(OTHER)) == 1


def test_a_deletion_for_good_is_one_too(nova: Cell) -> None:
    nova.boot()
    with nova.hooked.begin() as connection:
        connection.execute(delete(SYSTEM_METADATA).where(SYSTEM_METADATA.c.instance_uuid == UUID))
        connection.execute(delete(INSTANCES).where(INSTANCES.c.uuid == UUID))
    assert isinstance(nova.told()[-1], InstanceDeleted)


def test_an_instance_of_another_cell_arrives_when_it_is_shown(nova: Cell) -> None:
    with nova.hooked.begin() as connection:
        row = {"uuid": UUID, "image_ref": IMAGE, "host": "host-1", "node": "node-host-1"}
        connection.execute(insert(INSTANCES), {**row, "hidden": True, "deleted": 0})
    assert nova.told() == []
    nova.save(hidden=False)
    imported, arrived = nova.events()
    assert (imported.type, imported.meta.origin.value) == ("InstanceBooted", "IMPORTED")
    assert arrived.data.to_hypervisor_id == "hv-1"
    nova.save(hidden=True)
    nova.destroy()
    assert len(nova.told()) == 2


def test_a_compute_node_that_is_deleted_is_a_removed_hypervisor(nova: Cell) -> None:
    with nova.hooked.begin() as connection:
        connection.execute(
            update(COMPUTE_NODES)
            .where(COMPUTE_NODES.c.id == 1, COMPUTE_NODES.c.deleted == 0)
            .values(deleted=COMPUTE_NODES.c.id)
        )
    with nova.hooked.begin() as connection:
        connection.execute(delete(COMPUTE_NODES).where(COMPUTE_NODES.c.deleted != 0))
    assert [it.data for it in nova.events("hv-1", "hypervisor")] == [
        HypervisorRemoved(hypervisor_id="hv-1")
    ]
    assert nova.events("hv-2", "hypervisor") == []


def test_an_instance_without_a_compute_id_is_found_by_the_names_of_its_node(nova: Cell) -> None:
    nova.boot()
    nova.save(host="host-2", node="node-host-2")
    assert relocations(nova) == [(None, HOSTS["host-2"], RelocationCause.SCHEDULED)]


def test_a_resource_tracker_that_holds_its_compute_node_is_not_waited_for(nova: Cell) -> None:
    if nova.stock.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer, from its first statement to its commit")
    nova.boot()
    with nova.stock.connect() as tracker:
        tracker.execute(update(COMPUTE_NODES).values(host=COMPUTE_NODES.c.host + ""))
        event.listen(nova.hooked, "begin", impatient)
        nova.place("host-1")
        tracker.rollback()
    assert relocations(nova) == [(None, "hv-1", RelocationCause.SCHEDULED)]


def impatient(connection: Connection) -> None:
    """Waits for no lock longer than two seconds."""
    patience = {
        "mysql": "SET SESSION innodb_lock_wait_timeout = 2",
        "postgresql": "SET LOCAL lock_timeout = '2s'",
    }
    connection.exec_driver_sql(patience[connection.dialect.name])


def test_what_an_error_hid_is_mended_by_the_next_touch(nova: Cell) -> None:
    nova.boot()
    nova.spawned()
    rename = "ALTER TABLE {} RENAME TO {}"
    with nova.stock.begin() as connection:
        connection.execute(text(rename.format("metaledger_outbox", "metaledger_gone")))
    hidden = {**nova.metadata(), "image_min_disk": "7"}
    nova.save(metadata=hidden)
    with nova.stock.begin() as connection:
        connection.execute(text(rename.format("metaledger_gone", "metaledger_outbox")))
    nova.save(metadata={**hidden, "image_min_ram": "1"})
    *_, boot, saved, placed, observed = nova.events()
    assert [it.meta.origin.value for it in (boot, saved, placed)] == ["RECONCILED"] * 3
    assert (saved.data.before, saved.data.after) == (None, hidden)
    assert placed.data.to_hypervisor_id == "hv-1"
    assert observed.data.before == hidden


def test_the_api_database_of_nova_is_left_alone(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/api.sqlite?plugin=metaledger")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE instance_mappings (instance_uuid TEXT)"))
        connection.execute(text("INSERT INTO instance_mappings VALUES ('u')"))
        assert connection.scalar(text("SELECT count(*) FROM instance_mappings")) == 1
    engine.dispose()

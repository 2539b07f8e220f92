"""What nova-compute's notifications tell, sent by real notifiers and by real operations."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metaledger.producers.nova_compute.notifications import Disks, Notice, read, told
from metaledger.producers.nova_compute.operations import Operation
from metaledger.producers.owners import Owner, owned_by
from metaledger.schemas.events import Event
from metaledger.schemas.hypervisor import HypervisorHostChanged, HypervisorRegistered, IdSource
from metaledger.schemas.instance import (
    InstanceRescued,
    InstanceUnrescued,
    SnapshotPurpose,
    SnapshotTaken,
)

from .conftest import Host, Nova

RECORDED = Path(__file__).with_name("recorded.jsonl")
UUID = "80ea3b91-eb0b-444c-a28b-783d2bdd0ef9"
IMAGE = "155d900f-4e14-4e4c-a73d-069cbf4541e6"
SNAPSHOT = "83ad641a-cbc8-4ab1-8802-d171ec351e88"
RESCUE = "a2459075-d96c-40d5-893e-577ff92e721c"
TAKEN = SnapshotTaken(
    instance_uuid=UUID,
    snapshot_image_id=SNAPSHOT,
    image_ref=IMAGE,
    purpose=SnapshotPurpose.SNAPSHOT,
)


def recorded(event_type: str) -> dict[str, Any]:
    messages = map(json.loads, RECORDED.read_text(encoding="utf-8").splitlines())
    return next(it for it in messages if it["event_type"] == event_type)


def notice(event_type: str) -> Notice:
    found = read(recorded(event_type))
    assert found is not None
    return found


def test_a_versioned_notification_is_complete_by_itself() -> None:
    assert told(notice("instance.snapshot.start"), None) == TAKEN
    assert told(notice("instance.rescue.end"), None) == InstanceRescued(
        instance_uuid=UUID, rescue_image_ref=RESCUE
    )
    unrescued = told(notice("instance.unrescue.end"), None)
    assert unrescued == InstanceUnrescued(instance_uuid=UUID)


def test_an_unversioned_one_tells_with_its_operation_alone() -> None:
    names = ("snapshot.start", "shelve.start", "rescue.end", "unrescue.end")
    notices = [notice(f"compute.instance.{name}") for name in names]
    assert [told(it, None) for it in notices] == [None] * 4
    taken = told(notices[0], Operation(instance_uuid=UUID, snapshot_image_id=SNAPSHOT))
    assert taken == TAKEN


def test_of_two_formats_one_tells() -> None:
    operation = Operation(instance_uuid=UUID, snapshot_image_id=SNAPSHOT)
    both = [notice(f"{name}.snapshot.start") for name in ("compute.instance", "instance")]
    assert [told(it, operation) for it in both] == [TAKEN, None]


def test_the_purpose_is_what_was_asked_for() -> None:
    message = recorded("instance.snapshot.start")
    message["payload"]["nova_object.data"]["task_state"] = "image_backup"
    backup = read(message)
    assert backup is not None
    taken = told(backup, None)
    assert isinstance(taken, SnapshotTaken)
    assert taken.purpose is SnapshotPurpose.BACKUP
    operation = Operation(instance_uuid=UUID, snapshot_image_id="shelved")
    shelved = told(notice("instance.shelve.start"), operation)
    assert isinstance(shelved, SnapshotTaken)
    assert (shelved.purpose, shelved.snapshot_image_id) == (SnapshotPurpose.SHELVE, "shelved")


def test_an_instance_on_a_volume_is_shelved_without_an_image() -> None:
    assert told(notice("instance.shelve.start"), Operation(instance_uuid=UUID)) is None


def test_what_a_rescue_image_says_is_made_representable() -> None:
    metadata = {"image_os_type": "li\0nux"}
    operation = Operation(instance_uuid=UUID, rescue_image_ref="another", rescue_metadata=metadata)
    rescued = told(notice("instance.rescue.end"), operation)
    assert isinstance(rescued, InstanceRescued)
    assert rescued.rescue_image_ref == "another"
    assert rescued.rescue_metadata == {"image_os_type": "li\ufffdnux"}
    assert rescued.altered == ("image_os_type",)


def test_disks_follow_their_instance() -> None:
    assert notice("instance.delete.end").disks is Disks.GONE
    assert notice("compute.instance.delete.end").disks is Disks.GONE
    assert notice("instance.unrescue.end").disks is Disks.RESCUE_GONE
    assert notice("instance.snapshot.start").disks is None
    confirmed = recorded("instance.unrescue.end") | {"event_type": "instance.resize_confirm.end"}
    here = read(confirmed)
    confirmed["payload"]["nova_object.data"]["host"] = "another"
    elsewhere = read(confirmed)
    assert here is not None
    assert elsewhere is not None
    assert (here.disks, elsewhere.disks) == (None, Disks.LEFT)


@pytest.mark.parametrize(
    "message",
    [
        {
            "event_type": "instance.live_migration_post.end",
            "publisher_id": "nova-compute:here",
            "payload": {"nova_object.data": {"uuid": UUID, "host": "here"}},
        },
        {
            "event_type": "compute.instance.live_migration._post.end",
            "publisher_id": "compute.here",
            "payload": {"instance_id": UUID, "host": "here"},
        },
    ],
)
def test_who_migrated_away_has_left_though_nova_still_has_it_here(
    message: Mapping[str, Any],
) -> None:
    """The source's own object of the instance is as it was before."""
    left = read(message)
    assert left is not None
    assert left.disks is Disks.LEFT


@pytest.mark.parametrize(
    "changed",
    [
        {"event_type": "instance.create.end"},
        {"event_type": "compute.instance.exists"},
        {"event_type": "image.update"},
        {"publisher_id": "nova-api:controller"},
    ],
)
def test_what_is_not_nova_computes_tells_nothing(changed: Mapping[str, str]) -> None:
    assert read(recorded("instance.snapshot.start") | changed) is None


def facts(events: Sequence[Event]) -> list[tuple[str, str | None]]:
    return [(event.type, event.meta.request_id) for event in events]


def test_recorded_notifications_through_a_real_notifier(host: Host) -> None:
    shutil.copy(RECORDED, host.folder)
    host.take("notify_as_compute")
    assert "raised" not in host.seen
    request = recorded("instance.snapshot.start")["context"]["request_id"]
    types = ("SnapshotTaken", "InstanceRescued", "InstanceUnrescued")
    assert facts(host.events()) == [(name, request) for name in types]
    assert host.events()[0].data == TAKEN


def test_a_service_that_is_not_nova_compute_writes_nothing(host: Host) -> None:
    shutil.copy(RECORDED, host.folder)
    host.take("notify")
    assert "raised" not in host.seen
    assert not host.spool.exists()


def test_a_spool_that_cannot_be_written_fails_no_notification(host: Host) -> None:
    shutil.copy(RECORDED, host.folder)
    host.spool.mkdir()
    host.take("notify_as_compute")
    assert "raised" not in host.seen


@pytest.fixture(scope="session")
def operations(real_nova: Nova, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What was done by Nova's own services, by format; the spools are beside."""
    folder = tmp_path_factory.mktemp("operations")
    return {"folder": folder, **real_nova.program("operate.py", str(folder))}


@pytest.mark.parametrize("form", ["both", "versioned"])
def test_what_operations_tell_is_what_was_done(
    real_nova: Nova, operations: Mapping[str, Any], form: str
) -> None:
    seen, host = operations[form], Host(real_nova, operations["folder"] / form)
    events = host.events()
    hypervisor = seen["hypervisor"]
    of_host = [it.data for it in events if it.meta.aggregate == f"hypervisor:{hypervisor['id']}"]
    assert of_host == [
        HypervisorRegistered(
            hypervisor_id=hypervisor["id"],
            id_source=IdSource.FILE,
            host=hypervisor["host"],
            hypervisor_hostname=hypervisor["hostname"],
            hypervisor_type="fake",
        ),
        HypervisorHostChanged(
            hypervisor_id=hypervisor["id"], from_host=hypervisor["host"], to_host="renamed"
        ),
    ]
    told_of = [it.data for it in events if it.meta.aggregate == f"instance:{seen['uuid']}"]
    taken = [it for it in told_of if isinstance(it, SnapshotTaken)]
    assert [(it.purpose.value, it.snapshot_image_id) for it in taken] == [
        ("SNAPSHOT", seen["snapshot"]),
        ("BACKUP", seen["backup"]),
        ("SHELVE", seen["shelved"]),
    ]
    assert {it.image_ref for it in taken} == {seen["image"]}
    kinds = ["SnapshotTaken"] * 2 + ["InstanceRescued", "InstanceUnrescued", "SnapshotTaken"]
    assert [type(it).__name__ for it in told_of] == kinds
    rescued = told_of[2]
    # Nova takes the base image where none is asked for, and that is the one it runs.
    assert rescued.rescue_image_ref == seen["image"]
    assert rescued.rescue_metadata["image_container_format"]
    owned = owned_by(Owner.NOTIFICATION_DRIVER)
    assert {type(it.data) for it in events} <= owned

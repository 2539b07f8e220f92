"""From rows to events, without a database; and a ledger that hears of all ends where Nova is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaledger.producers.nova.rows import (
    InstanceState,
    Transition,
    events,
    imported,
    recorded_metadata,
)
from metaledger.schemas.events import EventData
from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceDeleted,
    InstanceSystemMetadataSaved,
    RelocationCause,
)

from ..folds.histories import START, event
from ..folds.rows import Folding
from .histories import HISTORIES, broken

UUID = "0b7a4f2e-6d1c-4c3e-9a51-3f0f6f1d2c11"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOOTED = InstanceState(
    instance_uuid=UUID,
    image_ref="image-a",
    vm_state="active",
    metadata={"image_base_image_ref": "image-a"},
)


def told(before: InstanceState | None, after: InstanceState | None) -> list[EventData]:
    return [*events(Transition(before=before, after=after, occurred_at=NOW))]


def test_passwords_and_free_text_are_not_recorded() -> None:
    given = {
        **dict.fromkeys(("image_os_distro", "shelved_image_id", "owner_user_name"), "kept"),
        **dict.fromkeys(("password_0", "password_3", "image_admin_password"), "secret"),
        **dict.fromkeys(("locked_reason", "network_allocated", "boot_roles", "Image_x"), "left"),
    }
    assert set(recorded_metadata(given).values()) == {"kept"}
    assert len(recorded_metadata(given)) == 3


def test_what_no_ledger_can_hold_is_altered_and_named() -> None:
    after = replace(BOOTED, metadata={**BOOTED.metadata, "image_a": "x\0y", "image_b": "\ud800"})
    [saved] = told(BOOTED, after)
    assert isinstance(saved, InstanceSystemMetadataSaved)
    assert (saved.after["image_a"], saved.after["image_b"]) == ("x\ufffdy", "\ufffd")
    assert saved.altered == ("image_a", "image_b")


@pytest.mark.parametrize(
    ("before", "after", "operation"),
    [
        (None, None, "save"),
        (None, "rebuilding", "rebuild"),
        ("rebuild_spawning", None, "rebuild"),
        (None, "resize_prep", "resize"),
        ("shelving_image_uploading", None, "shelve"),
        ("unshelving", "spawning", "build"),
        (None, "unshelving", "unshelve"),
        ("migrating", None, "live-migration"),
        ("spawning", None, "build"),
        ("powering-off", None, "powering-off"),
    ],
)
def test_a_save_says_what_it_belongs_to(
    before: str | None, after: str | None, operation: str
) -> None:
    was = replace(BOOTED, task_state=before)
    [saved] = told(was, replace(was, task_state=after, metadata={"image_x": "1"}))
    assert isinstance(saved, InstanceSystemMetadataSaved)
    assert saved.operation == operation


def test_an_instance_as_it_stands_is_its_boot_and_its_deletion() -> None:
    gone = replace(BOOTED, deleted=True, host="host-1", hypervisor_id="hv-1")
    booted, deleted = imported(gone, flavor="m1.tiny", seen_at=NOW)
    assert isinstance(booted, InstanceBooted)
    assert (booted.flavor, booted.host, booted.hypervisor_id) == ("m1.tiny", "host-1", "hv-1")
    assert deleted == InstanceDeleted(instance_uuid=UUID, deleted_at=NOW)
    known = replace(gone, deleted_at=NOW - timedelta(days=1))
    assert imported(known, flavor=None, seen_at=NOW)[1].deleted_at == NOW - timedelta(days=1)
    assert imported(replace(BOOTED, hidden=True), flavor=None, seen_at=NOW) == []


PLACES = st.sampled_from([(None, None), ("host-1", "hv-1"), ("host-2", "hv-2"), ("host-3", None)])
METADATA = st.dictionaries(
    st.sampled_from(["image_base_image_ref", "image_a", "image_b", "old_vm_state"]),
    st.sampled_from(["1", "2", None]),
    max_size=4,
)
TASKS = st.sampled_from([None, "spawning", "resize_finish", "rebuild_spawning", "powering-off"])
VM_STATES = st.sampled_from(["building", "active", "error", "shelved_offloaded"])


@st.composite
def lives(draw: st.DrawFn) -> list[InstanceState | None]:
    """What Nova's rows hold of an instance, transaction by transaction, from before it was made.

    Its image changes as Nova changes it: by a rebuild that begins, or by one that is rolled back.
    """
    state = replace(BOOTED, metadata=draw(METADATA), vm_state="building")
    states: list[InstanceState | None] = [None, state]
    restored = state.image_ref
    for _ in range(draw(st.integers(0, 8))):
        host, hypervisor_id = draw(PLACES)
        changes = {
            "host": host,
            "node": host and f"node-{host}",
            "hypervisor_id": hypervisor_id,
            "task_state": draw(TASKS),
            "vm_state": draw(VM_STATES),
        }
        if draw(st.booleans()):
            changes["metadata"] = draw(METADATA)
        if state.is_rebuilding:
            changes["image_ref"] = draw(st.sampled_from([state.image_ref, restored]))
        elif draw(st.booleans()):
            restored = state.image_ref
            changes |= {"task_state": "rebuilding", "image_ref": draw(st.sampled_from("bcd"))}
        state = replace(state, **changes)
        states.append(state)
    if draw(st.booleans()):
        states.append(replace(state, deleted=True))
    return states


@settings(max_examples=200, deadline=None)
@given(lives())
def test_a_ledger_that_hears_of_each_transaction_ends_where_nova_is(
    states: list[InstanceState | None],
) -> None:
    said = [data for pair in pairwise(states) for data in told(*pair)]
    history = [
        event(data, number=number, at=START + timedelta(seconds=number))
        for number, data in enumerate(said, 1)
    ]
    tables = Folding().take(history).tables
    [row] = tables.rows("instances")
    last = states[-1]
    assert last is not None
    assert (row["image_ref"], row["deleted_at"] is not None) == (last.image_ref, last.deleted)
    live = [it for it in tables.rows("instance_metadata_history") if it["valid_to"] is None]
    expected = {} if last.deleted else dict(last.metadata)
    assert {it["key"]: it["value"] for it in live} == expected
    stays = [it for it in tables.rows("instance_locations") if it["valid_to"] is None]
    here = [] if last.deleted or last.host is None else [(last.hypervisor_id, last.host)]
    assert [(it["hypervisor_id"], it["host"]) for it in stays] == here
    valid_at = {it.meta.event_id: it.meta.occurred_at for it in history}
    for table in HISTORIES:
        assert not [*broken(table, tables.rows(table.name), valid_at)]
    kinds = {it["kind"] for it in tables.rows("anomalies")}
    assert "history_gap" not in kinds
    assert "semantics_divergence" not in kinds


def test_a_cause_without_a_migration_is_the_schedulers() -> None:
    on = replace(BOOTED, host="host-1", node="n-1", hypervisor_id="hv-1")
    [moved] = told(on, replace(on, host="host-2", node="n-2", hypervisor_id="hv-2"))
    assert moved.cause is RelocationCause.SCHEDULED  # type: ignore[union-attr]

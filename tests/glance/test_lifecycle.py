"""A real Glance with one line of configuration goes through its life-cycle; the ledger tells it.

After each step the read model says what HTTP answers, and so do the events by EVENTS.md alone; what
these say was lost, and nothing else, is an anomaly.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metaledger.schemas.events import Event
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    SnapshotUploaded,
)
from metaledger.schemas.meta import Origin

from .client import Client
from .ledger import changes, live_properties, lost, recorded, recorded_bytes
from .readmodel import ReadModel
from .service import Glance
from .test_service import wait_until_active

pytestmark = pytest.mark.glance

# What Glance answers beside the properties.
ATTRIBUTES = frozenset(
    (
        *("id", "name", "status", "owner", "visibility", "protected", "os_hidden", "tags"),
        *("disk_format", "container_format", "size", "virtual_size", "min_disk", "min_ram"),
        *("checksum", "os_hash_algo", "os_hash_value", "created_at", "updated_at"),
        *("locations", "direct_url", "stores", "self", "file", "schema"),
    )
)
SNAPSHOT = {"image_type": "snapshot", "instance_uuid": "60fc2546-a436-461d-a7b6-36285c8379ae"}


# What the row of `images` shows as HTTP does, and what stands as text in its attributes alone.
IN_ROW = ("name", "status", "owner", "visibility", "disk_format", "container_format")
IN_ROW_ONCE_UPLOADED = ("size", "checksum")
AS_TEXT = ("protected", "min_disk", "min_ram")


class Steps:
    """One image's events, step by step; after each the read model is checked against HTTP."""

    def __init__(
        self, glance: Glance, client: Client, image_id: str, read_model: ReadModel
    ) -> None:
        self._glance, self._client, self.image_id = glance, client, image_id
        self._told = 0
        self.read_model = read_model

    def new(self) -> list[Event]:
        """The events since the last call."""
        events = recorded(self._glance.database_url, self.image_id)
        assert [event.meta.stream_seq for event in events] == list(range(1, len(events) + 1))
        self.read_model.catch_up()
        answer = self._client.get(self.image_id)
        if answer.status == 200:
            assert live_properties(events) == properties(answer.body)
            self._agrees(answer.body)
        else:
            assert live_properties(events) == self.read_model.properties(self.image_id) == {}
            assert self.read_model.image(self.image_id)["status"] == "deleted"
        assert self.read_model.lost(self.image_id) == {
            key: value for key, value in lost(events).items() if not key.startswith("os_glance_")
        }
        new, self._told = events[self._told :], len(events)
        return new

    def _agrees(self, answered: dict[str, Any]) -> None:
        """The read model says what HTTP answered."""
        image = self.read_model.image(self.image_id)
        names = IN_ROW if answered["size"] is None else IN_ROW + IN_ROW_ONCE_UPLOADED
        assert {name: image[name] for name in names} == {name: answered[name] for name in names}
        assert self.read_model.properties(self.image_id) == properties(answered)
        attributes = self.read_model.attributes(self.image_id)
        assert json.loads(attributes["tags"] or "") == sorted(answered["tags"])
        for name in AS_TEXT:
            assert attributes[name] == json.dumps(answered[name])

    def one(self) -> Event:
        """The one event since the last call."""
        (event,) = self.new()
        return event


def properties(image: dict[str, Any]) -> dict[str, str | None]:
    return {key: value for key, value in image.items() if key not in ATTRIBUTES}


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def add(key: str, value: str) -> dict[str, str]:
    return {"op": "add", "path": f"/{key}", "value": value}


def remove(key: str) -> dict[str, str]:
    return {"op": "remove", "path": f"/{key}"}


Begin = Callable[..., Steps]


@pytest.fixture(scope="module")
def read_model(
    hooked_glance: Glance, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReadModel]:
    """The ledger's tables for the module's Glance."""
    made = ReadModel(tmp_path_factory.mktemp("read-model"), hooked_glance.database_url)
    yield made
    made.close()


@pytest.fixture
def begin(hooked_glance: Glance, read_model: ReadModel) -> Begin:
    """Makes an image and returns its steps, with the registration still to be read."""

    def make(client: Client | None = None, **attributes: object) -> Steps:
        client = client or hooked_glance.client()
        answer = client.create(**attributes)
        assert answer.status == 201
        return Steps(hooked_glance, client, answer.body["id"], read_model)

    return make


@pytest.fixture
def race(hooked_glance: Glance, tmp_path: Path) -> Callable[..., None]:
    """Runs two PATCHes: the first reads, the second is served whole, the first saves."""

    def run(image_id: str, first: list[dict[str, str]], second: list[dict[str, str]]) -> None:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        held = hooked_glance.client(headers={"X-Gate": str(gate)})
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(held.patch, image_id, first)
            with gate.open("w"):  # returns once the first has read the image
                assert hooked_glance.client().patch(image_id, second).status == 200
            assert answer.result().status == 200

    return run


def test_a_snapshot_from_registration_to_deletion(hooked_glance: Glance, begin: Begin) -> None:
    client = hooked_glance.client()
    steps = begin(name="snap", visibility="private", **SNAPSHOT, key1="v1", key2="v2", tags=["t0"])
    registered, tagged = steps.new()
    assert isinstance(registered.data, ImageRegistered)
    assert registered.data.properties == {**SNAPSHOT, "key1": "v1", "key2": "v2"}
    assert (registered.data.name, registered.data.owner) == ("snap", "projA")
    assert registered.data.status == "queued"
    assert isinstance(tagged.data, ImageUpdated)
    assert tagged.data.tags == ("t0",)

    assert client.upload(steps.image_id, b"data").status == 204
    saving, uploaded, rest = steps.new()
    assert isinstance(saving.data, ImageUpdated)
    assert saving.data.attributes == {"status": "saving"}
    assert isinstance(uploaded.data, SnapshotUploaded)
    assert (uploaded.data.size, uploaded.data.status) == (4, "active")
    assert uploaded.data.instance_uuid == SNAPSHOT["instance_uuid"]
    assert uploaded.data.checksum == client.get(steps.image_id).body["checksum"]
    assert uploaded.data.change.mode is Mode.PURGE
    assert isinstance(rest.data, ImageUpdated)
    assert rest.data.attributes == {"location_count": "1", "virtual_size": "4"}

    assert client.deactivate(steps.image_id).status == 204
    assert steps.one().data.attributes == {"status": "deactivated"}  # type: ignore[union-attr]
    assert client.reactivate(steps.image_id).status == 204
    assert steps.one().data.attributes == {"status": "active"}  # type: ignore[union-attr]

    assert client.add_tag(steps.image_id, "t1").status == 204
    tagged = steps.one()
    assert isinstance(tagged.data, ImageUpdated)
    assert set(tagged.data.tags or ()) == {"t0", "t1"}
    assert client.remove_tag(steps.image_id, "t0").status == 204
    assert steps.one().data.tags == ("t1",)  # type: ignore[union-attr]

    assert client.delete(steps.image_id).status == 204
    emptied, deleted = steps.new()  # Glance deletes the data first
    assert emptied.data.attributes == {"location_count": "0"}  # type: ignore[union-attr]
    assert isinstance(deleted.data, ImageDeleted)


def test_an_ordinary_patch_says_what_was_meant(hooked_glance: Glance, begin: Begin) -> None:
    client = hooked_glance.client(user="carol")
    steps = begin(key1="v1", key2="v2")
    steps.new()
    operations = [
        {"op": "replace", "path": "/key1", "value": "v9"},
        add("key3", "v3"),
        remove("key2"),
        {"op": "replace", "path": "/name", "value": "renamed"},
    ]
    assert client.patch(steps.image_id, operations).status == 200
    event = steps.one()
    assert isinstance(event.data, ImageUpdated)
    assert event.data.attributes == {"name": "renamed"}
    change = event.data.change
    assert change.mode is Mode.PURGE
    assert change.set == {"key1": "v9", "key3": "v3"}
    assert set(change.seen or ()) == {"key1", "key2"}
    assert change.removed is None
    assert change.before == {"key1": "v1", "key2": "v2"}
    assert change.after == {"key1": "v9", "key3": "v3"}
    assert tuple(change.exempt) == ("os_glance_import_task",)
    assert (event.meta.user_id, event.meta.project_id) == ("carol", "projA")
    assert event.meta.request_id is not None
    assert event.meta.origin is Origin.OBSERVED
    assert steps.read_model.anomalies(steps.image_id) == []


def test_a_patch_that_changes_nothing_is_no_event(hooked_glance: Glance, begin: Begin) -> None:
    client = hooked_glance.client()
    steps = begin(key="v")
    steps.new()
    assert client.patch(steps.image_id, [add("key", "v")]).status == 200
    assert client.patch(steps.image_id, []).status == 200
    assert steps.new() == []


def test_a_key_that_comes_again_is_set_again(hooked_glance: Glance, begin: Begin) -> None:
    client = hooked_glance.client()
    steps = begin(key="v")
    steps.new()
    for operation, held in ((remove("key"), {}), (add("key", "w"), {"key": "w"})):
        assert client.patch(steps.image_id, [operation]).status == 200
        (change,) = changes(steps.new())
        assert change.after == held


def test_a_lost_update_is_told_from_a_decision(begin: Begin, race: Callable[..., None]) -> None:
    steps = begin(key="v", going="soon")
    steps.new()
    race(
        steps.image_id,
        first=[add("mine", "1"), remove("going")],
        second=[add("theirs", "precious")],
    )
    second, first = changes(steps.new())
    assert second.after == {"key": "v", "going": "soon", "theirs": "precious"}
    assert first.before == second.after
    assert first.after == {"key": "v", "mine": "1"}
    assert set(first.seen or ()) == {"key", "going"}
    assert steps.read_model.lost(steps.image_id) == {"theirs": "precious"}
    assert steps.read_model.anomalies(steps.image_id) == ["properties_lost_to_purge"]


def test_an_import_is_told_with_the_user_who_asked_for_it(
    hooked_glance: Glance, begin: Begin
) -> None:
    client = hooked_glance.client(user="dave")
    steps = begin(client, key="v")
    assert client.stage(steps.image_id, b"data").status == 204
    assert client.import_staged(steps.image_id).status == 202
    assert wait_until_active(client, steps.image_id) == "active"
    events = wait_until_unlocked(hooked_glance, steps)
    assert "ImageDataUploaded" in types(events)
    (uploaded,) = (event for event in events if isinstance(event.data, ImageDataUploaded))
    assert uploaded.data.status == "active"
    assert {event.meta.user_id for event in events} == {"dave"}
    assert all(event.meta.request_id for event in events)
    # Glance's own lock was set and removed by Core statements that no purge touches.
    assert lost(events).keys() <= {"os_glance_importing_to_stores"}
    steps.new()
    assert live_properties(events)["key"] == "v"


def wait_until_unlocked(glance: Glance, steps: Steps) -> list[Event]:
    """All events of the image once its import has dropped its lock: the last thing that it does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = recorded(glance.database_url, steps.image_id)
        if "os_glance_import_task" not in live_properties(events):
            break
        time.sleep(0.05)
    return events


def test_protected_properties_that_a_user_could_not_read_are_lost_not_removed(
    guarded_glance: Glance,
) -> None:
    boss = guarded_glance.client(roles="member,admin,boss")
    image_id = boss.create(key="v", secret_k="s").body["id"]
    member = guarded_glance.client(roles="member,admin")
    assert "secret_k" not in member.get(image_id).body
    assert member.patch(image_id, [add("mine", "1")]).status == 200
    assert "secret_k" not in boss.get(image_id).body
    events = recorded(guarded_glance.database_url, image_id)
    assert lost(events) == {"secret_k": "s"}


def test_db_purge_deletes_live_properties_and_the_ledger_tells(
    hooked_glance: Glance, begin: Begin
) -> None:
    """A key that was added again keeps its old `deleted_at`, and that is what the purge goes by."""
    client = hooked_glance.client()
    steps = begin(key="v", other="o")
    assert client.patch(steps.image_id, [remove("key")]).status == 200
    assert client.patch(steps.image_id, [add("key", "again")]).status == 200
    steps.new()
    hooked_glance.manage("db", "purge", "--age_in_days", "0", "--max_rows", "100")
    change = changes([steps.one()])[0]
    assert change.before == {"key": "again", "other": "o"}
    assert change.after == {"other": "o"}
    assert lost(recorded(hooked_glance.database_url, steps.image_id)) == {"key": "again"}


def test_the_filter_adds_what_the_caller_asked_to_remove(filtered_glance: Glance) -> None:
    client = filtered_glance.client()
    image_id = client.create(key1="v1", key2="v2").body["id"]
    assert client.patch(image_id, [remove("key1"), add("key3", "v3")]).status == 200
    assert client.upload(image_id, b"data").status == 204
    patched, saving, uploaded, _ = changes(recorded(filtered_glance.database_url, image_id))
    assert patched.removed == ("key1",)
    assert saving.removed is None
    assert uploaded.removed is None


def test_a_location_is_counted_and_its_url_recorded_nowhere(
    hooked_glance: Glance, begin: Begin
) -> None:
    client = hooked_glance.client()
    steps = begin(name="located")
    assert client.upload(steps.image_id, b"data").status == 204
    (location,) = client.get(steps.image_id).body["locations"]
    assert location["url"].startswith("file://")
    assert "location_count" in str(recorded(hooked_glance.database_url, steps.image_id))
    tables = recorded_bytes(hooked_glance.database_url)
    assert location["url"].encode() not in tables
    assert b"file://" not in tables


def test_a_value_that_the_ledger_cannot_hold_is_altered_and_named(
    hooked_glance: Glance, begin: Begin
) -> None:
    client = hooked_glance.client()
    steps = begin(key="v")
    steps.new()
    answer = client.patch(steps.image_id, [add("nul", "a\0b")])
    if hooked_glance.database_url.startswith("postgresql"):
        assert answer.status >= 400
        assert steps.new() == []
        return
    assert answer.status == 200
    (change,) = changes(recorded(hooked_glance.database_url, steps.image_id))
    assert change.set["nul"] == "a\ufffdb"
    assert change.altered == ("nul",)
    steps.read_model.catch_up()
    assert steps.read_model.properties(steps.image_id) == {"key": "v", "nul": "a\ufffdb"}
    assert steps.read_model.anomalies(steps.image_id) == ["value_altered"]


def test_a_refused_request_leaves_no_event(hooked_glance: Glance, begin: Begin) -> None:
    client = hooked_glance.client()
    steps = begin(name="kept")
    steps.new()
    assert client.create(id=steps.image_id, name="twice").status == 409
    assert client.patch(steps.image_id, [{"op": "replace", "path": "/status"}]).status >= 400
    assert client.delete("no-such-image").status == 404
    assert steps.new() == []


@pytest.fixture
def many_patches() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_storm_of_patches_is_told_in_the_order_in_which_it_happened(
    hooked_glance: Glance, begin: Begin, many_patches: ThreadPoolExecutor
) -> None:
    """Whatever Glance answers (on SQLite mostly 500), the events fold to what it holds."""
    client = hooked_glance.client()
    steps = begin(key="v")
    answers = many_patches.map(
        lambda n: client.patch(steps.image_id, [add(f"k{n}", str(n))]).status, range(24)
    )
    statuses = list(answers)
    events = steps.new()
    # A change can be committed and answered with 500: its tags are saved after it.
    assert 1 <= statuses.count(200) <= len(changes(events))
    kept = live_properties(events).keys() | lost(events).keys()
    won = {f"k{n}" for n, status in enumerate(statuses) if status == 200}
    assert kept >= {"key", *won}

"""The stage behind the folds: what it says depends on events alone, and comes once settled."""

import itertools
import json
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from metaledger.projector import database, stage
from metaledger.projector.judgements import JUDGED
from metaledger.projector.lineage import DEPTH_MAX
from metaledger.projector.stage import derive
from metaledger.schemas.disk import DiskDeleted
from metaledger.schemas.events import Event, EventData
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.image import (
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceDeleted,
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceSystemMetadataSaved,
    RelocationCause,
    SnapshotPurpose,
    SnapshotTaken,
)
from metaledger.schemas.ledger import SourceProgressed
from metaledger.schemas.meta import Origin
from metaledger.schemas.tables import DERIVED

from ..store.readmodels import Dump, Place, dump, empty, engine_of, kept_open, store_of
from . import derived_oracle
from .ledgers import AT, Ledger, event

fixed = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
few, many = settings(max_examples=12, **fixed), settings(max_examples=80, **fixed)
BASE = "image_base_image_ref"


def declaring(image: str, base: str | None) -> ImageRegistered:
    properties = {} if base is None else {"base_image_ref": base}
    return ImageRegistered(image_id=image, status="queued", properties=properties)


def purged(image: str) -> ImageUpdated:
    return ImageUpdated(image_id=image, change=PropertyChange(mode=Mode.PURGE))


def uploaded(image: str, instance: str | None = None) -> SnapshotUploaded:
    return SnapshotUploaded(
        image_id=image,
        instance_uuid=instance,
        size=1,
        status="active",
        change=PropertyChange(mode=Mode.MERGE),
    )


def booted(instance: str, image: str | None, base: str | None = None) -> InstanceBooted:
    metadata = {} if base is None else {BASE: base}
    return InstanceBooted(instance_uuid=instance, image_ref=image, system_metadata=metadata)


def taken(image: str, instance: str, ran: str | None) -> SnapshotTaken:
    return SnapshotTaken(
        instance_uuid=instance,
        snapshot_image_id=image,
        image_ref=ran,
        purpose=SnapshotPurpose.SNAPSHOT,
    )


def saved(instance: str, base: str | None) -> InstanceSystemMetadataSaved:
    after = {} if base is None else {BASE: base}
    return InstanceSystemMetadataSaved(instance_uuid=instance, operation="save", after=after)


def hypervisor(name: str, host: str, kind: str = "QEMU") -> HypervisorRegistered:
    return HypervisorRegistered(
        hypervisor_id=name, id_source=IdSource.FILE, host=host, hypervisor_type=kind
    )


def moved(name: str, left: str, host: str) -> HypervisorHostChanged:
    return HypervisorHostChanged(hypervisor_id=name, from_host=left, to_host=host)


def placed(instance: str, name: str | None, host: str | None = None) -> InstanceBooted:
    return InstanceBooted(instance_uuid=instance, hypervisor_id=name, host=host)


def brought(
    instance: str, name: str | None, host: str | None = None, left: str | None = None
) -> InstanceRelocated:
    return InstanceRelocated(
        instance_uuid=instance,
        cause=RelocationCause.LIVE_MIGRATION,
        from_hypervisor_id=left,
        to_hypervisor_id=name,
        to_host=host,
    )


def numbered(told: Sequence[EventData | tuple[Origin, EventData]]) -> list[Event]:
    """The events in this order, a minute apart; observed where nothing else is said."""
    counts = dict[str, int]()
    events = []
    for minute, one in enumerate(told):
        origin, data = one if isinstance(one, tuple) else (Origin.OBSERVED, one)
        name = str(data.aggregate)
        counts[name] = counts.get(name, 0) + 1
        at = AT + timedelta(minutes=minute)
        events.append(event(data, counts[name], at=at, origin=origin))
    return events


def of_images(chance: random.Random) -> EventData:
    """One of the events that lineage is made of, about few images and instances."""
    image, other, maybe = chance.choices(["i-0", "i-1", "i-2"], k=3)
    base = chance.choice([None, other])
    instance = chance.choice(["u-0", "u-1"])
    told: list[EventData] = [
        declaring(image, other),
        declaring(image, base),
        taken(image, instance, base),
        taken(image, instance, other),
        purged(image),
        uploaded(image, chance.choice([None, instance])),
        ImageDeleted(image_id=image, deleted_at=AT),
        booted(instance, base, maybe),
        saved(instance, chance.choice([None, maybe])),
        InstanceRebuilt(instance_uuid=instance, image_ref=image),
        InstanceRebuildRolledBack(instance_uuid=instance),
        InstanceDeleted(instance_uuid=instance, deleted_at=AT),
        DiskDeleted(instance_uuid=instance, disk="disk"),
    ]
    return chance.choice(told)


def of_machines(chance: random.Random) -> EventData:
    """One of the events of a few hypervisors."""
    name = chance.choice(["h-0", "h-1", "h-2"])
    host, left = chance.choices(["a", "b", "c"], k=2)
    told: list[EventData] = [
        hypervisor(name, host, chance.choice(["QEMU", "QEMU", "ironic"])),
        moved(name, left, host),
        moved(name, left, host),
        HypervisorRemoved(hypervisor_id=name),
    ]
    return chance.choice(told)


def of_places(chance: random.Random) -> EventData:
    """One of the events of a few instances, and of the hypervisors that they may be on."""
    instance, name = chance.choice(["u-0", "u-1"]), chance.choice(["h-0", "h-1", "h-2"])
    maybe, left = (chance.choice([None, name, "h-0", "h-1"]) for _ in range(2))
    host = chance.choice([None, "a", "b"])
    told: list[EventData] = [
        placed(instance, maybe, host),
        brought(instance, name, host),
        brought(instance, maybe, host, left),
        saved(instance, None),
        InstanceDeleted(instance_uuid=instance, deleted_at=AT),
        hypervisor(name, "a"),
        moved(name, "a", "b"),
        HypervisorRemoved(hypervisor_id=name),
    ]
    return chance.choice(told)


def random_ledger(seed: int) -> list[Event]:
    chance = random.Random(seed)
    one = chance.choice([of_images, of_images, of_machines, of_places])
    return numbered([(origin(chance), one(chance)) for _ in range(chance.randint(2, 24))])


def origin(chance: random.Random) -> Origin:
    """Mostly observed."""
    unseen = [Origin.IMPORTED, Origin.RECONCILED]
    return chance.choice([*unseen, *[Origin.OBSERVED] * 4])


# By chance alone: hypothesis, which looks for the simplest, tells of too few things at once.
LEDGERS = st.integers(0, 2**32).map(random_ledger)


def derived(found: Dump) -> dict[str, Any]:
    """What the stage made: its tables, and the judged anomalies that stand."""
    judged = [
        row
        for row in found["anomalies"]
        if row["kind"] in JUDGED and row["withdrawn_by_event"] is None
    ]
    return {table.name: found[table.name] for table in DERIVED} | {"judged": judged}


@pytest.fixture
def read_models(place: Place):
    """Two, which every example empties."""
    first, second = place(), place()
    with kept_open(first), kept_open(second):
        yield first, second


def project(url: str, folder: Path, events: list[Event], sizes: list[int]) -> Dump:
    """Derives behind so many events each time."""
    empty(url)
    fresh.count += 1  # type: ignore[attr-defined]
    ledger = Ledger(folder / f"stage-{fresh.count}.db")  # type: ignore[attr-defined]
    waiting, each = iter(events), itertools.cycle(sizes)
    while chunk := list(itertools.islice(waiting, next(each))):
        ledger.append(*chunk)
        ledger.project(url)
    ledger.log.close()
    return dump(url)


def fresh() -> None:
    """Counts the logs."""


fresh.count = 0  # type: ignore[attr-defined]


@many
@given(LEDGERS)
def test_the_stage_and_a_naive_oracle_agree(tmp_path: Path, events: list[Event]) -> None:
    url = f"sqlite:///{tmp_path}/read.db"
    with kept_open(url):
        found = project(url, tmp_path, events, [len(events)])
    assert derived_oracle.made(found) == derived_oracle.derived(found)


@few
@given(LEDGERS, st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 2**32))
def test_neither_splits_nor_the_order_of_aggregates_change_what_is_derived(
    read_models: tuple[str, str], tmp_path: Path, events: list[Event], sizes: list[int], seed: int
) -> None:
    waiting = [
        [one for one in events if one.meta.aggregate == name]
        for name in sorted({one.meta.aggregate for one in events})
    ]
    source, mixed = random.Random(seed), list[Event]()
    while any(waiting):
        mixed.append(source.choice([those for those in waiting if those]).pop(0))
    whole = project(read_models[0], tmp_path, events, [len(events)])
    parts = project(read_models[1], tmp_path, mixed, sizes)
    assert derived(parts) == derived(whole)


@pytest.fixture
def tell(url: str, ledger: Ledger):
    """Appends what is told and projects it; gives what was derived then."""
    told = list[tuple[Origin, EventData]]()

    def tell(*data: EventData, origin: Origin = Origin.OBSERVED) -> dict[str, Any]:
        told.extend((origin, one) for one in data)
        ledger.append(*numbered(told)[len(told) - len(data) :])
        ledger.project(url)
        return dump(url)

    with store_of(url):
        pass
    return tell


def standing(found: Dump) -> list[tuple[str, str]]:
    return sorted(
        (row["kind"], row["aggregate_id"])
        for row in found["anomalies"]
        if row["kind"] in JUDGED and row["withdrawn_by_event"] is None
    )


def path_of(found: Dump, image_id: str) -> list[str]:
    rows = [row for row in found["image_ancestors"] if row["image_id"] == image_id]
    return [row["ancestor_image_id"] for row in sorted(rows, key=lambda row: row["depth"])]


def test_a_parent_is_known_although_every_property_that_names_it_was_purged(tell) -> None:
    found = tell(
        declaring("base", None),
        booted("u", "base", "base"),
        taken("snap", "u", "base"),
        declaring("snap", "base"),
        uploaded("snap", "u"),
        purged("snap"),
    )
    [row] = found["derived_lineage"]
    assert row["parent_image_id"] == row["base_image_ref"] == "base"
    assert (row["declared_base_image_ref"], row["declared_lost"]) == ("base", True)
    assert row["evidence"] == "agreed"
    assert standing(found) == [("base_image_ref_missing", "snap")]


def test_the_first_base_of_a_snapshot_of_a_snapshot_is_agreed_when_the_ancestry_is_known(
    tell,
) -> None:
    found = tell(
        booted("u-2", "snap-1", "base"),
        taken("snap-2", "u-2", "snap-1"),
        declaring("snap-2", "base"),
    )
    assert standing(found) == [
        ("base_image_ref_contradicted", "snap-2"),
        ("base_image_ref_stale", "u-2"),
    ]
    found = tell(booted("u-1", "base"), taken("snap-1", "u-1", "base"))
    assert standing(found) == []
    withdrawn = [row["withdrawn_by_event"] for row in found["anomalies"]]
    assert len(withdrawn) == 2
    assert all(withdrawn)
    assert [row["evidence"] for row in found["derived_lineage"]] == ["derived", "agreed"]
    assert path_of(found, "snap-2") == ["snap-1", "base"]


def test_what_ran_is_the_parent_whatever_the_image_declares(tell) -> None:
    found = tell(
        booted("u", "base"), taken("snap", "u", None), declaring("snap", "other"), uploaded("snap")
    )
    assert path_of(found, "snap") == ["base"]
    [row] = found["derived_lineage"]
    assert (row["evidence"], row["base_image_ref"]) == ("contradicted", "base")
    assert standing(found) == [("base_image_ref_contradicted", "snap")]


UNSEEN = [Origin.IMPORTED, Origin.RECONCILED]


@pytest.mark.parametrize("instance_first", [True, False])
@pytest.mark.parametrize("runs_now", ["snap", "other"])
def test_what_an_instance_runs_now_is_no_parent_of_a_snapshot_from_before(
    tell, runs_now: str, instance_first: bool
) -> None:
    """It was rebuilt since, from its own snapshot or from another image."""
    base = "base" if runs_now == "snap" else runs_now
    instance = [booted("u", runs_now, base), booted("gone", runs_now, base)]
    instance += [InstanceDeleted(instance_uuid="gone", deleted_at=AT)]
    image = [declaring(runs_now, None)] if runs_now == "other" else []
    for name, uuid in (("snap", "u"), ("old", "gone"), ("purged", "u")):
        image += [declaring(name, None if name == "purged" else "base"), uploaded(name, uuid)]
    told = [*instance, *image] if instance_first else [*image, *instance]
    found = tell(*told, origin=Origin.IMPORTED)
    assert standing(found) == []
    snapshots = [(row["image_id"], row["instance_uuid"]) for row in found["snapshots"]]
    assert snapshots == [("old", "gone"), ("purged", "u"), ("snap", "u")]
    assert {row["parent_image_id"] for row in found["snapshots"]} == {None}
    assert {row["taken_at"] for row in found["snapshots"]} == {None}
    evidence = {row["image_id"]: row["evidence"] for row in found["derived_lineage"]}
    assert evidence == {"old": "declared", "purged": "none", "snap": "declared"}
    assert path_of(found, "snap") == path_of(found, "old") == ["base"]


@pytest.mark.parametrize("origin", [Origin.OBSERVED, *UNSEEN])
def test_an_instance_ran_before_what_it_booted_with_if_that_was_seen(tell, origin: Origin) -> None:
    tell(taken("snap", "u", None), declaring("other", None), uploaded("other", "u"))
    found = tell(booted("u", "base"), origin=origin)
    parent = "base" if origin is Origin.OBSERVED else None
    assert [row["parent_image_id"] for row in found["snapshots"]] == [parent, parent]
    assert None not in [row["taken_at"] for row in found["snapshots"]]
    rebuilt = InstanceRebuilt(instance_uuid="u", previous_image_ref="base", image_ref="next")
    found = tell(rebuilt, taken("later", "u", None))
    assert [row["parent_image_id"] for row in found["snapshots"]] == ["next", parent, parent]


def test_of_what_was_there_before_a_rebuild_nothing_else_is_known(tell) -> None:
    rebuilt = InstanceRebuilt(instance_uuid="u", previous_image_ref="base", image_ref="next")
    found = tell(taken("snap", "u", None), rebuilt)
    assert [row["parent_image_id"] for row in found["snapshots"]] == [None]


@pytest.mark.parametrize("origin", UNSEEN)
def test_a_snapshot_that_was_seen_counts_before_one_that_was_found(tell, origin: Origin) -> None:
    tell(booted("u", "base"))
    found = tell(taken("snap", "u", None), origin=origin)
    [row] = found["snapshots"]
    assert (row["parent_image_id"], row["taken_at"]) == (None, None)
    found = tell(taken("snap", "u", None))
    [row] = found["snapshots"]
    assert (row["parent_image_id"], row["taken_at"]) == ("base", AT + timedelta(minutes=2))


@pytest.mark.parametrize("origin", UNSEEN)
def test_a_snapshot_that_was_found_registered_was_taken_when_its_data_came(
    tell, origin: Origin
) -> None:
    tell(booted("u", "base"))
    tell(declaring("snap", None), origin=origin)
    tell(InstanceRebuilt(instance_uuid="u", previous_image_ref="base", image_ref="next"))
    found = tell(uploaded("snap", "u"))
    [row] = found["snapshots"]
    assert (row["parent_image_id"], row["taken_at"]) == ("next", AT + timedelta(minutes=3))
    found = tell(declaring("snap", None))
    [row] = found["snapshots"]
    assert (row["parent_image_id"], row["taken_at"]) == ("next", AT + timedelta(minutes=4))
    assert derived_oracle.made(found) == derived_oracle.derived(found)


@pytest.mark.parametrize("origin", UNSEEN)
def test_an_instance_from_before_was_not_seen_to_boot_and_raises_nothing(
    tell, origin: Origin
) -> None:
    found = tell(booted("u", "base"), origin=origin)
    assert standing(found) == []
    assert standing(tell(declaring("snap", None), uploaded("snap", "u"))) == []
    assert standing(tell(InstanceDeleted(instance_uuid="u", deleted_at=AT))) == []


@pytest.mark.parametrize("origin", UNSEEN)
def test_a_boot_that_is_found_mends_that_nobody_told_of_one(tell, origin: Origin) -> None:
    assert standing(tell(saved("u", "base"))) == [("instance_never_booted", "u")]
    assert standing(tell(booted("u", "base"), origin=origin)) == []


def test_a_rebuild_that_was_rolled_back_leaves_a_stale_base(tell) -> None:
    rebuilt = InstanceRebuilt(instance_uuid="u", image_ref="other", after={BASE: "other"})
    assert standing(tell(booted("u", "base", "base"), rebuilt)) == []
    back = InstanceRebuildRolledBack(instance_uuid="u", image_ref="base")
    assert standing(tell(back)) == [("base_image_ref_stale", "u")]
    assert standing(tell(saved("u", "base"))) == []


def test_a_cycle_ends_every_path_and_is_raised_on_the_images_that_lie_on_it(tell) -> None:
    found = tell(
        declaring("a", "b"), declaring("b", "a"), declaring("c", "a"), declaring("self", "self")
    )
    assert standing(found) == [("lineage_cycle", name) for name in ("a", "b", "self")]
    paths = {name: path_of(found, name) for name in ("a", "b", "c", "self")}
    assert paths == {"a": ["b"], "b": ["a"], "c": ["a", "b"], "self": []}
    change = PropertyChange(mode=Mode.MERGE, set={"base_image_ref": "root"})
    found = tell(ImageUpdated(image_id="a", change=change))
    assert standing(found) == [("lineage_cycle", "self")]


def test_marks_of_deep_images_are_worked_off_a_few_at_a_time(
    tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a transaction holds in memory is bounded, however deep and however many they are."""
    monkeypatch.setattr(stage, "_ANCESTORS_MAX", 20)
    found = tell(*(declaring(f"i-{n}", f"i-{n + 1}") for n in range(60)))
    assert max(row["depth"] for row in found["image_ancestors"]) == 60
    assert standing(found) == []


@pytest.mark.slow
def test_a_hostile_chain_has_an_end(tell) -> None:
    last = DEPTH_MAX + 5
    found = tell(*(declaring(f"i-{n}", f"i-{n + 1}") for n in range(last)))
    assert max(row["depth"] for row in found["image_ancestors"]) == DEPTH_MAX
    assert [kind for kind, _ in standing(found)] == ["lineage_cycle"] * 5


def test_an_instance_that_nobody_saw_boot_is_told_until_its_boot_comes(tell) -> None:
    found = tell(saved("u", "base"))
    assert standing(found) == [("instance_never_booted", "u")]
    found = tell(booted("u", "base"))
    assert standing(found) == []


UNKNOWN = [("instance_hypervisor_unknown", "u")]


def test_an_instance_on_a_hypervisor_that_nobody_registered_is_told_until_somebody_does(
    tell,
) -> None:
    tell(hypervisor("h-1", "a"))
    assert standing(tell(placed("u", "h-2", "b"))) == UNKNOWN
    # That it is gone tells nothing of who it was.
    assert standing(tell(HypervisorRemoved(hypervisor_id="h-2"))) == UNKNOWN
    found = tell(hypervisor("h-2", "b"))
    assert standing(found) == []
    [anomaly] = [row for row in found["anomalies"] if row["kind"] == UNKNOWN[0][0]]
    assert anomaly["details"] == {"hypervisor_id": "h-2"}
    events = {row["event_id"]: row["event_type"] for row in found["ledger_events"]}
    assert events[anomaly["event_id"]] == "InstanceBooted"
    assert events[anomaly["withdrawn_by_event"]] == "HypervisorRegistered"
    assert found["marks"] == []


@pytest.mark.parametrize(
    "away",
    [
        brought("u", "h-1", "a"),
        # Nobody told of an id: `hypervisor unmapped` has it, where that leads nowhere.
        brought("u", None, "c"),
        InstanceDeleted(instance_uuid="u", deleted_at=AT),
    ],
    ids=["known", "by name", "deleted"],
)
def test_an_instance_that_left_an_unknown_hypervisor_is_astray_no_more(
    tell, away: EventData
) -> None:
    tell(hypervisor("h-1", "a"), placed("u", "h-1", "a"))
    assert standing(tell(brought("u", "h-2", "b"))) == UNKNOWN
    assert standing(tell(away)) == []


@pytest.mark.parametrize("known", [hypervisor("h-2", "b"), moved("h-2", "b", "c")])
def test_a_hypervisor_that_is_known_before_anything_is_settled_raises_nothing(
    url: str, ledger: Ledger, known: EventData
) -> None:
    """A compute node is told by another stream than what is placed there, and may be late."""
    ledger.append(progressed(1, unsent_s=None, reported_s=0))
    ledger.append(event(placed("u", "h-2", "b"), 1, at=AT + timedelta(seconds=60)))
    ledger.project(url)
    ledger.append(event(known, 1, at=AT + timedelta(seconds=90)))
    ledger.append(progressed(2, unsent_s=None, reported_s=100))
    ledger.project(url)
    found = dump(url)
    assert [row for row in found["anomalies"] if row["aggregate_kind"] == "instance"] == []
    assert found["marks"] == []


def test_two_machines_with_one_id_and_two_ids_on_one_host_are_duplicates(tell) -> None:
    assert standing(tell(hypervisor("h-1", "a"), moved("h-1", "a", "b"))) == []
    assert standing(tell(moved("h-1", "b", "a"))) == [("hypervisor_duplicate", "h-1")]
    assert standing(tell(moved("h-1", "a", "c"))) == []
    both = [("hypervisor_duplicate", "h-1"), ("hypervisor_duplicate", "h-2")]
    assert standing(tell(hypervisor("h-2", "c"))) == both
    assert standing(tell(HypervisorRemoved(hypervisor_id="h-1"))) == []
    nodes = [hypervisor(f"node-{n}", "conductor", "ironic") for n in range(3)]
    assert standing(tell(*nodes)) == []


@pytest.mark.parametrize("at_once", [True, False])
def test_a_neighbour_with_a_rival_of_its_own_stays_a_duplicate(tell, at_once: bool) -> None:
    events = [
        hypervisor("B", "h1"),
        moved("B", "h1", "h2"),
        hypervisor("C", "h3"),
        moved("C", "h3", "h2"),
        hypervisor("A", "h1"),
        hypervisor("D", "h3"),
    ]
    for told in [events] if at_once else [[one] for one in events]:
        found = tell(*told)
    assert standing(found) == [("hypervisor_duplicate", "B"), ("hypervisor_duplicate", "C")]


def test_what_a_user_wrote_for_an_id_is_none_and_holds_nobody_up(tell) -> None:
    long = "".join(random.Random(1).choices("0123456789abcdef", k=8_000))
    found = tell(
        declaring("hostile", long), uploaded("loud", long), booted("u", ""), taken("snap", "u", "")
    )
    [row] = found["derived_lineage"]
    assert (row["image_id"], row["parent_image_id"], row["root_image_id"]) == ("snap", None, "snap")
    found = tell(declaring("next", "base"))
    assert [row["image_id"] for row in found["derived_lineage"]] == ["next", "snap"]
    assert found["marks"] == []


def test_what_is_no_longer_told_is_no_longer_derived(tell) -> None:
    tell(booted("u", "base"), uploaded("snap", "u"), declaring("child", "snap"))
    found = tell(uploaded("snap", None))
    assert [row["image_id"] for row in found["derived_lineage"]] == ["child"]
    assert found["snapshots"] == []
    assert path_of(found, "child") == ["snap"]


def test_a_base_that_came_unseen_and_went_with_the_same_event_is_the_declared_one(tell) -> None:
    tell(declaring("child", "old"), purged("child"))
    change = PropertyChange(mode=Mode.PURGE, before={"base_image_ref": "new"}, after={})
    found = tell(ImageUpdated(image_id="child", change=change))
    assert path_of(found, "child") == ["new"]
    assert derived_oracle.made(found) == derived_oracle.derived(found)


def progressed(seq: int, *, unsent_s: int | None, reported_s: int) -> Event:
    """Stream `nova-1` for partition 0, so many seconds after AT."""
    oldest = None if unsent_s is None else AT + timedelta(seconds=unsent_s)
    data = SourceProgressed(
        oldest_unsent_at=oldest, rows_waiting=0, rows_max=1, unrecorded_aggregates=0
    )
    at = AT + timedelta(seconds=reported_s)
    return event(data, seq, stream="nova-1", aggregate="stream:nova-1/0", at=at)


def test_nothing_is_judged_before_the_sources_reports_have_passed_it(
    url: str, ledger: Ledger
) -> None:
    ledger.append(progressed(1, unsent_s=None, reported_s=0))
    ledger.append(event(saved("u", None), 1, at=AT + timedelta(seconds=60)))
    ledger.project(url)
    assert standing(dump(url)) == []
    ledger.append(progressed(2, unsent_s=30, reported_s=90))
    ledger.project(url)
    assert standing(dump(url)) == []
    ledger.append(progressed(3, unsent_s=None, reported_s=91))
    ledger.project(url)
    assert standing(dump(url)) == [("instance_never_booted", "u")]
    assert dump(url)["marks"] == []


def test_a_source_that_fell_silent_holds_no_judgement_up(url: str, ledger: Ledger) -> None:
    silent = progressed(1, unsent_s=0, reported_s=0)
    meta = replace(silent.meta, stream_id="gone", aggregate="stream:gone/0", event_id=TWIN)
    ledger.append(Event(meta, silent.data))
    ledger.append(event(saved("u", None), 1, at=AT + timedelta(seconds=60)))
    ledger.append(progressed(1, unsent_s=None, reported_s=61))
    ledger.project(url)
    assert standing(dump(url)) == []
    ledger.append(progressed(2, unsent_s=None, reported_s=700))
    ledger.project(url)
    assert standing(dump(url)) == [("instance_never_booted", "u")]


TWIN = "0199b0a0-0000-7000-8000-000000000001"


def test_two_stages_at_once_work_off_each_mark_once(
    url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_MARKS_MAX", 50)  # so that each has some of them
    # SQLite gives its lock to whoever asks first: one may wait for all that the other does.
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 120.0)
    events = numbered([declaring(f"i-{n}", f"i-{n + 1}") for n in range(300)])
    ledger.append(*events)
    ledger.project(url)
    expected = derived(dump(url))
    with store_of(url) as store, store.deriving() as derivation:
        marks = [(one.meta.event_id, *one.meta.aggregate.split(":"), None) for one in events]
        derivation.put(DERIVED[0], marks)
    done, failures = list[int](), list[Exception]()

    def work() -> None:
        try:
            with store_of(url) as store:
                done.append(derive(store, at_end=True))
        except Exception as error:  # noqa: BLE001 (told by the test)
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert not failures
    assert sum(done) == len(events)
    assert derived(dump(url)) == expected


def test_who_derives_little_at_a_time_comes_through_deep_images_too(
    url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon takes a few turns between two reads; what was too much for one is none."""
    monkeypatch.setattr(stage, "_ANCESTORS_MAX", 20)
    events = numbered([declaring(f"i-{n}", f"i-{n + 1}") for n in range(60)])
    ledger.append(*events)
    ledger.project(url)
    with store_of(url) as store:
        with store.deriving() as derivation:
            marks = [(one.meta.event_id, *one.meta.aggregate.split(":"), None) for one in events]
            derivation.put(DERIVED[0], marks)
        assert derive(store, at_end=True, turns_max=1) > 0


@pytest.mark.parametrize(("of", "worked_off"), [("boot", 4), ("move", 1)])
def test_a_move_of_an_instance_gives_no_reason_to_derive_its_snapshots_again(
    url: str, ledger: Ledger, of: str, worked_off: int
) -> None:
    boot, *others = numbered([booted("u", "base"), *(uploaded(f"s-{n}", "u") for n in range(3))])
    move = event(brought("u", "hv-1"), 2)
    ledger.append(boot, *others, move)
    ledger.project(url)
    because = {"boot": boot, "move": move}[of]
    with store_of(url) as store:
        with store.deriving() as derivation:
            derivation.put(DERIVED[0], [(because.meta.event_id, "instance", "u", None)])
        assert derive(store, at_end=True) == worked_off


@pytest.mark.parametrize(
    "place", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
def test_a_stage_reads_nothing_before_another_one_has_ended(url: str, ledger: Ledger) -> None:
    ledger.append(event(declaring("child", "parent"), 1))
    ledger.project(url)
    marked = [(TWIN, "image", "child", None)]
    with store_of(url) as store, store.deriving() as derivation:
        derivation.put(DERIVED[0], marked)
    with store_of(url) as first, store_of(url) as second, engine_of(url) as engine:
        with first.deriving() as derivation:
            derivation.lease()
            derivation.done(derivation.marks(None, marks_max=1))
            done = list[int]()
            other = threading.Thread(target=lambda: done.append(derive(second, at_end=True)))
            other.start()
            while other.is_alive() and not waits_for_a_lock(engine):
                other.join(0.01)
            assert other.is_alive()
        other.join(60)
        assert done == [0]


def waits_for_a_lock(engine: Engine) -> bool:
    """Whether a connection to the database waits for another one."""
    with engine.connect() as connection:
        waiting = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(waiting.scalar_one())


def test_details_are_json_for_whoever_asks(tell) -> None:
    found = tell(declaring("a", "a"))
    [row] = found["anomalies"]
    assert json.loads(json.dumps(row["details"])) == {"path": ["a"]}

"""Every public table of the read model, and what Nova has of it: one function a table.

A table that is not named here is a difference, so that whoever adds one has to say what it is held
against. Where Nova's tests leave nothing to hold it against, it has to be empty, for the reason
that stands beside it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from metaledger.schemas.instance import SnapshotTaken
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.tables import PRIVATE, SHARED_TABLES, TABLES, VIEWS
from metaledger.schemas.times import time_text

from . import of_instances
from .held import Held
from .histories import HISTORIES, Row, broken
from .told import BOOTED, Told, both, of

PUBLIC = frozenset(it.name for it in (*SHARED_TABLES, *TABLES, *VIEWS)) - PRIVATE
PURPOSES = {"SNAPSHOT": "snapshot", "SHELVE": "snapshot", "BACKUP": "backup"}


Check = Callable[[Held, Told], Iterator[str]]


def differences(held: Held, told: Told) -> Iterator[str]:
    """What the ledger says otherwise than Nova does, in a sentence each."""
    for name in sorted(PUBLIC ^ (CHECKS.keys() | EMPTY.keys())):
        yield f"{name} is compared with nothing, or there is no such table"
    for name, check in CHECKS.items():
        yield from (f"{name}: {it}" for it in check(held, told))
    for name, reason in EMPTY.items():
        if rows := told.tables[name]:
            yield f"{name} has {len(rows)} rows, though {reason}"
    valid_at = {it["event_id"]: it["valid_at"] for it in told.tables["ledger_events"]}
    yield from of_instances.as_histories_say(told)
    yield from _of_nobody(told)
    for table in HISTORIES:
        yield from _hows(table.name, told)
        yield from broken(table, told.tables[table.name], valid_at)


def unnoticed(held: Held, told: Told) -> set[str]:
    """The columns (`table.column`, of tables with rows) that could say anything else in their first
    row or the last, and it were no difference.
    """
    known = Counter(differences(held, told))
    found = set()
    for table in CHECKS:
        rows = told.tables[table]
        for at, column in product({0, len(rows) - 1} if rows else (), rows[0] if rows else ()):
            other = [*rows]
            other[at] = {**rows[at], column: _another(rows[at][column])}
            altered = replace(told, tables={**told.tables, table: other})
            if Counter(differences(held, altered)) == known:
                found.add(f"{table}.{column}")
    return found


def _another(value: object) -> object:
    if isinstance(value, int):
        return value + 1
    return '{"more": 1}' if str(value).startswith("{") else f"{value} and more"


# The ledger's own.


def _read_model(_held: Held, told: Told) -> Iterator[str]:
    yield from both(
        {1: 1}, {it["generation"]: it["partitions"] for it in told.tables["read_model"]}
    )


def _ledger_events(_held: Held, told: Told) -> Iterator[str]:
    """All that was written, once each, and as it was written."""
    written = {
        it.meta.event_id: {
            "event_type": it.type,
            "aggregate": it.meta.aggregate,
            "occurred_at": time_text(it.meta.occurred_at),
            "data": to_json(it)["data"],
            **{name: getattr(it.meta, name) for name in OF_META},
        }
        for it in told.events
    }
    rows = {
        it["event_id"]: {
            "event_type": it["event_type"],
            "aggregate": f"{it['aggregate_kind']}:{it['aggregate_id']}",
            "occurred_at": it["occurred_at"],
            "data": json.loads(it["data"]),
            **{name: it[name] for name in OF_META},
        }
        for it in told.tables["ledger_events"]
    }
    yield from both(written, rows)
    yield from both(len(told.events), len(told.tables["ledger_events"]))


def _checkpoints(_held: Held, told: Told) -> Iterator[str]:
    reached = {it["log_partition"]: it["next_offset"] for it in told.tables["checkpoints"]}
    yield from both({0: len(told.events)} if told.events else {}, reached)


def _anomalies(_held: Held, told: Told) -> Iterator[str]:
    for it in told.tables["anomalies"]:
        if it["kind"] not in told.right:
            yield "{kind} of {aggregate_kind} {aggregate_id}: {details}".format(**it)


def _of_nobody(told: Told) -> Iterator[str]:
    """What is said of an instance or a hypervisor that is none."""
    for owner, table in (("instance_uuid", "instances"), ("hypervisor_id", "hypervisors")):
        known = {None, *(it[owner] for it in told.tables[table])}
        for name, rows in told.tables.items():
            for row in rows:
                if row.get(owner) not in known:
                    yield f"{name}: nobody knows of {row[owner]}"


def _hows(history: str, told: Told) -> Iterator[str]:
    """What an event set or ended says so; and nothing is unseen."""
    types = {it["event_id"]: it["event_type"] for it in told.tables["ledger_events"]}
    for row in told.tables[history]:
        for how, by, known in (
            ("set_via", "set_by_event", SET),
            ("end_reason", "ended_by_event", ENDED),
        ):
            kind = types.get(row[by], "")
            if row.get(how) is not None and row[how] not in known.get(kind, OF_OTHERS):
                yield f"{history}: {kind} does not {row[how]}"


# Hypervisors.


def _hypervisors(held: Held, told: Told) -> Iterator[str]:
    nova = {uuid: (*it, True) for uuid, it in held.nodes.items()}
    names = ("host", "hypervisor_hostname", "hypervisor_type", "id_source")
    tells = {
        it["hypervisor_id"]: (
            *(it[name] for name in names),
            it["removed_at"] is not None,
            it["registered_at"] is not None,
        )
        for it in told.tables["hypervisors"]
    }
    yield from both(nova, tells)
    for row in told.tables["hypervisors"]:
        hypervisor_id = row["hypervisor_id"]
        of_it = [
            it for it in told.tables["hypervisor_hosts"] if it["hypervisor_id"] == hypervisor_id
        ]
        events = [
            (it["log_offset"], it["event_id"])
            for it in told.tables["ledger_events"]
            if it["aggregate_id"] == hypervisor_id
        ]
        last = max(of_it, key=lambda it: int(it["version"]), default=NOWHERE)
        first = min((it["valid_from"] for it in of_it), default=None)
        ends = {
            "host": last["host"],
            "registered_at": first,
            "registration_told_at": first,
            "removed_at": last["valid_to"],
            "last_event_id": max(events)[1] if events else None,
        }
        yield from of(hypervisor_id, both(ends, {name: row[name] for name in ends}))


def _hypervisor_hosts(held: Held, told: Told) -> Iterator[str]:
    """None was ever renamed; a removal ends the name."""
    names = ("hypervisor_id", "host", "set_via", "end_reason")
    nova = [
        (uuid, it.host, "registered", "removed" if it.is_removed else None)
        for uuid, it in held.nodes.items()
    ]
    tells = [tuple(it[name] for name in names) for it in told.tables["hypervisor_hosts"]]
    yield from both(Counter(nova), Counter(tells))


# Snapshots.


def _snapshots(held: Held, told: Told) -> Iterator[str]:
    """What the image service was given, deleted ones too, with the base that Nova itself said."""
    begun = {
        it.data.snapshot_image_id: time_text(it.meta.occurred_at)
        for it in told.events
        if isinstance(it.data, SnapshotTaken)
    }
    nova = {
        it.image_id: (it.instance_uuid, it.image_type, it.base, begun.get(it.image_id))
        for it in held.snapshots
    }
    tells = {
        it["image_id"]: (
            it["instance_uuid"],
            PURPOSES.get(it["purpose"]),
            it["parent_image_id"],
            it["taken_at"],
        )
        for it in told.tables["snapshots"]
    }
    yield from both(nova, tells)


def _image_lineage(held: Held, told: Told) -> Iterator[str]:
    """Of no image but a snapshot anything is known, and that from its instance alone."""
    nova = {
        it.image_id: {
            "image_id": it.image_id,
            "instance_uuid": it.instance_uuid,
            "declared_base_image_ref": None,
            "declared_lost": False,
            "parent_image_id": it.base,
            "base_image_ref": it.base,
            "root_image_id": it.base or it.image_id,
            "evidence": "derived" if it.base else "none",
        }
        for it in held.snapshots
    }
    yield from both(nova, {it["image_id"]: {**it} for it in told.tables["image_lineage"]})


def _image_ancestors(held: Held, told: Told) -> Iterator[str]:
    nova = [(it.image_id, it.base, 1) for it in held.snapshots if it.base]
    names = ("image_id", "ancestor_image_id", "depth")
    tells = [tuple(it[name] for name in names) for it in told.tables["image_ancestors"]]
    yield from both(Counter(nova), Counter(tells))


NOWHERE: Row = {"host": None, "valid_to": None}
OF_META = (
    *("stream_id", "epoch", "stream_seq", "origin", "missed", "service", "host"),
    *("deployment_id", "request_id", "global_request_id", "user_id", "project_id", "causation_id"),
)
# What an event may set and end, by its type.
SET = {
    BOOTED: {"booted"},
    "InstanceSystemMetadataSaved": {"saved", "rebuilt"},
    "InstanceRebuilt": {"rebuilt"},
    "InstanceRebuildRolledBack": {"rolled_back"},
    "InstanceRescued": {"rescued"},
    "HypervisorRegistered": {"registered"},
}
ENDED = {"InstanceDeleted": {"instance_deleted"}}
OF_OTHERS = {"overwritten", "removed"}

CHECKS: Mapping[str, Check] = {
    "read_model": _read_model,
    "ledger_events": _ledger_events,
    "checkpoints": _checkpoints,
    "anomalies": _anomalies,
    "instances": of_instances.instances,
    "instance_metadata_history": of_instances.instance_metadata_history,
    "instance_attribute_history": of_instances.instance_attribute_history,
    "instance_locations": of_instances.instance_locations,
    "instance_hypervisors": of_instances.instance_hypervisors,
    "instance_image_metadata": of_instances.instance_image_metadata,
    "instance_rescue_metadata": of_instances.instance_rescue_metadata,
    "hypervisors": _hypervisors,
    "hypervisor_hosts": _hypervisor_hosts,
    "snapshots": _snapshots,
    "image_lineage": _image_lineage,
    "image_ancestors": _image_ancestors,
}
_GLANCE = "images tell of themselves by Glance's outbox, and there is none here"
_DISKS = "Nova's fake hypervisor makes no disk"
_READABLE = "each event is one of this build's, and none is missing"
EMPTY: Mapping[str, str] = {
    **dict.fromkeys(
        ("images", "image_properties", "image_property_history", "image_attribute_history"), _GLANCE
    ),
    **dict.fromkeys(("disks", "disk_layout_history"), _DISKS),
    **dict.fromkeys(
        (
            "quarantine",
            "quarantined_records",
            "quarantined_bytes",
            "parked_events",
            "parked_aggregates",
        ),
        _READABLE,
    ),
    "streams": "no relay reports how far it is",
    "unjudged_aggregates": "nobody is waited for where no relay reports",
}

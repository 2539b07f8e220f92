"""What is derived and judged, told once more and naively: from all final rows at once, by lists and
recursion; shares no code with `projector.lineage`, `judgements` and `stage`.
"""

from collections import defaultdict
from functools import cache

from metaledger.projector.judgements import JUDGED
from metaledger.schemas.tables import DERIVED


def made(dump):
    """What the stage made of all marks, in the form of `derived`."""
    tables = {table.name: dump[table.name] for table in DERIVED}
    assert tables.pop("marks") == []
    judged = sorted(
        (row["kind"], row["aggregate_id"], row["event_id"])
        for row in dump["anomalies"]
        if row["kind"] in JUDGED and row["withdrawn_by_event"] is None
    )
    return tables | {"judged": judged}


def derived(dump):
    """The rows of the derived tables, and (kind, aggregate, event) of all judged anomalies."""
    model = Model(dump)
    told = sorted(it for it in model.images if model.snapshot(it) or model.declared(it))
    ancestors = {it: model.path(it) for it in told}
    return {
        "snapshots": [
            {"image_id": it, **model.snapshot(it)} for it in told if model.snapshot(it) is not None
        ],
        "derived_lineage": [model.lineage(it) for it in told],
        "image_ancestors": [
            {"image_id": it, "ancestor_image_id": ancestor, "depth": depth}
            for it in told
            for ancestor in sorted(ancestors[it])
            for depth in [ancestors[it].index(ancestor) + 1]
        ],
        "judged": sorted([*model.images_judged(told), *model.instances_judged(), *model.twins()]),
    }


class Model:
    def __init__(self, dump):
        self.dump = dump
        self.events = {row["event_id"]: row for row in dump["ledger_events"]}
        self.images = {
            row["image_id"]
            for table in ("snapshots_taken", "snapshot_uploads", "image_property_history")
            for row in dump[table]
        }
        # Asked again and again.
        self.snapshot, self.declared = cache(self.snapshot), cache(self.declared)
        self.of = cache(self.of)

    def rows(self, table, **where):
        return [
            row
            for row in self.of(table, next(iter(where)))[next(iter(where.values()))]
            if all(row[name] == it for name, it in where.items())
        ]

    def of(self, table, name):
        found = defaultdict(list)
        for row in self.dump[table]:
            found[row[name]].append(row)
        return found

    def declared(self, image_id):
        found = [
            row
            for row in self.rows("image_property_history", image_id=image_id, key="base_image_ref")
            if row["value"] is not None
        ]
        return max(found, key=lambda row: row["version"], default=None)

    def snapshot(self, image_id):
        taken = self.taken(image_id)
        if taken:
            first = taken[0]
            at = self.told_at(first)
            parent = first["image_ref"]
            if parent is None:
                parent = self.ran(first["instance_uuid"], at)
            return {
                "instance_uuid": first["instance_uuid"],
                "parent_image_id": parent,
                "purpose": first["purpose"],
                "taken_at": at,
            }
        for upload in self.rows("snapshot_uploads", image_id=image_id):
            if upload["instance_uuid"] is not None:
                [image] = self.rows("images", image_id=image_id)
                at = self.told_at(upload)
                if at is not None and image["registered_at"] is not None:
                    at = image["registered_at"]
                return {
                    "instance_uuid": upload["instance_uuid"],
                    "parent_image_id": self.ran(upload["instance_uuid"], at),
                    "purpose": None,
                    "taken_at": at,
                }
        return None

    def taken(self, image_id):
        """Those that somebody saw come first, in the order of their times."""
        taken = self.rows("snapshots_taken", image_id=image_id)
        seen = [row for row in taken if self.saw(row["event_id"])]
        seen.sort(key=lambda row: (row["occurred_at"], row["event_id"]))
        unseen = [row for row in taken if not self.saw(row["event_id"])]
        return seen + sorted(unseen, key=lambda row: row["event_id"])

    def saw(self, event_id):
        """Whether somebody saw it happen; what was found in a database has no time of its own."""
        return self.events[event_id]["origin"] == "OBSERVED"

    def told_at(self, row):
        return row["occurred_at"] if self.saw(row["event_id"]) else None

    def ran(self, instance_uuid, at):
        if at is None:
            return None
        found = [
            (
                self.events[row["set_by_event"]]["occurred_at"],
                row["version"],
                row["value"],
                row["ended_by_event"] and self.events[row["ended_by_event"]]["occurred_at"],
                row["set_by_event"],
            )
            for row in self.rows(
                "instance_attribute_history",
                instance_uuid=instance_uuid,
                kind="attribute",
                key="image_ref",
            )
        ]
        found.sort(key=lambda one: one[:2])
        running = None
        for since, _, value, until, _ in found:
            if since <= at:
                running = value if until is None or at < until else None
        if found and all(since > at for since, *_ in found):
            # Only who saw it boot knows that it ran nothing else before.
            *_, event_id = found[0]
            booted = self.events[event_id]["event_type"] == "InstanceBooted"
            running = found[0][2] if booted and self.saw(event_id) else None
        return running

    def edge(self, image_id):
        snapshot, declared = self.snapshot(image_id), self.declared(image_id)
        if snapshot and snapshot["parent_image_id"] is not None:
            return snapshot["parent_image_id"]
        return declared and declared["value"]

    def path(self, image_id):
        path = [image_id]
        while (following := self.edge(path[-1])) is not None and following not in path:
            path.append(following)
        return path[1:]

    def lineage(self, image_id):
        snapshot, declared = self.snapshot(image_id) or {}, self.declared(image_id)
        path, parent = self.path(image_id), snapshot.get("parent_image_id")
        value = declared and declared["value"]
        if parent is None:
            base, evidence = value, "none" if declared is None else "declared"
        elif declared is None:
            base, evidence = parent, "derived"
        elif value in path:
            base, evidence = value, "agreed"
        else:
            base, evidence = parent, "contradicted"
        return {
            "image_id": image_id,
            "instance_uuid": snapshot.get("instance_uuid"),
            "parent_image_id": parent,
            "declared_base_image_ref": value,
            "declared_lost": declared is not None
            and declared["end_reason"] not in (None, "image_deleted"),
            "base_image_ref": base,
            "root_image_id": path[-1] if path else image_id,
            "evidence": evidence,
            "edge_image_id": self.edge(image_id),
        }

    def images_judged(self, told):
        for image_id in told:
            snapshot, declared = self.snapshot(image_id), self.declared(image_id)
            lineage = self.lineage(image_id)
            uploads = self.rows("snapshot_uploads", image_id=image_id)
            booted = [
                row
                for row in self.dump["instances"]
                if snapshot and row["instance_uuid"] == snapshot["instance_uuid"]
                if row["booted_at"] is not None
            ]
            if uploads and booted and (declared is None or lineage["declared_lost"]):
                yield "base_image_ref_missing", image_id, uploads[0]["event_id"]
            if lineage["evidence"] == "contradicted":
                yield "base_image_ref_contradicted", image_id, declared["set_by_event"]
            path = self.path(image_id)
            if self.edge(path[-1] if path else image_id) == image_id:
                yield "lineage_cycle", image_id, self.edge_event(image_id)

    def edge_event(self, image_id):
        snapshot = self.snapshot(image_id)
        if snapshot and snapshot["parent_image_id"] is not None:
            return [*self.taken(image_id), *self.rows("snapshot_uploads", image_id=image_id)][0][
                "event_id"
            ]
        return self.declared(image_id)["set_by_event"]

    def instances_judged(self):
        for instance in self.dump["instances"]:
            uuid = instance["instance_uuid"]
            if instance["boot_told_at"] is None:
                told = [
                    (row["occurred_at"], row["event_id"])
                    for row in self.rows(
                        "ledger_events", aggregate_kind="instance", aggregate_id=uuid
                    )
                    if row["event_type"] != "DestroyJudged"
                ]
                yield "instance_never_booted", uuid, min(told)[1]
            for stay in self.rows("instance_locations", instance_uuid=uuid, valid_to=None):
                on = stay["hypervisor_id"]
                if on is not None and not self.rows("hypervisor_hosts", hypervisor_id=on):
                    yield "instance_hypervisor_unknown", uuid, stay["set_by_event"]
            stored = self.rows(
                "instance_metadata_history",
                instance_uuid=uuid,
                key="image_base_image_ref",
                valid_to=None,
            )
            runs = self.rows(
                "instance_attribute_history",
                instance_uuid=uuid,
                kind="attribute",
                key="image_ref",
                valid_to=None,
            )
            if stored and runs and stored[0]["value"] and runs[0]["value"]:
                image = runs[0]["value"]
                if stored[0]["value"] not in (image, *self.path(image)):
                    events = [stored[0]["set_by_event"], runs[0]["set_by_event"]]
                    last = max(events, key=lambda it: self.events[it]["log_offset"])
                    yield "base_image_ref_stale", uuid, last

    def twins(self):
        there = [
            row
            for row in self.dump["hypervisors"]
            if row["removed_at"] is None and row["hypervisor_type"] != "ironic"
        ]
        for row in there:
            hosts = self.rows("hypervisor_hosts", hypervisor_id=row["hypervisor_id"])
            hosts.sort(key=lambda host: host["version"])
            since = max(
                (host["version"] for host in hosts if host["end_reason"] == "removed"), default=0
            )
            had = [host["host"] for host in hosts if host["version"] > since]
            returned = any(
                had[first] == had[-1] and had[second] != had[-1]
                for first in range(len(had) - 1)
                for second in range(len(had) - 1)
            )
            shared = [other for other in there if other["host"] == row["host"] and other != row]
            if returned or shared:
                yield "hypervisor_duplicate", row["hypervisor_id"], hosts[-1]["set_by_event"]

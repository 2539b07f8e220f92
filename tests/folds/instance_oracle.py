"""EVENTS.md's rules for instances and disks, told once more and naively; shares no code with the
folds.

It reads events in their JSON form, each with its valid time, looks back over all that came before
in plain lists, and gives the final rows of the read model. Slow on purpose, in the order of the
text, one rule after the other. What `projector.folds` decided beyond the text stands in its
docstrings, `details` of anomalies too.
"""

ATTRIBUTES = "instance_attribute_history"
METADATA = "instance_metadata_history"
LOCATIONS = "instance_locations"
LAYOUTS = "disk_layout_history"
BASE = "image_base_image_ref"
MISSING = ("no such key",)
LAYOUT = ("backend", "format", "size_bytes", "location", "extra")


def final_rows(history):
    """The rows of all tables after `history`, a list of (event, valid time) in the log's order."""
    model = Model()
    for event, at in history:
        model.apply(event, at)
    for row in model.rows[LAYOUTS]:
        del row["as_told"]
    return {
        "instances": [model.instance_row(uuid) for uuid in model.instances],
        "disks": [model.disk_row(*names) for names in model.disks],
        "snapshots_taken": model.taken,
        **model.rows,
        "anomalies": model.anomalies,
    }


class Model:
    def __init__(self):
        self.instances = {}
        self.disks = {}
        self.taken = []
        self.rows = {ATTRIBUTES: [], METADATA: [], LOCATIONS: [], LAYOUTS: []}
        self.anomalies = []

    def apply(self, event, at):
        self.at = at
        self.meta = event["meta"]
        self.event_id = self.meta["event_id"]
        self.origin = self.meta["origin"]
        self.brought = set()
        self.reasons, self.expected, self.found = [], {}, {}
        self.data = data = event["data"]
        self.uuid = data["instance_uuid"]
        if event["type"] == "DestroyJudged":
            self.judged(data)
            return
        if self.uuid not in self.instances:
            self.instances[self.uuid] = {
                "image_ref": None,
                "flavor": None,
                "hypervisor_id": None,
                "booted_at": None,
                "boot_told_at": None,
                "deleted_at": None,
                "authoritative_by_event": None,
                "metadata_known": False,
                "before_rebuild": None,
            }
        self.instance = self.instances[self.uuid]
        if "disk" in data:
            self.disk_event(event["type"], data)
            return
        handler = {
            "InstanceBooted": self.booted,
            "InstanceSystemMetadataSaved": self.saved,
            "SnapshotTaken": self.snapshot_taken,
            "InstanceRebuilt": self.rebuilt,
            "InstanceRebuildRolledBack": self.rolled_back,
            "InstanceRescued": self.rescued,
            "InstanceUnrescued": self.unrescued,
            "InstanceRelocated": self.relocated,
            "InstanceDeleted": self.deleted,
        }[event["type"]]
        handler(data)
        named = self.brought & set(data.get("altered", ()))
        if named:
            self.anomaly("value_altered", "warning", {"keys": sorted(named)})

    def snapshot_taken(self, data):
        self.brought.update(data["altered"])
        self.taken.append(
            {
                "event_id": self.event_id,
                "image_id": data["snapshot_image_id"],
                "instance_uuid": self.uuid,
                "image_ref": data["image_ref"],
                "purpose": data["purpose"],
                "occurred_at": (
                    min(self.meta["occurred_at"], self.at) if self.origin == "OBSERVED" else None
                ),
            }
        )

    # --- intervals of keys

    def of(self, table, kind):
        return [
            row
            for row in self.rows[table]
            if row["instance_uuid"] == self.uuid and row.get("kind") == kind
        ]

    def live(self, table, kind=None):
        return {row["key"]: row["value"] for row in self.of(table, kind) if row["valid_to"] is None}

    def set(self, table, kind, key, value, via):
        before = [row for row in self.of(table, kind) if row["key"] == key]
        assert all(row["valid_to"] is not None for row in before)
        row = {
            "instance_uuid": self.uuid,
            "key": key,
            "version": len(before) + 1,
            "value": value,
            "valid_from": self.at,
            "valid_to": None,
            "set_by_event": self.event_id,
            "set_via": via,
            "ended_by_event": None,
            "end_reason": None,
        }
        self.rows[table].append(row if kind is None else {**row, "kind": kind})
        if kind in (None, "authoritative", "rescue"):
            self.brought.add(key)

    def end(self, table, kind, key, reason):
        [row] = [
            row for row in self.of(table, kind) if row["key"] == key and row["valid_to"] is None
        ]
        row["valid_to"] = self.at
        row["ended_by_event"] = self.event_id
        row["end_reason"] = reason

    def become(self, table, kind, values, via, replaced="overwritten", gone="removed"):
        """These are the live values. What nobody saw was set and ended unseen."""
        if self.origin == "RECONCILED" and via != "booted":
            via = replaced = gone = "unseen"
        held = self.live(table, kind)
        for key, value in held.items():
            if key not in values:
                self.end(table, kind, key, gone)
            elif values[key] != value:
                self.end(table, kind, key, replaced)
        for key, value in values.items():
            if held.get(key, MISSING) != value:
                self.set(table, kind, key, value, via)

    def attribute(self, name, value, via, replaced="overwritten"):
        values = {key: v for key, v in self.live(ATTRIBUTES, "attribute").items() if key != name}
        if value is not None:
            values[name] = value
        self.become(ATTRIBUTES, "attribute", values, via, replaced)

    # --- the instance

    def booted(self, data):
        held = self.live(METADATA)
        known = ("boot_told_at", "deleted_at", "authoritative_by_event", "before_rebuild")
        if self.origin != "OBSERVED" and any(self.instance[name] is not None for name in known):
            return
        told = self.instance["boot_told_at"] is not None
        if self.instance["deleted_at"] is not None:
            cleared = ("image_ref", "flavor", "booted_at", "boot_told_at")
            self.instance.update(dict.fromkeys(cleared))
        self.revive()
        if told:
            self.reasons.append("booted_again")
            self.differ(held, data["system_metadata"])
        self.raise_gap()
        for name in ("image_ref", "flavor"):
            if data[name] is not None:
                self.attribute(name, data[name], "booted", "unseen")
                self.instance[name] = data[name]
        stored = data["system_metadata"]
        self.become(METADATA, None, stored, "booted", "unseen", "unseen")
        self.become(ATTRIBUTES, "authoritative", images(stored), "booted", "unseen", "unseen")
        place = (data["hypervisor_id"], data["host"])
        if place != (None, None):
            self.move(place, "BOOTED")
        self.instance["hypervisor_id"] = (self.place() or (None, None))[0]
        self.instance["authoritative_by_event"] = self.event_id
        self.instance["metadata_known"] = True
        self.instance["before_rebuild"] = None
        self.remember("boot_told_at")
        if self.origin == "OBSERVED":
            self.remember("booted_at")

    def remember(self, name):
        if self.instance[name] is None:
            self.instance[name] = self.at

    def saved(self, data):
        self.revive()
        self.catch_up(data["before"])
        self.raise_gap()
        held = self.live(METADATA)
        rebuild = self.instance["before_rebuild"]
        own = rebuild is not None and (data["operation"], self.meta["request_id"]) == (
            *("rebuild", rebuild["request_id"]),
        )
        stored = (held.get(BASE), data["after"].get(BASE))
        lost = self.origin == "RECONCILED" and stored[0] != stored[1] == self.instance["image_ref"]
        completes = rebuild is not None and rebuild["waits"] and (own or lost)
        if completes:
            self.complete(data["after"], self.instance["image_ref"])
            rebuild["waits"] = False
        else:
            self.become(METADATA, None, data["after"], "saved")
            self.overwritten(held, data)
        self.instance["metadata_known"] = True

    def overwritten(self, held, data):
        kept = self.live(ATTRIBUTES, "authoritative")
        wrong = {}
        for key, value in kept.items():
            now = data["after"].get(key, MISSING)
            if now in (value, held.get(key, MISSING)):
                continue
            if (
                key == BASE
                and data["operation"] in ("resize", "shelve")
                and now is not MISSING
                and now == self.instance["image_ref"]
            ):
                continue
            wrong[key] = now
        if wrong and self.origin != "RECONCILED":
            details = {
                "operation": data["operation"],
                "expected": {key: kept[key] for key in wrong},
                "found": {key: now for key, now in wrong.items() if now is not MISSING},
            }
            self.anomaly("boot_metadata_overwritten", "error", details)

    def rebuilt(self, data):
        self.revive()
        self.catch_up(data["before"])
        running = self.live(ATTRIBUTES, "attribute").get("image_ref")
        previous = data["previous_image_ref"]
        if previous is not None and previous != running:
            if running is not None or self.instance["boot_told_at"] is not None:
                self.reasons.append("image_ref_differs")
                self.expected["image_ref"] = running
                self.found["image_ref"] = previous
            if running is not None:
                self.end(ATTRIBUTES, "attribute", "image_ref", "unseen")
            self.set(ATTRIBUTES, "attribute", "image_ref", previous, "unseen")
            running = previous
        self.raise_gap()
        self.instance["before_rebuild"] = {
            "image_ref": running,
            "authoritative": self.live(ATTRIBUTES, "authoritative"),
            "by": self.instance["authoritative_by_event"],
            "request_id": self.meta["request_id"],
            "waits": data["after"] is None,
        }
        self.attribute("image_ref", data["image_ref"], "rebuilt")
        self.instance["image_ref"] = data["image_ref"]
        if data["after"] is not None:
            self.complete(data["after"], data["image_ref"])
        if data["after"] is not None or data["before"] is not None:
            self.instance["metadata_known"] = True

    def complete(self, after, image_ref):
        had = self.live(METADATA)
        self.become(METADATA, None, after, "rebuilt")
        self.become(ATTRIBUTES, "authoritative", images(after), "rebuilt")
        self.instance["authoritative_by_event"] = self.event_id
        if BASE in had and BASE not in after and self.origin != "RECONCILED":
            details = {"base_image_ref": had[BASE], "image_ref": image_ref}
            self.anomaly("base_image_ref_dropped", "error", details)

    def rolled_back(self, data):
        self.revive()
        rebuild = self.instance["before_rebuild"]
        requests = {self.meta["request_id"], rebuild and rebuild["request_id"]} - {None}
        if len(requests) == 2:
            rebuild = None
        put_back = data["image_ref"]
        if rebuild is None:
            if self.instance["boot_told_at"] is not None:
                self.reasons.append("never_rebuilt")
            self.raise_gap()
        else:
            self.raise_gap()
            self.become(ATTRIBUTES, "authoritative", rebuild["authoritative"], "rolled_back")
            self.instance["authoritative_by_event"] = rebuild["by"]
            if None not in (put_back, rebuild["image_ref"]) and put_back != rebuild["image_ref"]:
                details = {
                    "expected": {"image_ref": rebuild["image_ref"]},
                    "found": {"image_ref": put_back},
                }
                self.anomaly("semantics_divergence", "warning", details)
            if put_back is None:
                put_back = rebuild["image_ref"]
        if put_back is not None or rebuild is not None:
            self.attribute("image_ref", put_back, "rolled_back")
            self.instance["image_ref"] = put_back
        self.instance["before_rebuild"] = None
        if data["after"] is not None:
            self.become(METADATA, None, data["after"], "saved")
            self.instance["metadata_known"] = True

    def rescued(self, data):
        self.attribute("rescue_image_ref", data["rescue_image_ref"], "rescued")
        self.become(ATTRIBUTES, "rescue", data["rescue_metadata"], "rescued")

    def unrescued(self, _data):
        self.attribute("rescue_image_ref", None, "rescued")
        self.become(ATTRIBUTES, "rescue", {}, "rescued")

    def deleted(self, data):
        if self.instance["deleted_at"] is not None:
            return
        for key in self.live(METADATA):
            self.end(METADATA, None, key, "instance_deleted")
        for kind in ("attribute", "authoritative"):
            for key in self.live(ATTRIBUTES, kind):
                if key != "rescue_image_ref":
                    self.end(ATTRIBUTES, kind, key, "instance_deleted")
        self.leave()
        self.instance["deleted_at"] = data["deleted_at"]
        self.instance["authoritative_by_event"] = None
        self.instance["before_rebuild"] = None

    def judged(self, data):
        if data["verdict"] != "ALLOW":
            details = {name: data[name] for name in ("hypervisor_id", "host", "verdict", "reason")}
            self.anomaly("destroy_denied", "warning", details)

    # --- where it is

    def stay(self):
        stays = [row for row in self.of(LOCATIONS, None) if row["valid_to"] is None]
        assert len(stays) < 2
        return stays[0] if stays else None

    def place(self):
        stay = self.stay()
        return stay and (stay["hypervisor_id"], stay["host"])

    def relocated(self, data):
        self.revive()
        left = (data["from_hypervisor_id"], data["from_host"])
        here = self.place()
        if left != (None, None) and (here is None or other(left, here)):
            if self.instance["boot_told_at"] is not None:
                self.reasons.append("place_differs")
                self.differ(named(here or (None, None)), named(left))
            self.move(left, "UNSEEN")
        elif here is not None and here[0] is None and left[0] is not None:
            # It was there already; now it is known which hypervisor that is.
            self.move(left, "UNSEEN")
        self.raise_gap()
        to = (data["to_hypervisor_id"], data["to_host"])
        if to == (None, None):
            self.leave()
        else:
            self.move(to, data["cause"])
        self.instance["hypervisor_id"] = (self.place() or (None, None))[0]

    def move(self, place, cause):
        here = self.place()
        if here is not None:
            learned = here[0] is None and place[0] is not None
            if not learned and not other(place, here):
                return
        self.leave()
        self.rows[LOCATIONS].append(
            {
                "instance_uuid": self.uuid,
                "version": len(self.of(LOCATIONS, None)) + 1,
                "hypervisor_id": place[0],
                "host": place[1],
                "valid_from": self.at,
                "valid_to": None,
                "cause": cause,
                "set_by_event": self.event_id,
                "ended_by_event": None,
            }
        )

    def leave(self):
        stay = self.stay()
        if stay is not None:
            stay["valid_to"] = self.at
            stay["ended_by_event"] = self.event_id

    # --- gaps

    def revive(self):
        if self.instance["deleted_at"] is not None:
            self.reasons.append("was_deleted")
            self.instance["deleted_at"] = None

    def catch_up(self, before):
        held = self.live(METADATA)
        if before is None or before == held:
            return
        if self.instance["metadata_known"]:
            self.reasons.append("before_differs")
            self.differ(held, before)
        for key in held:
            if before.get(key, MISSING) != held[key]:
                self.end(METADATA, None, key, "unseen")
        for key, value in before.items():
            if held.get(key, MISSING) != value:
                self.set(METADATA, None, key, value, "unseen")

    def differ(self, expected, found):
        for key in {*expected, *found}:
            if expected.get(key, MISSING) != found.get(key, MISSING):
                self.expected.update({key: expected[key]} if key in expected else {})
                self.found.update({key: found[key]} if key in found else {})

    def raise_gap(self):
        if self.reasons and self.origin == "OBSERVED":
            gap = {}
            if self.expected or self.found:
                gap = {"expected": self.expected, "found": self.found}
            self.anomaly("history_gap", "warning", {"reasons": self.reasons, **gap})

    # --- disks

    def disk_event(self, event_type, data):
        names = (self.uuid, data["disk"])
        known = names in self.disks
        if not known:
            self.disks[names] = {
                "state": None,
                "layout": None,
                "recorded_by": None,
                "intent": None,
                "was_intended": False,
                "last_error": None,
            }
        disk = self.disks[names]
        handler = {
            "DiskCreationStarted": self.disk_started,
            "DiskCreated": self.disk_created,
            "DiskCreationFailed": self.disk_failed,
            "DiskLayoutBackfilled": self.disk_met,
            "DiskLayoutChanged": self.disk_changed,
            "DiskDeleted": self.disk_deleted,
        }[event_type]
        disk["last_error"] = None
        handler(disk, data)
        if disk["state"] != "deleted" and self.live_layout() is None:
            disk.update(layout=None, recorded_by=None)
        self.tell_state(data["disk"], disk["state"])

    def disk_started(self, disk, data):
        has = self.live_layout()
        if has is None or (disk["state"] == "failed" and not self.disk_exists(data["disk"])):
            self.record(disk, data["layout"], "intent")
        else:
            self.mismatch(has, data["layout"])
        disk.update(state="intended", intent=data["layout"], was_intended=True)

    def disk_created(self, disk, data):
        if not disk["was_intended"] and self.origin == "OBSERVED":
            self.anomaly("disk_created_unrecorded", "error", {"disk": data["disk"]})
        expected = disk["intent"] or self.live_layout()
        if data["layout"] is not None and expected is not None:
            self.mismatch(expected, data["layout"])
        made = data["layout"] or expected
        if made is not None:
            self.record(disk, made, "intent" if made == disk["intent"] else "outcome")
        disk.update(state="created", intent=None)

    def disk_failed(self, disk, data):
        disk.update(state="failed", intent=None, last_error=data["error"])

    def disk_met(self, disk, data):
        has = self.live_layout()
        if has is None:
            self.record(disk, data["layout"], "backfill")
        else:
            self.mismatch(has, data["layout"])
        disk["state"] = "created"

    def disk_changed(self, disk, data):
        self.record(disk, data["layout"], "change")
        disk["state"] = "created"
        if disk["intent"] is not None:
            disk["intent"] = data["layout"]

    def disk_deleted(self, disk, _data):
        self.end_layout("disk_deleted")
        disk.update(state="deleted", intent=None, was_intended=False)

    def disk_exists(self, name):
        """Whether it was ever in the state `created` since it was last deleted."""
        exists = False
        for row in self.of(ATTRIBUTES, "disk"):
            if row["key"] == name and row["value"] in ("created", "deleted"):
                exists = row["value"] == "created"
        return exists

    def tell_state(self, name, state):
        unseen = self.origin == "RECONCILED"
        held = self.live(ATTRIBUTES, "disk")
        if held.get(name) == state:
            return
        if name in held:
            self.end(ATTRIBUTES, "disk", name, "unseen" if unseen else "overwritten")
        self.set(ATTRIBUTES, "disk", name, state, "unseen" if unseen else "told")

    def layouts(self):
        return [row for row in self.of(LAYOUTS, None) if row["disk"] == self.data["disk"]]

    def live_row(self):
        found = [row for row in self.layouts() if row["valid_to"] is None]
        assert len(found) < 2
        return found[0] if found else None

    def live_layout(self):
        row = self.live_row()
        return row and row["as_told"]

    def record(self, disk, layout, by):
        if self.live_layout() == layout:
            return
        self.end_layout("overwritten")
        disk.update(layout=layout, recorded_by=by)
        self.rows[LAYOUTS].append(
            {
                "instance_uuid": self.uuid,
                "disk": self.data["disk"],
                "version": len(self.layouts()) + 1,
                "as_told": layout,
                **columns(layout),
                "valid_from": self.at,
                "valid_to": None,
                "set_by_event": self.event_id,
                "recorded_by": by,
                "ended_by_event": None,
                "end_reason": None,
            }
        )

    def end_layout(self, reason):
        row = self.live_row()
        if row is not None:
            row["valid_to"] = self.at
            row["ended_by_event"] = self.event_id
            row["end_reason"] = reason

    def mismatch(self, expected, found):
        one, two = columns(expected), columns(found)
        names = [name for name in one if name != "driver_info" and one[name] != two[name]]
        if names:
            details = {
                "disk": self.data["disk"],
                "expected": {name: one[name] for name in names},
                "found": {name: two[name] for name in names},
            }
            self.anomaly("disk_layout_mismatch", "warning", details)

    # --- what they share

    def anomaly(self, kind, severity, details):
        self.anomalies.append(
            {
                "kind": kind,
                "severity": severity,
                "aggregate_kind": "instance",
                "aggregate_id": self.uuid,
                "event_id": self.event_id,
                "occurred_at": self.at,
                "details": details,
                "withdrawn_by_event": None,
            }
        )

    def instance_row(self, uuid):
        instance = dict(self.instances[uuid])
        del instance["metadata_known"], instance["before_rebuild"]
        self.uuid = uuid
        rescue = self.live(ATTRIBUTES, "attribute").get("rescue_image_ref")
        rescued = rescue if instance["deleted_at"] is None else None
        return {"instance_uuid": uuid, **instance, "rescue_image_ref": rescued}

    def disk_row(self, uuid, name):
        disk = self.disks[uuid, name]
        return {
            "instance_uuid": uuid,
            "disk": name,
            "state": disk["state"],
            **columns(disk["layout"]),
            "recorded_by": disk["recorded_by"],
            "last_error": disk["last_error"],
        }


def images(metadata):
    return {key: value for key, value in metadata.items() if key[:6] == "image_"}


def other(one, two):
    """Whether they cannot be one place: hypervisors are compared, hosts where one is not known."""
    if one[0] is not None and two[0] is not None:
        return one[0] != two[0]
    return None not in (one[1], two[1]) and one[1] != two[1]


def named(place):
    pairs = zip(("hypervisor_id", "host"), place, strict=True)
    return {name: value for name, value in pairs if value is not None}


def columns(layout):
    if layout is None:
        names = (*LAYOUT, "source_kind", "source_image_id", "source_function", "layout_version")
        return dict.fromkeys((*names, "driver_info"))
    source = layout["source"]
    info = {name: layout[name] for name in ("version", "backend", "format")}
    return {
        **{name: layout[name] for name in LAYOUT},
        "source_kind": source["kind"],
        "source_image_id": source["image_id"],
        "source_function": source["function"],
        "layout_version": layout["version"],
        "driver_info": {"libvirt_disk_metadata": {**info, "size": layout["size_bytes"]}},
    }

"""EVENTS.md's rules for images, told once more and naively; shares no code with the folds.

It reads events in their JSON form, each with its valid time, looks back over all that came before
in plain lists, and gives the final rows of the read model. Slow on purpose, in the order of the
text, one rule after the other. `details` of anomalies are those that `projector.folds.image` tells.
"""

import hashlib
import json

NAMES = ("name", "status", "owner", "visibility", "disk_format", "container_format")
SHOWN = (*NAMES, "size", "checksum")
REGISTERED = (*NAMES, "min_disk", "min_ram", "protected")
UPLOADED = ("status", "size", "checksum", "os_hash_algo", "os_hash_value")
PROPERTIES = "image_property_history"
ATTRIBUTES = "image_attribute_history"
MISSING = ("no such key",)


def final_rows(history):
    """The rows of all tables after `history`, a list of (event, valid time) in the log's order."""
    model = Model()
    for event, at in history:
        model.apply(event, at)
    return {
        "images": [model.image_row(image_id) for image_id in model.images],
        "snapshot_uploads": list(model.uploads.values()),
        **model.rows,
        "anomalies": model.anomalies,
    }


class Model:
    def __init__(self):
        self.images = {}
        self.uploads = {}
        self.rows = {PROPERTIES: [], ATTRIBUTES: []}
        self.anomalies = []

    # --- intervals

    def live_row(self, table, image_id, key):
        found = [
            row
            for row in self.rows[table]
            if row["image_id"] == image_id and row["key"] == key and row["valid_to"] is None
        ]
        assert len(found) < 2
        return found[0] if found else None

    def live(self, table, image_id):
        return {
            row["key"]: row["value"]
            for row in self.rows[table]
            if row["image_id"] == image_id and row["valid_to"] is None
        }

    def open(self, table, image_id, key, value, via):
        assert self.live_row(table, image_id, key) is None
        versions = [
            row["version"]
            for row in self.rows[table]
            if row["image_id"] == image_id and row["key"] == key
        ]
        self.rows[table].append(
            {
                "image_id": image_id,
                "key": key,
                "version": len(versions) + 1,
                "value": value,
                "valid_from": self.at,
                "valid_to": None,
                "set_by_event": self.event_id,
                "set_via": via,
                "ended_by_event": None,
                "end_reason": None,
            }
        )

    def close(self, table, image_id, key, reason):
        row = self.live_row(table, image_id, key)
        row["valid_to"] = self.at
        row["ended_by_event"] = self.event_id
        row["end_reason"] = reason

    # --- events

    def apply(self, event, at):
        self.at = at
        self.meta = event["meta"]
        self.event_id = self.meta["event_id"]
        self.origin = self.meta["origin"]
        self.opened = set()
        self.told = set()
        data = event["data"]
        self.image_id = data["image_id"]
        known = self.image_id in self.images
        if not known:
            self.images[self.image_id] = {
                "columns": dict.fromkeys(SHOWN),
                "image_type": "image",
                "registrations": [],
                "data_uploaded_at": None,
                "deleted_at": None,
                "last_event_id": None,
                "altered": set(),
            }
        image = self.images[self.image_id]
        if event["type"] == "ImageDeleted":
            if image["deleted_at"] is not None:
                return
            self.delete(image, data, known)
        elif event["type"] == "ImageRegistered":
            self.register(image, data)
        else:
            self.update(image, event["type"], data, known)
        image["last_event_id"] = self.event_id
        seen = self.origin == "OBSERVED"
        if event["type"] == "SnapshotUploaded" and (seen or self.image_id not in self.uploads):
            self.uploads[self.image_id] = {
                "image_id": self.image_id,
                "instance_uuid": data["instance_uuid"],
                "occurred_at": min(self.meta["occurred_at"], at) if seen else None,
                "event_id": self.event_id,
            }

    def delete(self, image, data, known):
        if not known and self.origin == "OBSERVED":
            self.anomaly("history_gap", "warning", {"reasons": ["never_registered"]})
        for table in self.rows:
            for key in self.live(table, self.image_id):
                self.close(table, self.image_id, key, "image_deleted")
        image["deleted_at"] = data["deleted_at"]
        image["columns"]["status"] = "deleted"
        image["altered"] = set()

    def register(self, image, data):
        second = bool(image["registrations"])
        if image["deleted_at"] is not None:
            image["columns"] = dict.fromkeys(SHOWN)
            image["image_type"] = "image"
            image["data_uploaded_at"] = image["deleted_at"] = None
            image["registrations"] = []
        image["registrations"].append((self.at, self.origin))
        held = self.live(PROPERTIES, self.image_id)
        given = self.as_recorded(image, held, data["properties"])
        if second and self.origin == "OBSERVED":
            difference = {} if held == given else differing(held, given)
            details = {"reasons": ["registered_again"], **difference}
            self.anomaly("history_gap", "warning", details)
        self.replace_all(held, given, "registered", "unseen", lambda _key: "unseen")
        told = dict(data["attributes"])
        told |= {name: text(data[name]) for name in REGISTERED if data[name] is not None}
        told["tags"] = tags_text(data["tags"])
        self.set_attributes(image, told, "registered", "unseen")
        self.remember_altered(image, data["altered"])
        if given.get("image_type") == "snapshot":
            image["image_type"] = "snapshot"

    def update(self, image, event_type, data, known):
        change = data["change"]
        reasons = [] if known else ["never_registered"]
        if image["deleted_at"] is not None:
            reasons.append("was_deleted")
            image["deleted_at"] = None
            image["columns"]["status"] = None
        inexact = bool(image["altered"]) or bool(change["altered"])

        # "If `before` is given and differs from P …"
        gap = self.catch_up(image, change, inexact)
        if gap:
            reasons.append("before_differs")
        if reasons and self.origin == "OBSERVED":
            self.anomaly("history_gap", "warning", {"reasons": reasons, **gap})

        held = self.live(PROPERTIES, self.image_id)
        computed = self.as_recorded(image, held, meaning(held, change))

        # "If `after` is given and differs from the computed P' …"
        new, divergence = self.settle(image, change, held, computed, inexact or bool(gap))
        if divergence:
            details = {"mode": change["mode"], **divergence}
            self.anomaly("semantics_divergence", "warning", details)

        self.carry_out(held, new, change)
        self.tell(image, event_type, data)
        types = [new.get("image_type"), (change["before"] or {}).get("image_type")]
        if event_type == "SnapshotUploaded" or "snapshot" in types:
            image["image_type"] = "snapshot"

    # --- the rules of a change, one by one

    def catch_up(self, image, change, inexact):
        held = self.live(PROPERTIES, self.image_id)
        if change["before"] is not None:
            before = self.as_recorded(image, held, change["before"])
            if before == held:
                return {}
            self.replace_all(held, before, "unseen", "unseen", lambda _key: "unseen")
            return differing(held, before)
        if change["before_digest"] in (None, digest_of(held)) or inexact:
            return {}
        return digests(digest_of(held), change["before_digest"])

    def settle(self, image, change, held, computed, inexact):
        if change["after"] is not None:
            after = self.as_recorded(image, computed, change["after"])
            if after == computed:
                return computed, {}
            new = self.as_recorded(image, held, change["after"])
            return new, differing(computed, after)
        if change["after_digest"] in (None, digest_of(computed)) or inexact:
            return computed, {}
        return computed, digests(digest_of(computed), change["after_digest"])

    def carry_out(self, held, new, change):
        if self.origin == "RECONCILED":
            self.replace_all(held, new, "unseen", "unseen", lambda _key: "unseen")
            return
        via = {"MERGE": "merge", "PURGE": "purge"}[change["mode"]]
        self.replace_all(held, new, via, "overwritten", lambda key: why_gone(key, change))
        lost = {
            key: value
            for key, value in held.items()
            if key not in new
            and why_gone(key, change) == "purged"
            and not key.startswith("os_glance_")
        }
        if lost:
            nobody_knows = change["removed"] is None and change["seen"] is None
            severity = "warning" if nobody_knows else "error"
            details = {"mode": change["mode"], "properties": lost}
            self.anomaly("properties_lost_to_purge", severity, details)

    def tell(self, image, event_type, data):
        if event_type == "ImageUpdated":
            told = dict(data["attributes"])
            if data["tags"] is not None:
                told["tags"] = tags_text(data["tags"])
        else:
            if self.origin == "OBSERVED":
                image["data_uploaded_at"] = self.at
            told = {name: text(data[name]) for name in UPLOADED if data[name] is not None}
        if self.origin == "RECONCILED":
            self.set_attributes(image, told, "unseen", "unseen")
        else:
            self.set_attributes(image, told, "merge", "overwritten")
        self.remember_altered(image, data["change"]["altered"])

    def replace_all(self, held, new, via, replaced, why):
        for key, value in held.items():
            if key not in new:
                self.close(PROPERTIES, self.image_id, key, why(key))
            elif new[key] != value:
                self.close(PROPERTIES, self.image_id, key, replaced)
        for key, value in new.items():
            if held.get(key, MISSING) != value:
                self.open(PROPERTIES, self.image_id, key, value, via)
                self.opened.add(key)

    # --- what they share

    def set_attributes(self, image, told, via, replaced):
        table = ATTRIBUTES
        held = self.live(table, self.image_id)
        for name, value in told.items():
            if held.get(name) == value:
                continue
            if name in held:
                self.close(table, self.image_id, name, replaced)
            self.open(table, self.image_id, name, value, via)
            self.told.add(name)
        for name in SHOWN:
            if name in told:
                image["columns"][name] = told[name]

    def as_recorded(self, image, held, properties):
        """The properties, with the digest that the ledger holds in place of a value."""
        return {
            key: held[key]
            if key in image["altered"] and value is not None and held.get(key) == hash_of(value)
            else value
            for key, value in properties.items()
        }

    def remember_altered(self, image, named):
        live = self.live(PROPERTIES, self.image_id)
        newly = {key for key in live if key not in image["altered"]}
        brought = set(named) & (self.opened | self.told | newly)
        if brought:
            self.anomaly("value_altered", "warning", {"keys": sorted(brought)})
        still = {key for key in image["altered"] if key not in self.opened}
        image["altered"] = {key for key in still | set(named) if key in live}

    def anomaly(self, kind, severity, details):
        self.anomalies.append(
            {
                "kind": kind,
                "severity": severity,
                "aggregate_kind": "image",
                "aggregate_id": self.image_id,
                "event_id": self.event_id,
                "occurred_at": self.at,
                "details": details,
                "withdrawn_by_event": None,
            }
        )

    def image_row(self, image_id):
        image = self.images[image_id]
        size = image["columns"]["size"]
        fits = size is not None and size.isdecimal() and len(size) < 19
        told = [at for at, _ in image["registrations"]]
        seen = [at for at, origin in image["registrations"] if origin == "OBSERVED"]
        return {
            "image_id": image_id,
            **image["columns"],
            "size": int(size) if fits else None,
            "image_type": image["image_type"],
            "registered_at": min(seen, default=None),
            "registration_told_at": min(told, default=None),
            "data_uploaded_at": image["data_uploaded_at"],
            "deleted_at": image["deleted_at"],
            "last_event_id": image["last_event_id"],
        }


def meaning(held, change):
    if change["mode"] == "MERGE":
        merged = {**held, **change["set"]}
        return {key: v for key, v in merged.items() if key not in (change["removed"] or [])}
    kept = {key: value for key, value in held.items() if key in change["exempt"]}
    return {**kept, **change["set"]}


def why_gone(key, change):
    if change["removed"] is not None:
        if key in change["removed"]:
            return "removed"
    elif change["seen"] is not None and key in change["seen"] and key not in change["set"]:
        return "removed"
    left_out = key not in change["set"] and key not in change["exempt"]
    return "purged" if change["mode"] == "PURGE" and left_out else "unseen"


def differing(expected, found):
    keys = {k for k in {*expected, *found} if expected.get(k, MISSING) != found.get(k, MISSING)}
    return {
        "expected": {key: value for key, value in expected.items() if key in keys},
        "found": {key: value for key, value in found.items() if key in keys},
    }


def digests(expected, found):
    return {"expected": {"digest": expected}, "found": {"digest": found}}


def text(value):
    if value is True or value is False:
        return "true" if value else "false"
    return f"{value}"


def tags_text(tags):
    unique = []
    for tag in sorted(tags):
        if tag not in unique:
            unique.append(tag)
    return "[" + ",".join(json.dumps(tag, ensure_ascii=False) for tag in unique) + "]"


def hash_of(text):
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def digest_of(properties):
    pairs = (
        json.dumps(key, ensure_ascii=False) + ":" + json.dumps(properties[key], ensure_ascii=False)
        for key in sorted(properties)
    )
    return hash_of("{" + ",".join(pairs) + "}")

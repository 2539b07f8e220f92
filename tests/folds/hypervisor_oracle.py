"""The rules for hypervisors, told once more and naively; shares no code with the folds.

As `image_oracle`: it reads events in their JSON form, keeps the intervals in one plain list, and
looks them through for every question.
"""


def final_rows(history):
    """The rows of all tables after `history`, a list of (event, valid time) in the log's order."""
    model = Model()
    for event, at in history:
        model.apply(event, at)
    return {
        "hypervisors": [row | model.registered(row) for row in model.hypervisors.values()],
        "hypervisor_hosts": model.hosts,
        "anomalies": model.anomalies,
    }


class Model:
    def __init__(self):
        self.hypervisors = {}
        self.hosts = []
        self.anomalies = []
        self.registrations = {}

    def apply(self, event, at):
        self.at, self.event, self.data = at, event, event["data"]
        self.event_id = event["meta"]["event_id"]
        self.id = self.data["hypervisor_id"]
        self.gaps, self.differs = [], {}
        row = self.hypervisors.get(self.id)
        known = row is not None and self.registrations[self.id] and not row["removed_at"]
        if event["type"] == "HypervisorRegistered":
            if known and event["meta"]["origin"] == "IMPORTED":
                return
            self.register(row or self.create())
        elif event["type"] == "HypervisorHostChanged":
            self.change(row or self.create("never_registered"))
        elif row is not None and row["removed_at"]:
            return
        else:
            self.remove(row or self.create("never_registered"))
        self.hypervisors[self.id]["last_event_id"] = self.event_id
        if self.gaps and event["meta"]["origin"] == "OBSERVED":
            self.anomaly("history_gap", {"reasons": self.gaps, **self.differs})

    def create(self, *gaps):
        names = ("host", "id_source", "hypervisor_hostname", "hypervisor_type")
        row = {"hypervisor_id": self.id, "removed_at": None, **dict.fromkeys(names)}
        self.hypervisors[self.id] = row
        self.registrations[self.id] = []
        self.gaps += gaps
        return row

    def register(self, row):
        if row["removed_at"]:
            row = self.create()
        known = self.has()
        if "OBSERVED" in [origin for _, origin in self.registrations[self.id]]:
            self.gaps.append("registered_again")
            self.compare(known, self.data["host"])
        self.registrations[self.id].append((self.at, self.event["meta"]["origin"]))
        if known is not None and known != self.data["host"]:
            self.anomaly(
                "hypervisor_host_changed", {"from_host": known, "to_host": self.data["host"]}
            )
        self.become(row, self.data["host"], "registered", "unseen")
        row["id_source"] = self.data["id_source"]
        for name in ("hypervisor_hostname", "hypervisor_type"):
            if self.data[name] is not None:
                row[name] = self.data[name]

    def registered(self, row):
        told = self.registrations[row["hypervisor_id"]]
        return {
            "registered_at": min((at for at, how in told if how == "OBSERVED"), default=None),
            "registration_told_at": min((at for at, _ in told), default=None),
        }

    def change(self, row):
        if row["removed_at"]:
            self.gaps.append("was_removed")
            row["removed_at"] = None
        old, new = self.data["from_host"], self.data["to_host"]
        path = [] if self.has() is None else [self.has()]
        if path and path != [old]:
            self.gaps.append("before_differs")
            self.compare(path[0], old)
        for host in (old, new):
            if path[-1:] != [host]:
                path.append(host)
        if len(path) > 1:
            self.anomaly("hypervisor_host_changed", {"from_host": path[-2], "to_host": path[-1]})
        self.become(row, old, "unseen", "unseen")
        nobody_saw = self.event["meta"]["origin"] == "RECONCILED"
        self.become(row, new, *(["unseen"] * 2 if nobody_saw else ["changed"] * 2))

    def remove(self, row):
        for interval in self.live():
            self.close(interval, "removed")
        row["removed_at"] = self.at

    # --- what they share

    def live(self):
        return [
            each
            for each in self.hosts
            if each["hypervisor_id"] == self.id and each["valid_to"] is None
        ]

    def has(self):
        found = [each["host"] for each in self.live()]
        assert len(found) < 2
        return found[0] if found else None

    def become(self, row, host, via, replaced):
        row["host"] = host
        if self.has() == host:
            return
        for interval in self.live():
            self.close(interval, replaced)
        had = [each for each in self.hosts if each["hypervisor_id"] == self.id]
        self.hosts.append(
            {
                "hypervisor_id": self.id,
                "version": len(had) + 1,
                "host": host,
                "valid_from": self.at,
                "valid_to": None,
                "set_by_event": self.event_id,
                "set_via": via,
                "ended_by_event": None,
                "end_reason": None,
            }
        )

    def close(self, interval, reason):
        interval["valid_to"] = self.at
        interval["ended_by_event"] = self.event_id
        interval["end_reason"] = reason

    def compare(self, known, found):
        if known is not None and known != found:
            self.differs = {"expected": {"host": known}, "found": {"host": found}}

    def anomaly(self, kind, details):
        self.anomalies.append(
            {
                "kind": kind,
                "severity": "warning",
                "aggregate_kind": "hypervisor",
                "aggregate_id": self.id,
                "event_id": self.event_id,
                "occurred_at": self.at,
                "details": details,
                "withdrawn_by_event": None,
            }
        )

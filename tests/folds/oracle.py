"""The naive oracle of all aggregates: each has its own, which shares no code with the folds."""

from collections import defaultdict

from . import hypervisor_oracle, image_oracle, instance_oracle

ORACLES = {
    "image": image_oracle.final_rows,
    "instance": instance_oracle.final_rows,
    "hypervisor": hypervisor_oracle.final_rows,
}


def final_rows(history):
    """The rows of all tables after `history`, a list of (event, valid time) in the log's order."""
    told = defaultdict(list)
    for event, at in history:
        told[event["meta"]["aggregate"].partition(":")[0]].append((event, at))
    rows = defaultdict(list)
    for kind, its_own in told.items():
        for table, its_rows in ORACLES[kind](its_own).items():
            rows[table] += its_rows
    return rows

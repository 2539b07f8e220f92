"""Nova's own functional tests, unchanged, with engine plugin and notification driver loaded: the
ledger says what Nova did, and a read model made of its events alone is what Nova's database holds.

Nova 34 with its API, conductors, schedulers and computes runs in each of its tests, on a database a
cell. What a test leaves is compared table by table (`tests/nova/agreement`), each public table of
the read model with what Nova has of it, histories with what its rows were on the way; and no
anomaly is raised but those that are named here. Each test is named with what it has to have told,
so that a hook which is silent is seen; and once it is tried whether the comparison would notice it
if any one column said something else.
"""

from collections import Counter
from itertools import groupby

from tests.glance.environment import install_product
from tests.nova.compare import Compared
from tests.nova.environment import nova_environment
from tests.nova.harness import PLUGIN, run_functional
from tests.nova.held import NOTES

from .proof import Proof, Run

_NOTIFICATIONS = "notification_sample_tests.test_instance.TestInstanceNotificationSample"
_SERVERS = "test_servers"
_MOVING = f"{_SERVERS}.ServerMovingTests"
BOOTED, PLACED, DELETED = "InstanceBooted", "InstanceRelocated SCHEDULED", "InstanceDeleted"
REBUILT, ROLLED_BACK = "InstanceRebuilt", "InstanceRebuildRolledBack"

# In the order of what they add, for a short size takes the first ones.
TESTS: dict[str, set[str]] = {
    f"{_NOTIFICATIONS}.test_create_delete_server": {
        BOOTED,
        PLACED,
        DELETED,
        "HypervisorRegistered",
    },
    f"{_NOTIFICATIONS}.test_rebuild_server": {BOOTED, REBUILT},
    f"{_SERVERS}.ServerRebuildTestCase.test_rebuild_with_image_novalidhost": {
        REBUILT,
        ROLLED_BACK,
    },
    f"{_MOVING}.test_evacuate_clean_hypervisor": {"InstanceRelocated EVACUATION"},
    f"{_MOVING}.test_shelve_offload_unshelve_diff_host": {"InstanceRelocated UNSHELVE"},
    f"{_MOVING}.test_live_migrate": {"InstanceRelocated LIVE_MIGRATION"},
    f"{_MOVING}.test_migrate_revert": {"InstanceRelocated COLD_MIGRATION"},
    f"{_MOVING}.test_resize_confirm": {"InstanceRelocated RESIZE"},
    # From cell to cell; and both are archived, with the outbox's tables beside Nova's.
    "test_cross_cell_migrate.TestMultiCellMigrate.test_resize_confirm_image_backed": {
        "InstanceRelocated RESIZE"
    },
    f"{_NOTIFICATIONS}.test_instance_action": {
        BOOTED,
        "InstanceSystemMetadataSaved",
        *("SnapshotTaken", "InstanceRescued", "InstanceUnrescued"),
    },
    f"{_SERVERS}.ServersTest.test_create_and_rebuild_server": {REBUILT},
    f"{_SERVERS}.ServersTest.test_deferred_delete_restore": {BOOTED},
    f"{_NOTIFICATIONS}.test_resize_confirm_server": {BOOTED},
    f"{_NOTIFICATIONS}WithMultipleCompute.test_multiple_compute_actions": {
        "InstanceRelocated LIVE_MIGRATION",
        "InstanceRelocated EVACUATION",
    },
    f"{_MOVING}.test_resize_revert": {"InstanceRelocated RESIZE"},
    f"{_MOVING}.test_migrate_confirm": {"InstanceRelocated COLD_MIGRATION"},
    f"{_MOVING}.test_shelve_unshelve": {BOOTED},
    f"{_SERVERS}.ServerRescheduleTests": {PLACED},
    f"{_SERVERS}.ServerUnshelveSpawnFailTests": {BOOTED},
    f"{_SERVERS}.ServerSoftDeleteTests": {DELETED},
    f"{_SERVERS}.VolumeBackedServerTest": {BOOTED},
    "test_cross_cell_migrate.TestMultiCellMigrate.test_resize_revert_volume_backed": {PLACED},
    f"{_SERVERS}.ServerRebuildTestCaseV293": {REBUILT},
    # It never found a host, and is in cell0.
    "regressions.test_bug_1670627.TestDeleteFromCell0CheckQuota": {BOOTED, DELETED},
}

# Where Nova does something wrong: the kinds of anomalies that a test has to raise, and no others.
RIGHT: dict[str, set[str]] = {
    # What the rebuild stored is left behind when it finds no host.
    f"{_SERVERS}.ServerRebuildTestCase.test_rebuild_with_image_novalidhost": {
        "base_image_ref_stale"
    },
}


# After this one each column is tried, and these alone may say anything.
TRIED = f"{_NOTIFICATIONS}.test_instance_action"
LEDGERS_OWN = {
    # Where the log has it, and when it took it.
    *("ledger_events.log_partition", "ledger_events.log_offset", "ledger_events.recorded_at"),
    *("checkpoints.last_recorded_at", "checkpoints.releases"),
    *("read_model.topic_id", "read_model.format"),
}


def check(run: Run) -> None:
    environment = nova_environment()
    product = install_product(environment, run.folder / "product")
    chosen = list(TESTS)[: run.size]
    ran = run_functional(*(run.folder / "nova", environment, product, chosen), configuration=PLUGIN)
    told: dict[str, Counter[str]] = {name: Counter() for name in chosen}
    anomalies: dict[str, Counter[str]] = {name: Counter() for name in chosen}
    faults = []
    for test, kept in groupby(ran.databases, lambda kept: kept.test):
        name = next(name for name in chosen if f"{test}.".startswith(f"{name}."))
        folder = run.folder / "read" / test
        compared = Compared(list(kept), folder, right=RIGHT.get(name, ()))
        faults += [f"{test}: {it}" for it in compared.differences]
        told[name].update(compared.told())
        anomalies[name].update(compared.anomalies)
        if name == TRIED:
            unnoticed = sorted(compared.unnoticed() - LEDGERS_OWN)
            faults += [f"{it} could say anything" for it in unnoticed]
    for name in chosen:
        if lacking := TESTS[name] - told[name].keys():
            faults.append(f"{name}: told {sorted(told[name])}, and not {sorted(lacking)}")
        if lacking := RIGHT.get(name, set()) - anomalies[name].keys():
            faults.append(f"{name}: {sorted(lacking)} was not raised")
    total = sum(told.values(), Counter())
    databases = [kept for kept in ran.databases if kept.cell != NOTES]
    run.say(f"{len(databases)} databases of cells and spools, {total.total()} events")
    for what, count in sorted(total.items()):
        run.say(f"{count:6} {what}")
    assert not faults, "\n".join(faults)


PROOF = Proof(
    name="nova",
    promise="what a real Nova 34 does to its instances, the ledger tells, as its database has it",
    unit="of Nova's functional tests",
    least=1,
    short=10,
    long=len(TESTS),
    check=check,
)

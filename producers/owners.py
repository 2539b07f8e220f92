"""Who writes what: each event type has one owner in a deployment (EVENTS.md). Pure.

A fact that two parts told would be two events. So a part tells the types that it owns here, and
leaves every other one to its owner. `emit` owns nothing that a hooked service tells: what it writes
of such types is for ledgers that are fed from files.
"""

from enum import StrEnum

from metaledger.schemas.disk import DISK_EVENTS
from metaledger.schemas.events import EventData
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
)
from metaledger.schemas.image import IMAGE_EVENTS
from metaledger.schemas.instance import (
    DestroyJudged,
    InstanceBooted,
    InstanceDeleted,
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceRescued,
    InstanceSystemMetadataSaved,
    InstanceUnrescued,
    SnapshotTaken,
)
from metaledger.schemas.ledger import GapAccepted, RecordSkipped, SourceProgressed


class Owner(StrEnum):
    """A part that writes events of its own."""

    # In whatever opens the service's database: nova-api, nova-conductor, Glance.
    ENGINE_PLUGIN = "engine plugin"
    # In nova-compute, which has no database, and where only notifications tell.
    NOTIFICATION_DRIVER = "notification driver"
    # Around what creates disks, in nova-compute.
    DISK_HOOK = "disk hook"
    # Commands of an operator, through the operator's own spool.
    EMIT = "emit"
    # Of itself: how far its source is.
    RELAY = "relay"


OWNERS: dict[type[EventData], Owner] = {
    **dict.fromkeys(IMAGE_EVENTS, Owner.ENGINE_PLUGIN),
    InstanceBooted: Owner.ENGINE_PLUGIN,
    InstanceSystemMetadataSaved: Owner.ENGINE_PLUGIN,
    InstanceRebuilt: Owner.ENGINE_PLUGIN,
    InstanceRebuildRolledBack: Owner.ENGINE_PLUGIN,
    InstanceRelocated: Owner.ENGINE_PLUGIN,
    InstanceDeleted: Owner.ENGINE_PLUGIN,
    HypervisorRemoved: Owner.ENGINE_PLUGIN,
    SnapshotTaken: Owner.NOTIFICATION_DRIVER,
    InstanceRescued: Owner.NOTIFICATION_DRIVER,
    InstanceUnrescued: Owner.NOTIFICATION_DRIVER,
    HypervisorRegistered: Owner.NOTIFICATION_DRIVER,
    HypervisorHostChanged: Owner.NOTIFICATION_DRIVER,
    **dict.fromkeys(DISK_EVENTS, Owner.DISK_HOOK),
    DestroyJudged: Owner.EMIT,
    GapAccepted: Owner.EMIT,
    RecordSkipped: Owner.EMIT,
    SourceProgressed: Owner.RELAY,
}


def owned_by(owner: Owner) -> frozenset[type[EventData]]:
    """The types that the part writes."""
    return frozenset(event for event, its in OWNERS.items() if its is owner)

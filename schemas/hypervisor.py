"""The events of a hypervisor, aggregate `hypervisor:<hypervisor_id>` (EVENTS.md, "Event types").

Pure values. A hypervisor is known by its id; a host name is an endpoint of it, and may change
without anything moving. Each class has the name of its Avro schema (`avro/hypervisor/`).
"""

from dataclasses import dataclass
from enum import StrEnum

# The type of hypervisor of which a host has many: nodes that come and go between the hosts.
MANY_ON_A_HOST = "ironic"


class IdSource(StrEnum):
    """Where the id comes from: the driver, Nova's `compute_id` file, or made of host names."""

    NATIVE = "NATIVE"
    FILE = "FILE"
    DERIVED = "DERIVED"
    UNKNOWN = "UNKNOWN"


class _OfHypervisor:
    """What all events of a hypervisor share: their aggregate."""

    __slots__ = ()
    hypervisor_id: str

    @property
    def aggregate(self) -> str:
        """The aggregate, and the Kafka key."""
        return f"hypervisor:{self.hypervisor_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorRegistered(_OfHypervisor):
    """A hypervisor made itself known. `host`: the name of the compute service that runs it;
    `hypervisor_hostname`: the name that its driver gives it.
    """

    hypervisor_id: str
    id_source: IdSource
    host: str
    hypervisor_hostname: str | None = None
    hypervisor_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorHostChanged(_OfHypervisor):
    """A hypervisor is reached by another host name; nothing moved."""

    hypervisor_id: str
    from_host: str
    to_host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorRemoved(_OfHypervisor):
    """A hypervisor is no longer one of the cloud's."""

    hypervisor_id: str


HypervisorEvent = HypervisorRegistered | HypervisorHostChanged | HypervisorRemoved
HYPERVISOR_EVENTS = (HypervisorRegistered, HypervisorHostChanged, HypervisorRemoved)

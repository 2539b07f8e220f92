"""Which hypervisor this is, and by which host name it is reached; told when it changes.

A hypervisor is known by the id that Nova itself goes by: that of its file `compute_id`
(`nova/virt/node.py`), or the driver's own (a node of ironic). Nova is wrapped where
`ComputeManager` asks its driver at its start, before it refuses a host that was renamed, and where
`ResourceTracker` has looked at a node, then and now and then: an id of a later day is seen there.

The first time HypervisorRegistered is told, HypervisorHostChanged where the host name differs from
what the spool told last, else nothing. The spool remembers, so a restart tells nothing again. But a
node that Nova's database does not have when its service starts is forgotten: it is new, or it was
removed, and Nova makes it anew with the same id in a moment. What looks like a lost or a copied
`compute_id` is logged too; the ledger sees two ids on one host, or one id on two.
"""

import functools
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import structlog

from metaledger.producers import told
from metaledger.producers.guard import beside, described
from metaledger.producers.spool import Spool
from metaledger.schemas.events import Draft
from metaledger.schemas.hypervisor import (
    HypervisorEvent,
    HypervisorHostChanged,
    HypervisorRegistered,
    IdSource,
)
from metaledger.schemas.meta import Context

MODULES = ("nova.compute.manager", "nova.compute.resource_tracker")
_NODE_MODULE = "nova.virt.node"
_MARK = "__metaledger__"
_log = structlog.get_logger("metaledger.producers")

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervisor:
    """A hypervisor as its compute service sees it. `known_host`: where Nova's database has it."""

    hypervisor_id: str
    id_source: IdSource
    host: str
    hypervisor_hostname: str | None = None
    hypervisor_type: str | None = None
    known_host: str | None = None


class Identity:
    """Tells of hypervisors through a spool; what this process told it does not ask about again."""

    def __init__(self, spool: Spool, context: Callable[[], Context]) -> None:
        self.failures = 0
        self._spool = spool
        self._context = context
        # The host by the hypervisor's id.
        self._told: dict[str, str] = {}

    def seen(self, hypervisors: Collection[Hypervisor]) -> None:
        """These are this machine's. Fails nobody."""
        new = [it for it in hypervisors if self._told.get(it.hypervisor_id) != it.host]
        if not new:
            return
        with beside(self._missed):
            context = self._context()
            with self._spool.writing() as connection:
                events: list[HypervisorEvent] = []
                for hypervisor in new:
                    before = told.host_of(connection, hypervisor.hypervisor_id)
                    others = told.hypervisors_on(connection, hypervisor.host)
                    _warn(hypervisor, before, others)
                    events += _event(hypervisor, before)
                    told.put_hypervisor(connection, hypervisor.hypervisor_id, hypervisor.host)
                drafts = [
                    Draft(data=event, aggregate=event.aggregate, context=context)
                    for event in events
                ]
                if drafts:
                    self._spool.outbox.record(connection, drafts)
            self._told |= {it.hypervisor_id: it.host for it in new}

    def lacking(self, hypervisor_ids: Collection[str]) -> None:
        """Nova's database has none of these. Fails nobody."""
        if not hypervisor_ids:
            return
        with beside(self._missed), self._spool.writing() as connection:
            told.forget_hypervisors(connection, hypervisor_ids)
            self._told = {
                name: host for name, host in self._told.items() if name not in hypervisor_ids
            }

    def _missed(self, error: Exception) -> None:
        self.failures += 1
        _log.error("hypervisor not recorded", error=described(error), failures=self.failures)


def install(identity: Callable[[], Identity], module: ModuleType) -> None:
    """Wraps what was loaded."""
    for owner, name, look in _LOOKS:
        original = getattr(vars(module).get(owner), name, None)
        if callable(original) and not hasattr(original, _MARK):
            wrapped = functools.wraps(original)(_looking(identity, look, original))
            setattr(wrapped, _MARK, True)
            setattr(vars(module)[owner], name, wrapped)


def _looking(
    identity: Callable[[], Identity],
    look: Callable[[Identity, Any, object], None],
    original: Function,
) -> Function:
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        result: object = None
        try:
            result = original(self, *args, **kwargs)
        finally:
            # Also where Nova refuses what it found.
            with beside(_unseen):
                look(identity(), self, result)
        return result

    return called


def _unseen(error: Exception) -> None:
    _log.error("no hypervisor to be seen", error=described(error))


def _at_start(identity: Identity, manager: Any, nodes: object) -> None:  # noqa: ANN401
    """What the driver says, with what Nova's database knows of it; None: Nova refused that."""
    names = manager.driver.get_nodenames_by_uuid()
    known = nodes if isinstance(nodes, dict) else dict.fromkeys(names)
    # Of those that Nova does not know its resources tell in a moment.
    identity.lacking(names.keys() - known.keys())
    identity.seen(
        [
            Hypervisor(
                hypervisor_id=hypervisor_id,
                id_source=_source(hypervisor_id),
                host=manager.host,
                hypervisor_hostname=hostname,
                hypervisor_type=getattr(known[hypervisor_id], "hypervisor_type", None),
                known_host=getattr(known[hypervisor_id], "host", None),
            )
            for hypervisor_id, hostname in names.items()
            if hypervisor_id in known
        ]
    )


def _at_resources(identity: Identity, tracker: Any, _result: object) -> None:  # noqa: ANN401
    """What the tracker knows of its nodes."""
    identity.seen(
        [
            Hypervisor(
                hypervisor_id=node.uuid,
                id_source=_source(node.uuid),
                host=tracker.host,
                hypervisor_hostname=node.hypervisor_hostname,
                hypervisor_type=node.hypervisor_type,
            )
            for node in [*tracker.compute_nodes.values()]
        ]
    )


_LOOKS = (
    ("ComputeManager", "_get_nodes", _at_start),
    ("ResourceTracker", "update_available_resource", _at_resources),
)


def _source(hypervisor_id: str) -> IdSource:
    of_file = getattr(sys.modules.get(_NODE_MODULE), "LOCAL_NODE_UUID", None)
    return IdSource.FILE if of_file == hypervisor_id else IdSource.NATIVE


def _event(hypervisor: Hypervisor, before: str | None) -> Iterator[HypervisorEvent]:
    if before is None:
        yield HypervisorRegistered(
            hypervisor_id=hypervisor.hypervisor_id,
            id_source=hypervisor.id_source,
            host=hypervisor.host,
            hypervisor_hostname=hypervisor.hypervisor_hostname,
            hypervisor_type=hypervisor.hypervisor_type,
        )
    elif before != hypervisor.host:
        yield HypervisorHostChanged(
            hypervisor_id=hypervisor.hypervisor_id, from_host=before, to_host=hypervisor.host
        )


def _warn(hypervisor: Hypervisor, before: str | None, others: Collection[str]) -> None:
    if hypervisor.id_source is not IdSource.FILE:
        return  # one service may have many of them, and pass them on
    names = {"hypervisor_id": hypervisor.hypervisor_id, "host": hypervisor.host}
    if before is None and others:
        _log.error(
            "this host was another hypervisor before: was its file compute_id lost? Put that id "
            "back, or what runs here belongs to nobody",
            **names,
            before=sorted(others),
        )
    known = hypervisor.known_host or before
    if known not in {None, hypervisor.host}:
        _log.error(
            "this hypervisor is known on another host: was the host renamed, or its file "
            "compute_id copied from there? Two machines must never share an id",
            **names,
            known_host=known,
        )

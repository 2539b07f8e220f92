"""The hypervisor aggregate: who it is, and by which host name it is reached. Pure.

Gives the rows of `hypervisors` and `hypervisor_hosts`, and the anomalies that one hypervisor shows,
each kind once an event. What takes two of them, or the way back to a host that was left, is judged
later (`hypervisor_duplicate`). Decided here as for images, where the contract leaves it open:

- An OBSERVED event of a hypervisor that the ledger never saw registered creates it and raises
  history_gap. So does a second registration; its host is then the hypervisor's. The first one that
  is seen is no second one, and raises nothing, whatever was found before: `registered_at` is its
  time, and `registration_told_at` says since when a registration is known, of either kind.
- An IMPORTED registration of a hypervisor of which one is known changes nothing: it overrules
  nothing that was observed.
- A HypervisorHostChanged says what was before it: where the ledger knew another host, that one
  ended unseen, `from_host` is there unseen since the event, and history_gap is raised.
- `hypervisor_host_changed` is raised wherever one host name took another's place, whatever told of
  it (a change, a second registration) and with whatever origin; nothing else would tell of it. To
  the host that it has already a hypervisor does not change.
- A removal ends the host, and the row of `hypervisors` keeps what was last known. A second one
  changes nothing.
- A change of a removed hypervisor is applied, brings it back and raises history_gap.
- A registration of a removed hypervisor begins anew and raises nothing: an id outlives the service
  record, for it stands in a file of the machine or in its firmware.
- A null of a registration tells nothing. A removal has no other time than its event's.
- `details`: `reasons` of a history_gap (`never_registered`, `registered_again`, `was_removed`,
  `before_differs`), with `expected` and `found` where hosts differ; `from_host` and `to_host`.
"""

from datetime import datetime
from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from metaledger.projector.folds.step import (
    Fact,
    Projection,
    Put,
    Row,
    Step,
    anomaly,
    mark,
    origin_of,
)
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.hypervisor import (
    HypervisorEvent,
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.meta import Origin

SetVia = Literal["registered", "changed", "unseen"]
EndReason = Literal["changed", "removed", "unseen"]


class Endpoint(Struct, frozen=True, array_like=True):
    """A host name that the hypervisor has: all that its row needs when it ends."""

    host: str
    valid_from: datetime
    set_by_event: str
    set_via: SetVia


class HypervisorState(Struct, frozen=True, array_like=True, kw_only=True):
    """A hypervisor as of its last event; `versions` counts the host names that it had."""

    endpoint: Endpoint | None = None
    versions: int = 0
    host: str | None = None
    id_source: str | None = None
    hypervisor_hostname: str | None = None
    hypervisor_type: str | None = None
    registered_at: datetime | None = None
    registration_told_at: datetime | None = None
    removed_at: datetime | None = None


def fold_hypervisor(state: HypervisorState | None, fact: Fact) -> Step[HypervisorState]:
    """The hypervisor after the event. Raises Unfoldable."""
    data = fact.event.data
    if not isinstance(data, HypervisorEvent):
        raise Unfoldable(f"{fact.event.type} is no event of a hypervisor")
    turn = _Turn(state, fact, data.hypervisor_id)
    match data:
        case HypervisorRegistered():
            return _registered(turn, data)
        case HypervisorHostChanged():
            return _host_changed(turn, data)
        case HypervisorRemoved():
            return _removed(turn)
        case _:  # pragma: no cover (the type check proves it)
            assert_never(data)


HYPERVISOR_PROJECTION = Projection(
    aggregate_kind="hypervisor", state_type=HypervisorState, fold=fold_hypervisor
)


class _Turn:
    """One event's work on one hypervisor: the hosts as of now, and the rows that changed."""

    def __init__(self, state: HypervisorState | None, fact: Fact, hypervisor_id: str) -> None:
        self.is_new = state is None
        self.was = state or _NOTHING_KNOWN
        self.fact = fact
        self.hypervisor_id = hypervisor_id
        self.origin = origin_of(fact)
        self.endpoint = self.was.endpoint
        self.versions = self.was.versions
        self.rows: list[Put] = []

    @property
    def host(self) -> str | None:
        """The host name that it has."""
        return None if self.endpoint is None else self.endpoint.host

    def reach(self, host: str, *, via: SetVia, replaced: EndReason) -> None:
        """Makes it the host name that it has; to keep one changes nothing."""
        if host == self.host:
            return
        self.leave(replaced)
        self.versions += 1
        self.endpoint = Endpoint(host, self.fact.at, self.fact.event.meta.event_id, via)
        self._put(self.endpoint, None)

    def leave(self, reason: EndReason) -> None:
        """Ends the host name that it has, if it has one."""
        if self.endpoint is not None:
            self._put(self.endpoint, reason)
            self.endpoint = None

    def missed(self, reasons: list[str], *, found: str | None = None) -> None:
        """Raises the event's history_gap if there is a reason; `found` is the host that it found
        where another one was known.
        """
        if not reasons or self.origin is not Origin.OBSERVED:
            return
        gap = found is not None and self.host not in (None, found)
        hosts = {"expected": {"host": self.host}, "found": {"host": found}} if gap else {}
        self.rows.append(
            anomaly(self.fact, "history_gap", "warning", {"reasons": reasons, **hosts})
        )

    def renamed(self, from_host: str | None, to_host: str) -> None:
        """Raises hypervisor_host_changed, where one took the place of another."""
        if from_host not in (None, to_host):
            details = {"from_host": from_host, "to_host": to_host}
            self.rows.append(anomaly(self.fact, "hypervisor_host_changed", "warning", details))

    def step(self, state: HypervisorState) -> Step[HypervisorState]:
        """The step to that state, with all rows that changed."""
        row = _hypervisor_row(self.hypervisor_id, state, self.fact)
        marked = mark(self.fact, f"hypervisor:{self.hypervisor_id}")
        return Step(state, (Put("hypervisors", row, is_new=self.is_new), marked, *self.rows))

    def _put(self, endpoint: Endpoint, reason: EndReason | None) -> None:
        row: Row = {
            "hypervisor_id": self.hypervisor_id,
            "version": self.versions,
            "host": endpoint.host,
            "valid_from": endpoint.valid_from,
            "valid_to": reason and self.fact.at,
            "set_by_event": endpoint.set_by_event,
            "set_via": endpoint.set_via,
            "ended_by_event": reason and self.fact.event.meta.event_id,
            "end_reason": reason,
        }
        self.rows.append(Put("hypervisor_hosts", row, is_new=reason is None))


def _registered(turn: _Turn, data: HypervisorRegistered) -> Step[HypervisorState]:
    if data.id_source is IdSource.UNKNOWN:
        raise Unfoldable("the id's source is a symbol that this build does not know")
    was = turn.was if turn.was.removed_at is None else _NOTHING_KNOWN
    if was.registration_told_at is not None and turn.origin is Origin.IMPORTED:
        return Step(was, ())
    if was.registered_at is not None:
        turn.missed(["registered_again"], found=data.host)
    turn.renamed(turn.host, data.host)
    turn.reach(data.host, via="registered", replaced="unseen")
    seen = turn.fact.at if turn.origin is Origin.OBSERVED else None
    return turn.step(
        HypervisorState(
            endpoint=turn.endpoint,
            versions=turn.versions,
            host=data.host,
            id_source=data.id_source.value,
            hypervisor_hostname=_told(data.hypervisor_hostname, was.hypervisor_hostname),
            hypervisor_type=_told(data.hypervisor_type, was.hypervisor_type),
            registered_at=was.registered_at or seen,
            registration_told_at=was.registration_told_at or turn.fact.at,
        )
    )


def _host_changed(turn: _Turn, data: HypervisorHostChanged) -> Step[HypervisorState]:
    was = turn.was
    reasons = ["never_registered"] if turn.is_new else []
    if was.removed_at is not None:
        reasons.append("was_removed")
    if turn.host not in (None, data.from_host):
        reasons.append("before_differs")
    turn.missed(reasons, found=data.from_host)
    before = turn.host if data.from_host == data.to_host else data.from_host
    turn.renamed(before, data.to_host)
    turn.reach(data.from_host, via="unseen", replaced="unseen")
    if turn.origin is Origin.RECONCILED:
        turn.reach(data.to_host, via="unseen", replaced="unseen")
    else:
        turn.reach(data.to_host, via="changed", replaced="changed")
    return turn.step(
        replace(
            was,
            endpoint=turn.endpoint,
            versions=turn.versions,
            host=data.to_host,
            removed_at=None,
        )
    )


def _removed(turn: _Turn) -> Step[HypervisorState]:
    was = turn.was
    if was.removed_at is not None:
        return Step(was, ())
    if turn.is_new:
        turn.missed(["never_registered"])
    turn.leave("removed")
    return turn.step(replace(was, endpoint=None, removed_at=turn.fact.at))


_NOTHING_KNOWN = HypervisorState()


def _told(name: str | None, known: str | None) -> str | None:
    return known if name is None else name


def _hypervisor_row(hypervisor_id: str, state: HypervisorState, fact: Fact) -> Row:
    return {
        "hypervisor_id": hypervisor_id,
        "host": state.host,
        "id_source": state.id_source,
        "hypervisor_hostname": state.hypervisor_hostname,
        "hypervisor_type": state.hypervisor_type,
        "registered_at": state.registered_at,
        "registration_told_at": state.registration_told_at,
        "removed_at": state.removed_at,
        "last_event_id": fact.event.meta.event_id,
    }

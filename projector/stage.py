"""The leased stage behind the folds: derives and judges what takes more than one aggregate.

Two projectors that bind what belongs together as they see it miss each other's uncommitted side.
So the folds only mark what they touched, in their own transaction, and this reads what is committed
and works off the marks, one process at a time, in bounded transactions: the lineage of the marked
images first, then what is wrong with the marked subjects. What it says depends on rows alone, so it
is the same whichever side was there first, and however often it runs.

An anomaly is raised when the reports of all sources have passed its event, for until then the
other side may only be late; its subject stays marked. A source that has been silent for long is not
waited for. Where no source reports (a ledger that is fed from files) it is raised at the end of the
log. What does not hold any longer is withdrawn at once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from structlog import get_logger

from metaledger.projector import judgements
from metaledger.projector.derived import Derivation, Mark, Report
from metaledger.projector.judgements import Judgement
from metaledger.projector.lineage import (
    DEPTH_MAX,
    Lineage,
    Run,
    edge_of,
    path_of,
    possible_id,
    snapshot_of,
)
from metaledger.projector.store import Store
from metaledger.schemas.errors import Unstorable
from metaledger.schemas.identity import derived_id
from metaledger.schemas.tables.lineage import image_ancestors

# A transaction of some 20 statements, however many marks it works off.
_MARKS_MAX = 1_000
# Each image may have DEPTH_MAX ancestors: with more than so many, fewer marks are worked off.
_ANCESTORS_MAX = 250_000
# Reports come every 20 s. What its relay sends after an outage withdraws what it mends.
_SILENT_MAX = timedelta(minutes=10)
_ALWAYS = datetime(9999, 12, 31, tzinfo=UTC)
# What is put off until then is put aside.
_NEVER = datetime.max.replace(tzinfo=UTC)

_log = get_logger()


class _TooManyAncestors(Exception):
    """More than a transaction may hold in memory."""


def derive(store: Store, *, at_end: bool, turns_max: int | None = None) -> int:
    """Works off the marks that are due, in at most so many transactions; gives how many those were.

    `at_end`: all that is in the log was projected. Raises Unreachable, and what the store raises; a
    mark from which the database refuses what was derived is put aside, and told in the log.
    """
    with store.reading() as transaction:
        if not transaction.is_marked():
            return 0
    done, turns, marks_max = 0, 0, _MARKS_MAX
    while turns_max is None or turns < turns_max:
        marks: Sequence[Mark] = ()
        try:
            with store.deriving() as derivation:
                derivation.lease()
                settled_until = _settled_until(derivation.reports(), at_end=at_end)
                marks = derivation.marks(settled_until, marks_max=marks_max)
                if not marks:
                    break
                _work_off(derivation, marks, settled_until)
        except (_TooManyAncestors, Unstorable) as error:
            # No turn is over: who calls with few of them would try the same for ever.
            if len(marks) > 1:
                marks_max = len(marks) // 2
                continue
            _log.error("mark put aside", mark=tuple(*marks), error=str(error))
            with store.deriving() as derivation:
                derivation.lease()
                derivation.mark_for_judgement(dict.fromkeys(marks, _NEVER))
        done, turns = done + len(marks), turns + 1
    return done


def _settled_until(reports: Sequence[Report], *, at_end: bool) -> datetime | None:
    """The time that all sources' reports have passed; None: nothing is settled yet."""
    if not reports:
        return _ALWAYS if at_end else None
    newest = max(report.reported_at for report in reports)
    return min(
        report.oldest_unsent_at or report.reported_at
        for report in reports
        if report.reported_at >= newest - _SILENT_MAX
    )


def _work_off(
    derivation: Derivation, marks: Sequence[Mark], settled_until: datetime | None
) -> None:
    because = {
        kind: {mark.aggregate_id: mark for mark in marks if mark.aggregate_kind == kind}
        for kind in ("image", "instance", "hypervisor")
    }
    images, instances, hypervisors = (sorted(because[kind]) for kind in because)
    found: dict[str, list[Judgement]] = {}
    if images:
        found["image"] = _derive_images(derivation, images)
    if instances:
        derivation.mark_snapshots(instances)
        found["instance"] = [
            judgement
            for instance in derivation.subjects.instances(instances)
            for judgement in judgements.of_instance(instance)
        ]
    if hypervisors:
        derivation.mark_strays(hypervisors)
        last = because["hypervisor"][hypervisors[-1]]
        near = derivation.subjects.hypervisors_near(hypervisors)
        # Theirs too: a neighbour may share its host name with one that is no neighbour of these.
        around = derivation.subjects.hypervisors_near([it.hypervisor_id for it in near])
        for other in near:
            because["hypervisor"].setdefault(
                other.hypervisor_id, last._replace(aggregate_id=other.hypervisor_id)
            )
        found["hypervisor"] = [
            judgement for it in near for judgement in judgements.of_hypervisor(it, around)
        ]
    derivation.done(marks)
    for kind, judged in found.items():
        _settle(derivation, kind, because[kind], judged, settled_until)


def _derive_images(derivation: Derivation, image_ids: Sequence[str]) -> list[Judgement]:
    """Derives the lineage of these images; what is wrong with them."""
    known = _Known(derivation, image_ids)
    told = [image_id for image_id in image_ids if known.is_told(image_id)]
    own = {image_id: known.edge(image_id) for image_id in told}
    before = derivation.edges(image_ids)
    edges = _reachable(derivation, own)
    those = [
        Lineage(
            image_id=image_id,
            snapshot=known.snapshots[image_id],
            declared=known.declared.get(image_id),
            path=path_of(image_id, edges.get),
        )
        for image_id in told
    ]
    _check_ancestors(sum(len(one.path.ancestors) for one in those), of=image_ids)
    derivation.mark_descendants(
        [image_id for image_id in image_ids if before.get(image_id) != own.get(image_id)]
    )
    derivation.put_lineage(image_ids, those, own)
    _put_ancestors(derivation, image_ids, those)
    return [
        judgement
        for one in those
        for judgement in judgements.of_image(
            one, known.uploads.get(one.image_id), booted=known.is_booted(one.image_id)
        )
    ]


class _Known:
    """What the folds know of some images."""

    def __init__(self, derivation: Derivation, image_ids: Sequence[str]) -> None:
        taken = derivation.taken(image_ids)
        self.uploads = derivation.uploads(image_ids)
        self.declared = derivation.declared(image_ids)
        untold = {it.instance_uuid for those in taken.values() for it in those if not it.image_ref}
        untold |= {
            upload.instance_uuid
            for image_id, upload in self.uploads.items()
            if image_id not in taken and upload.instance_uuid is not None
        }
        runs: Mapping[str, Sequence[Run]] = derivation.runs(untold) if untold else {}
        self.snapshots = {
            image_id: snapshot_of(
                taken.get(image_id, ()),
                self.uploads.get(image_id),
                lambda instance_uuid: runs.get(instance_uuid, ()),
            )
            for image_id in image_ids
        }
        self._booted = derivation.booted({it.instance_uuid for it in self.snapshots.values() if it})

    def is_told(self, image_id: str) -> bool:
        """Whether there is anything to say of it."""
        has_any = self.snapshots[image_id] is not None or image_id in self.declared
        return has_any and possible_id(image_id) is not None

    def is_booted(self, image_id: str) -> bool:
        """Whether its instance was seen to boot."""
        snapshot = self.snapshots[image_id]
        return snapshot is not None and snapshot.instance_uuid in self._booted

    def edge(self, image_id: str) -> str | None:
        """Where its edge goes."""
        return edge_of(self.snapshots[image_id], self.declared.get(image_id))


def _reachable(derivation: Derivation, own: Mapping[str, str | None]) -> dict[str, str | None]:
    """All edges on the paths from these; a statement a generation."""
    edges = dict(own)
    frontier = {edge for edge in own.values() if edge is not None} - edges.keys()
    for _ in range(DEPTH_MAX):
        if not frontier:
            break
        found = derivation.edges(frontier)
        edges.update(dict.fromkeys(frontier))
        edges.update(found)
        _check_ancestors(len(edges), of=own)
        frontier = {edge for edge in found.values() if edge is not None} - edges.keys()
    return edges


def _check_ancestors(count: int, *, of: Collection[str]) -> None:
    if count > _ANCESTORS_MAX and len(of) > 1:
        raise _TooManyAncestors


def _put_ancestors(
    derivation: Derivation, image_ids: Sequence[str], those: Sequence[Lineage]
) -> None:
    before = derivation.ancestors(image_ids)
    now = {one.image_id: one.path.ancestors for one in those}
    changed = [it for it in image_ids if before.get(it, ()) != now.get(it, ())]
    rows = [
        (image_id, ancestor, depth)
        for image_id in changed
        for depth, ancestor in enumerate(now.get(image_id, ()), start=1)
    ]
    derivation.replace(image_ancestors, changed, rows)
    derivation.mark_instances(changed)


def _settle(
    derivation: Derivation,
    kind: str,
    because: Mapping[str, Mark],
    judged: Iterable[Judgement],
    settled_until: datetime | None,
) -> None:
    """Raises, puts off and withdraws, so that what stands is what was judged."""
    now = {_anomaly_id(one): one for one in judged}
    before = derivation.subjects.judged(kind, sorted(because))
    times = derivation.subjects.valid_times({one.event_id for one in now.values()})
    rows, waiting = [], dict[Mark, datetime]()
    for anomaly_id, one in now.items():
        at = times[one.event_id]
        mark = because[one.aggregate.partition(":")[2]]
        if anomaly_id not in before and (settled_until is None or at > settled_until):
            waiting[mark] = max(at, waiting.get(mark, at))
        elif before.get(anomaly_id) != (row := _row(anomaly_id, one, at)):
            rows.append(row)
    for anomaly_id, row in before.items():
        if anomaly_id not in now and row["withdrawn_by_event"] is None:
            rows.append({**row, "withdrawn_by_event": because[row["aggregate_id"]].event_id})
    derivation.subjects.put_anomalies(rows)
    derivation.mark_for_judgement(waiting)


def _anomaly_id(one: Judgement) -> str:
    return derived_id(one.kind, one.event_id, one.subject)


def _row(anomaly_id: str, one: Judgement, at: datetime) -> dict[str, Any]:
    kind, _, aggregate_id = one.aggregate.partition(":")
    return {
        "anomaly_id": anomaly_id,
        "kind": one.kind,
        "severity": one.severity,
        "aggregate_kind": kind,
        "aggregate_id": aggregate_id,
        "event_id": one.event_id,
        "occurred_at": at,
        "details": one.details,
        "withdrawn_by_event": None,
    }

"""Disks, told by who makes them: what is intended before, what came of it after.

    disks = Disks(spool, context)
    root = NewDisk(instance_uuid=uuid, disk="disk", layout=layout)
    swap = NewDisk(instance_uuid=uuid, disk="disk.swap", layout=of_swap)
    with disks.creating(root, swap):        # both intents are on the disk now, in one transaction
        make(root); make(swap)
    # created, both of them; where the body raised, failed, and the error goes on its way

Rules:
- An intent is strict, whatever is configured: where it cannot be made durable Unrecorded is raised,
  the body does not run, and the disk never comes into being.
- An outcome never fails a disk that is there: what cannot be recorded is counted and logged, and
  mended at the next touch, by `creating` or `met`. A crash leaves the same: a disk that is
  `intended`, never one that nobody knows.
- Who calls `creating` says that there is no disk of that name. One that was told of is gone, and
  that is told first.
- What is known of this machine's disks stands in the spool (`told`) and nowhere else: any process
  may go on where another ended.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Connection

from metaledger.producers import told
from metaledger.producers.database import reading
from metaledger.producers.guard import beside, described
from metaledger.producers.scrubbing import scrubbed
from metaledger.producers.spool import Spool
from metaledger.producers.told import DiskState, KnownDisk
from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskEvent,
    DiskLayout,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
)
from metaledger.schemas.errors import MetaledgerError, Unrecorded
from metaledger.schemas.events import Draft
from metaledger.schemas.meta import Context

_log = structlog.get_logger("metaledger.producers")

_NEVER_MADE = "it was intended, and was not there at the next intent"
_GREW = "it was met larger than it was"
_RESIZED = "it came with a resize or a migration of its instance"

Name = tuple[str, str]
# What is told of a disk that is there, of which that was told last.
_Settled = Callable[["NewDisk", KnownDisk | None], Collection[DiskEvent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDisk:
    """A disk as it is to be made, or as one that was met looks."""

    instance_uuid: str
    disk: str
    layout: DiskLayout


class Creation:
    """Disks that are being made, for the body of `creating`."""

    def __init__(self, disks: Sequence[NewDisk]) -> None:
        self._left = {(disk.instance_uuid, disk.disk): disk for disk in disks}
        self._made: list[DiskEvent] = []

    def made(self, disk: NewDisk, layout: DiskLayout | None = None) -> None:
        """This disk is there, whatever becomes of the others; with that layout, if it is not the
        one that was intended. Told when the body ends.
        """
        if self._left.pop((disk.instance_uuid, disk.disk), None) is not None:
            changed = None if layout == disk.layout else layout
            self._made.append(_created(disk, changed))

    def outcomes(self, error: BaseException | None) -> list[DiskEvent]:
        """What came of them all."""
        if error is None:
            return [*self._made, *(_created(disk) for disk in self._left.values())]
        text = scrubbed(f"{type(error).__name__}: {error}")
        return [*self._made, *(_failed(disk, text) for disk in self._left.values())]


class Disks:
    """Tells of disks through a spool. Thread-safe; opens nothing before its first use."""

    def __init__(self, spool: Spool, context: Callable[[], Context]) -> None:
        self.failures = 0
        self._spool = spool
        self._context = context

    @contextmanager
    def creating(self, *disks: NewDisk) -> Iterator[Creation]:
        """Runs the body, which makes the disks, once their intent is durable. Raises Unrecorded."""
        self._intend(disks)
        creation = Creation(disks)
        try:
            yield creation
        except BaseException as error:
            self._tell(disks, creation.outcomes(error))
            raise
        self._tell(disks, creation.outcomes(None))

    def met(self, *disks: NewDisk) -> None:
        """These disks are there: what the ledger was not told of them is told now.

        A layout is backfilled where the disk is not known; nobody looks into the disk. One that is
        larger than was told has grown, for no virt driver makes a disk smaller.
        """
        self._settle(disks, _settled)

    def resized(self, *disks: NewDisk) -> None:
        """These disks are there, and are now what a resize made of them.

        That replaces what was told of them, by another machine too, from which they may have come.
        """
        self._settle(disks, _resized)

    def _settle(self, disks: Sequence[NewDisk], settled: _Settled) -> None:
        with beside(lambda error: self._missed(error, len(disks))):
            # Without a lock, for every start of an instance asks.
            self._spool.install()
            with reading(self._spool.engine) as connection:
                known = _known(connection, disks)
            owed = [disk for disk in disks if settled(disk, known.get(_name(disk)))]
            if not owed:
                return
            with self._spool.writing() as connection:
                # Somebody else may have told meanwhile.
                known = _known(connection, owed)
                events = [event for disk in owed for event in settled(disk, known.get(_name(disk)))]
                self._record(connection, known, events)

    def gone(self, instance_uuid: str, which: Callable[[str], bool] = lambda _: True) -> None:
        """The instance's disks whose names `which` accepts were deleted."""
        with (
            beside(lambda error: self._missed(error, 1)),
            self._spool.writing() as connection,
        ):
            known = told.disks_of(connection, instance_uuid)
            names = [disk for disk in known if which(disk)]
            deleted = [
                DiskDeleted(instance_uuid=instance_uuid, disk=disk)
                for disk in names
                if known[disk].state != "failed"
            ]
            self._record(connection, {}, deleted)
            told.forget_disks(connection, instance_uuid, names)

    def left(self, instance_uuid: str) -> None:
        """The instance's disks went to another machine, which tells of them from now on."""
        with (
            beside(lambda error: self._missed(error, 0)),
            self._spool.writing() as connection,
        ):
            names = [*told.disks_of(connection, instance_uuid)]
            told.forget_disks(connection, instance_uuid, names)

    def _intend(self, disks: Sequence[NewDisk]) -> None:
        try:
            with self._spool.writing() as connection:
                known = _known(connection, disks)
                events = [
                    event for disk in disks for event in _intended(disk, known.get(_name(disk)))
                ]
                self._record(connection, known, events)
        except MetaledgerError as error:
            names = ", ".join(f"{disk.disk} of instance {disk.instance_uuid}" for disk in disks)
            raise Unrecorded(
                f"not made, for its intent could not be recorded: {names}: {error}; see that the "
                "spool can be written, and that `metaledger relay --spool` empties it"
            ) from error

    def _tell(self, disks: Sequence[NewDisk], events: Sequence[DiskEvent]) -> None:
        with (
            beside(lambda error: self._missed(error, len(events))),
            self._spool.writing() as connection,
        ):
            intended = {_name(disk): KnownDisk("intended", disk.layout) for disk in disks}
            self._record(connection, intended, events)

    def _record(
        self, connection: Connection, known: Mapping[Name, KnownDisk], events: Sequence[DiskEvent]
    ) -> None:
        """Writes the events, and what is known after them of disks of which `known` was before."""
        if not events:
            return
        context = self._context()
        drafts = [Draft(data=event, aggregate=event.aggregate, context=context) for event in events]
        self._spool.outbox.record(connection, drafts)
        after: dict[str, dict[str, KnownDisk]] = defaultdict(dict)
        for event in events:
            before = known.get((event.instance_uuid, event.disk))
            layout: DiskLayout | None = getattr(event, "layout", None)
            if layout is None and before is not None:
                layout = before.layout
            state = _STATES.get(type(event))
            if state is not None and layout is not None:
                after[event.instance_uuid][event.disk] = KnownDisk(state, layout)
        for instance_uuid, disks in after.items():
            told.put_disks(connection, instance_uuid, disks)

    def _missed(self, error: Exception, changes: int) -> None:
        self.failures += 1
        self._spool.outbox.missed(changes)
        _log.error("disks not recorded", error=described(error), failures=self.failures)


# What is known of a disk after an event of it.
_STATES: Mapping[type[DiskEvent], DiskState] = {
    DiskCreationStarted: "intended",
    DiskCreated: "there",
    DiskCreationFailed: "failed",
    DiskLayoutBackfilled: "there",
    DiskLayoutChanged: "there",
}


def _name(disk: NewDisk) -> Name:
    return disk.instance_uuid, disk.disk


def _known(connection: Connection, disks: Iterable[NewDisk]) -> dict[Name, KnownDisk]:
    return {
        (instance_uuid, disk): known
        for instance_uuid in sorted({disk.instance_uuid for disk in disks})
        for disk, known in told.disks_of(connection, instance_uuid).items()
    }


def _intended(disk: NewDisk, known: KnownDisk | None) -> Collection[DiskEvent]:
    """What is told before a disk is made, of which that was told last."""
    started = DiskCreationStarted(
        instance_uuid=disk.instance_uuid, disk=disk.disk, layout=disk.layout
    )
    if known is None or known.state == "failed":
        return (started,)
    if known.state == "there":
        return (DiskDeleted(instance_uuid=disk.instance_uuid, disk=disk.disk), started)
    return (_failed(disk, _NEVER_MADE), started)


def _settled(disk: NewDisk, known: KnownDisk | None) -> Collection[DiskEvent]:
    """What is told of a disk that is there, of which that was told last."""
    if known is None or known.state == "failed":
        return (
            DiskLayoutBackfilled(
                instance_uuid=disk.instance_uuid, disk=disk.disk, layout=disk.layout
            ),
        )
    created = (_created(disk),) if known.state == "intended" else ()
    if disk.layout.size_bytes <= known.layout.size_bytes:
        return created
    grown = replace(known.layout, size_bytes=disk.layout.size_bytes)
    return (*created, _changed(disk, grown, _GREW))


def _resized(disk: NewDisk, known: KnownDisk | None) -> Collection[DiskEvent]:
    """As `_settled`, of a disk that an instance's resize has left as it is."""
    if known is None:
        return (_changed(disk, disk.layout, _RESIZED),)
    return _settled(disk, known)


def _changed(disk: NewDisk, layout: DiskLayout, reason: str) -> DiskLayoutChanged:
    return DiskLayoutChanged(
        instance_uuid=disk.instance_uuid, disk=disk.disk, layout=layout, reason=reason
    )


def _created(disk: NewDisk, layout: DiskLayout | None = None) -> DiskCreated:
    return DiskCreated(instance_uuid=disk.instance_uuid, disk=disk.disk, layout=layout)


def _failed(disk: NewDisk, error: str) -> DiskCreationFailed:
    return DiskCreationFailed(instance_uuid=disk.instance_uuid, disk=disk.disk, error=error)

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

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import structlog
from sqlalchemy import Connection

from metaledger.producers import told
from metaledger.producers.database import reading
from metaledger.producers.guard import beside, described
from metaledger.producers.scrubbing import scrubbed
from metaledger.producers.spool import Spool
from metaledger.producers.told import DiskState
from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskEvent,
    DiskLayout,
    DiskLayoutBackfilled,
)
from metaledger.schemas.errors import MetaledgerError, Unrecorded
from metaledger.schemas.events import Draft
from metaledger.schemas.meta import Context, Origin

_log = structlog.get_logger("metaledger.producers")

_NEVER_MADE = "it was intended, and was not there at the next intent"


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
            self._tell(creation.outcomes(error))
            raise
        self._tell(creation.outcomes(None))

    def met(self, *disks: NewDisk) -> None:
        """These disks are there: what the ledger was not told of them is told now.

        A layout is backfilled where the disk is not known; nobody looks into the disk.
        """
        with beside(lambda error: self._missed(error, len(disks))):
            unsettled = [disk for disk, state in self._known(disks) if state != "there"]
            if not unsettled:
                return
            with self._spool.writing() as connection:
                # Somebody else may have told meanwhile.
                states = _states(connection, unsettled)
                events = [_settled(disk, states.get(_name(disk))) for disk in unsettled]
                self._record(connection, [event for event in events if event is not None])

    def gone(self, instance_uuid: str, which: Callable[[str], bool] = lambda _: True) -> None:
        """The instance's disks whose names `which` accepts were deleted."""
        with (
            beside(lambda error: self._missed(error, 1)),
            self._known_some(instance_uuid, which) as (connection, known),
        ):
            deleted = [
                DiskDeleted(instance_uuid=instance_uuid, disk=disk)
                for disk, state in known.items()
                if state != "failed"
            ]
            self._record(connection, deleted)
            told.forget_disks(connection, instance_uuid, known)

    def left(self, instance_uuid: str) -> None:
        """The instance's disks went to another machine, which tells of them from now on."""
        with (
            beside(lambda error: self._missed(error, 0)),
            self._known_some(instance_uuid, lambda _: True) as (connection, known),
        ):
            told.forget_disks(connection, instance_uuid, known)

    def _intend(self, disks: Sequence[NewDisk]) -> None:
        try:
            with self._spool.writing() as connection:
                states = _states(connection, disks)
                events = [
                    event for disk in disks for event in _intended(disk, states.get(_name(disk)))
                ]
                self._record(connection, events)
        except MetaledgerError as error:
            names = ", ".join(f"{disk.disk} of instance {disk.instance_uuid}" for disk in disks)
            raise Unrecorded(
                f"not made, for its intent could not be recorded: {names}: {error}; see that the "
                "spool can be written, and that `metaledger relay --spool` empties it"
            ) from error

    def _tell(self, events: Sequence[DiskEvent]) -> None:
        with (
            beside(lambda error: self._missed(error, len(events))),
            self._spool.writing() as connection,
        ):
            self._record(connection, events)

    def _record(self, connection: Connection, events: Sequence[DiskEvent]) -> None:
        context = self._context()
        drafts = [
            Draft(data=event, aggregate=event.aggregate, context=context, origin=Origin.OBSERVED)
            for event in events
        ]
        if not drafts:
            return
        self._spool.outbox.record(connection, drafts)
        for instance_uuid, of_instance in groupby(events, attrgetter("instance_uuid")):
            states = {
                event.disk: state for event in of_instance if (state := _STATES.get(type(event)))
            }
            told.put_disks(connection, instance_uuid, states)

    def _known(self, disks: Sequence[NewDisk]) -> list[tuple[NewDisk, DiskState | None]]:
        """Without a lock: every start of an instance asks."""
        self._spool.install()
        with reading(self._spool.engine) as connection:
            states = _states(connection, disks)
        return [(disk, states.get(_name(disk))) for disk in disks]

    @contextmanager
    def _known_some(
        self, instance_uuid: str, which: Callable[[str], bool]
    ) -> Iterator[tuple[Connection, Mapping[str, DiskState]]]:
        with self._spool.writing() as connection:
            known = told.disks_of(connection, instance_uuid)
            yield connection, {disk: state for disk, state in known.items() if which(disk)}

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
}


def _name(disk: NewDisk) -> tuple[str, str]:
    return disk.instance_uuid, disk.disk


def _states(connection: Connection, disks: Iterable[NewDisk]) -> dict[tuple[str, str], DiskState]:
    return {
        (instance_uuid, disk): state
        for instance_uuid in sorted({disk.instance_uuid for disk in disks})
        for disk, state in told.disks_of(connection, instance_uuid).items()
    }


def _intended(disk: NewDisk, state: DiskState | None) -> Collection[DiskEvent]:
    """What is told before a disk is made, of which that was told last."""
    started = DiskCreationStarted(
        instance_uuid=disk.instance_uuid, disk=disk.disk, layout=disk.layout
    )
    if state == "there":
        return (DiskDeleted(instance_uuid=disk.instance_uuid, disk=disk.disk), started)
    if state == "intended":
        return (_failed(disk, _NEVER_MADE), started)
    return (started,)


def _settled(disk: NewDisk, state: DiskState | None) -> DiskEvent | None:
    """What is told of a disk that is there, of which that was told last."""
    if state == "there":
        return None
    if state == "intended":
        return _created(disk)
    return DiskLayoutBackfilled(
        instance_uuid=disk.instance_uuid, disk=disk.disk, layout=disk.layout
    )


def _created(disk: NewDisk, layout: DiskLayout | None = None) -> DiskCreated:
    return DiskCreated(instance_uuid=disk.instance_uuid, disk=disk.disk, layout=layout)


def _failed(disk: NewDisk, error: str) -> DiskCreationFailed:
    return DiskCreationFailed(instance_uuid=disk.instance_uuid, disk=disk.disk, error=error)

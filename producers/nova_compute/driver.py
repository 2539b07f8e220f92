"""The notification driver, and the one place where the parts of nova-compute's hook meet.

    [oslo_messaging_notifications]
    driver = metaledger

beside the drivers that are there. It runs inline, in the thread that notifies: it writes a row into
a local file, waits for no other writer longer than WAIT_S, sends nothing, and no error of it gets
out. In a service that is not nova-compute it does nothing.
"""

import functools
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import structlog

from metaledger.producers import nova_guard
from metaledger.producers.disks import Disks
from metaledger.producers.guard import beside, described
from metaledger.producers.hosting import current_request, log_where_the_service_does, with_request
from metaledger.producers.nova_compute import (
    identity,
    imagebackend,
    notifications,
    operations,
    settings,
)
from metaledger.producers.nova_compute.arrival import Action, when_loaded
from metaledger.producers.nova_compute.identity import Identity
from metaledger.producers.nova_compute.notifications import Notice
from metaledger.producers.nova_compute.settings import ComputeSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.events import Draft
from metaledger.schemas.meta import Context

# A relay holds the file for milliseconds; a thread of the service waits no longer than this.
WAIT_S = 0.25
_log = structlog.get_logger("metaledger.producers")


class NotificationDriver:
    """What oslo.messaging loads for `driver = metaledger`; it asks for this form of class."""

    def __init__(self, conf: object, topics: object, transport: object) -> None:
        del conf, topics, transport  # nothing is sent
        log_where_the_service_does()
        for module, install in HOOKS:
            when_loaded(module, install)

    def notify(
        self, ctxt: Mapping[str, Any], message: Mapping[str, Any], priority: str, retry: object
    ) -> None:
        """Records what the notification tells. Raises nothing."""
        del priority, retry
        # The other services notify in nova-compute's name, of what they do without it.
        if operations.MODULE not in sys.modules:
            return
        with beside(_unread):
            notice = notifications.read(message)
            if notice is not None:
                _Parts.of(settings.load()).take(notice, ctxt or {})


class _Parts:
    """What a process has by its settings; nothing is opened before it tells something."""

    def __init__(self, chosen: ComputeSettings) -> None:
        self._nobody = chosen.producer.context()
        self._notices = Spool(chosen.spool, chosen.producer, wait_s=WAIT_S)
        # Whoever is about to make a disk can wait longer than who only notifies.
        self.disks = Disks(Spool(chosen.spool, chosen.producer), self._context)
        self._departures = Disks(self._notices, self._context)
        self.identity = Identity(self._notices, lambda: self._nobody)
        self._failures = 0

    @staticmethod
    @lru_cache(maxsize=4)
    def of(chosen: ComputeSettings) -> "_Parts":
        """Those of these settings, made once."""
        return _Parts(chosen)

    def take(self, notice: Notice, request: Mapping[str, Any]) -> None:
        """Tells what the notice tells, and what became of the disks."""
        with beside(self._missed):
            fact = notifications.told(notice, operations.current(notice.instance_uuid))
            if fact is not None:
                context = with_request(self._nobody, request)
                self._notices.emit([Draft(data=fact, aggregate=fact.aggregate, context=context)])
        match notice.disks:
            case notifications.Disks.GONE:
                self._departures.gone(notice.instance_uuid)
            case notifications.Disks.RESCUE_GONE:
                self._departures.gone(notice.instance_uuid, _is_of_rescue)
            case notifications.Disks.LEFT:
                self._departures.left(notice.instance_uuid)
            case None:
                pass

    def _context(self) -> Context:
        return with_request(self._nobody, current_request())

    def _missed(self, error: Exception) -> None:
        self._failures += 1
        self._notices.outbox.missed(1)
        _log.error("notification not recorded", error=described(error), failures=self._failures)


def _unread(error: Exception) -> None:
    _log.error("notification not understood", error=described(error))


def _is_of_rescue(disk: str) -> bool:
    return disk.endswith(".rescue")


def _disks() -> Disks | None:
    chosen = settings.load()
    return _Parts.of(chosen).disks if chosen.disks else None


def _identity() -> Identity:
    return _Parts.of(settings.load()).identity


_wrap_identity = functools.partial(identity.install, _identity)

# What is done to each module of Nova's once it is loaded.
HOOKS: tuple[tuple[str, Action], ...] = (
    (imagebackend.MODULE, functools.partial(imagebackend.install, _disks)),
    (operations.MODULE, operations.install),
    (nova_guard.MODULE, nova_guard.install),
    *((module, _wrap_identity) for module in identity.MODULES),
)

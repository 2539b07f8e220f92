"""The engine plugin: one for all services, and the place where the parts of their hooks meet.

    [database]
    connection_parameters = plugin=metaledger

loads it in every process that opens the service's database: Glance's workers, `glance-manage` and
the scrubber; nova-api and nova-conductor. It opens no connection and starts no thread, so it may be
loaded before a fork; it has no effect on an engine without a service's tables, such as that of
Nova's API database.
"""

import functools
from typing import Any

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import CreateEnginePlugin

from metaledger.producers.glance.service import GLANCE
from metaledger.producers.hosting import log_where_the_service_does, with_request
from metaledger.producers.nova.service import NOVA
from metaledger.producers.outbox import Outbox
from metaledger.producers.watching import settings
from metaledger.producers.watching.service import Service
from metaledger.producers.watching.watch import Watcher, watch
from metaledger.schemas.identity import system_clock
from metaledger.schemas.meta import Context

SERVICES: tuple[Service[Any], ...] = (GLANCE, NOVA)


class MetaledgerPlugin(CreateEnginePlugin):
    """What SQLAlchemy loads for `plugin=metaledger`."""

    # typing.override asks for Python 3.12.
    def update_url(self, url: URL) -> URL:  # type: ignore[explicit-override]
        """The URL as it is: SQLAlchemy has taken `plugin` out of it."""
        return url

    def engine_created(self, engine: Engine) -> None:  # type: ignore[explicit-override]
        """Begins to watch the engine, with the service's settings as they are now."""
        log_where_the_service_does()
        watch(engine, [_watcher(service) for service in SERVICES])
        # A service's modules may be loaded after its engine was made.
        event.listen(engine, "engine_connect", _install)
        _install()


def _watcher(service: Service[Any]) -> Watcher:
    chosen = settings.load(service.name)
    return Watcher(
        service,
        outbox=Outbox(chosen, chosen.codec()),
        context=functools.partial(_context, service, chosen.context()),
        clock=system_clock,
    )


def _install(*_connection: Connection) -> None:
    for service in SERVICES:
        service.install()


def _context(service: Service[Any], nobody: Context) -> Context:
    """Who asked for the change; nobody where the service knows no request."""
    return with_request(nobody, service.request())

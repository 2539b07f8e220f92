"""The engine plugin, and the one place where the parts of the hook meet.

    [database]
    connection_parameters = plugin=metaledger

loads it in every process that opens the service's database: the API's workers, `glance-manage`, the
scrubber. It opens no connection and starts no thread, so it may be loaded before a fork; it has no
effect on an engine without Glance's tables.
"""

import functools
from dataclasses import replace

import structlog
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import CreateEnginePlugin

from metaledger.producers.glance import intents, settings
from metaledger.producers.glance.gathered import Intended, Transactions
from metaledger.producers.glance.rows import Intent
from metaledger.producers.glance.watch import Watcher
from metaledger.producers.outbox import Outbox
from metaledger.schemas.identity import system_clock
from metaledger.schemas.meta import Context
from metaledger.schemas.representable import representable

# Of all engines of the process, for what Glance was told names a connection and no engine.
_TRANSACTIONS = Transactions()
_REQUEST_FIELDS = ("request_id", "global_request_id", "user_id", "project_id")


class MetaledgerPlugin(CreateEnginePlugin):
    """What SQLAlchemy loads for `plugin=metaledger`."""

    # typing.override asks for Python 3.12.
    def update_url(self, url: URL) -> URL:  # type: ignore[explicit-override]
        """The URL as it is: SQLAlchemy has taken `plugin` out of it."""
        return url

    def engine_created(self, engine: Engine) -> None:  # type: ignore[explicit-override]
        """Begins to watch the engine, with the service's settings as they are now."""
        chosen = settings.load()
        _log_where_the_service_does()
        Watcher(
            outbox=Outbox(chosen, chosen.codec()),
            transactions=_TRANSACTIONS,
            context=functools.partial(_context, chosen.context()),
            clock=system_clock,
        ).listen(engine)
        # Glance's modules may be loaded after its engine was made.
        event.listen(engine, "engine_connect", _install)
        _install()


def _install(*_connection: Connection) -> None:
    intents.install(_note)


def _note(connection: Connection, image_id: str, intent: Intent) -> None:
    _TRANSACTIONS.learn(connection, Intended(image_id=image_id, intent=intent))


def _context(nobody: Context) -> Context:
    """Who asked for the change; nobody where the service knows no request."""
    request = intents.request_context()
    given = {name: getattr(request, name, None) for name in _REQUEST_FIELDS}
    return replace(
        nobody,
        **{name: representable(it) for name, it in given.items() if isinstance(it, str)},
    )


def _log_where_the_service_does() -> None:
    """Through the standard library's logging, unless somebody has chosen otherwise."""
    if not structlog.is_configured():
        structlog.configure(
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            processors=[
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
        )

"""What every hook takes from the service that it lives in: its request's context, and its logging.

Nothing of a service is imported here: it is used where the service has loaded it.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace

import structlog

from metaledger.schemas.meta import Context
from metaledger.schemas.representable import representable

_REQUEST_FIELDS = ("request_id", "global_request_id", "user_id", "project_id")


def with_request(nobody: Context, request: object) -> Context:
    """The context with what the request, an object or a mapping, says of itself."""
    known = request if isinstance(request, Mapping) else _fields(request)
    given = {name: known.get(name) for name in _REQUEST_FIELDS}
    return replace(
        nobody,
        **{name: representable(it) for name, it in given.items() if isinstance(it, str)},
    )


def current_request() -> object | None:
    """What oslo knows of the request that this thread serves; None where it knows none."""
    oslo = sys.modules.get("oslo_context.context")
    request: object = None if oslo is None else oslo.get_current()
    return request


def _fields(request: object) -> Mapping[str, object]:
    return {name: getattr(request, name, None) for name in _REQUEST_FIELDS}


def log_where_the_service_does() -> None:
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

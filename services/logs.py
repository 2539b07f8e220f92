"""Structured logs on standard error: readable on a terminal, JSON lines elsewhere.

Standard output belongs to the answer. What comes from data is made harmless for a terminal here
too; in JSON it is exact.
"""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from metaledger.services.output import json_text
from metaledger.services.terminal import harmless


def configure_logs(*, verbose: bool) -> None:
    """Sets the process's logs up; others' libraries speak up from warnings on."""
    level = logging.DEBUG if verbose else logging.INFO
    on_terminal = sys.stderr.isatty()
    shown = [_harmless, structlog.dev.ConsoleRenderer()] if on_terminal else [_json]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # kafka-python logs every attempt to connect; what matters comes to us as an error anyway.
    logging.getLogger("kafka").setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")


def _harmless(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        key: harmless(value) if isinstance(value, str) else value for key, value in event.items()
    }


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return json_text(dict(event))

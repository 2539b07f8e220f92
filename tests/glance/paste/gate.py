"""A paste filter that holds a request between Glance's read of an image and its save.

A request with the header `X-Gate: <path of a FIFO>` blocks, once it has read the image, until
somebody has opened the FIFO for writing and closed it again. So a test makes two requests race in
exactly one order: whoever could open the FIFO knows that the request has read. Runs inside the
Glance under test.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

_GATE: ContextVar[str | None] = ContextVar("gate", default=None)


def filter_factory(
    _global_conf: dict[str, str], **_local_conf: str
) -> Callable[[Application], Application]:
    """The paste entry point."""
    _hold_reads()

    def wrap(application: Application) -> Application:
        def gated(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            token = _GATE.set(environ.get("HTTP_X_GATE"))
            try:
                return application(environ, start_response)
            finally:
                _GATE.reset(token)

        return gated

    return wrap


def _hold_reads() -> None:
    import glance.db  # type: ignore[import-not-found]  # noqa: PLC0415

    original = glance.db.ImageRepo.get

    def get(self: Any, image_id: str) -> Any:
        image = original(self, image_id)
        if (path := _GATE.get()) is not None:
            _GATE.set(None)
            with Path(path).open() as fifo:
                fifo.read()
        return image

    glance.db.ImageRepo.get = get

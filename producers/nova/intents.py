"""What Nova was told to do, where its rows cannot say it: learnt by wrapping one of its functions.

Wrapped, where the service has loaded it (this module imports nothing of Nova):
`nova.compute.api.API.rebuild`. A rebuild from the image that the instance runs already changes no
`image_ref`, and in the rows it looks as an evacuation does.

A wrap calls the original with what it was called with, and what it notes itself cannot fail: where
something is not as expected nothing is noted, and the rows alone tell what happened.
"""

import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_MARK = "__metaledger__"


@dataclass(slots=True)
class Rebuild:
    """The API was told to rebuild the instance from the image, and is at it.

    `is_open`: the rebuild was told, and the save of its metadata was not.
    """

    instance_uuid: str
    image_ref: str
    is_open: bool = False


_REBUILD: ContextVar[Rebuild | None] = ContextVar("metaledger_rebuild", default=None)


def rebuild_of(instance_uuid: str) -> Rebuild | None:
    """The instance's rebuild, if that is the request that is being served."""
    rebuild = _REBUILD.get()
    return rebuild if rebuild is not None and rebuild.instance_uuid == instance_uuid else None


def is_rebuilding() -> bool:
    """Whether the request that is being served is a rebuild."""
    return _REBUILD.get() is not None


def request_context() -> object | None:
    """The context of the request that is being served, as oslo knows it."""
    oslo = sys.modules.get("oslo_context.context")
    return None if oslo is None else oslo.get_current()


def install() -> None:
    """Wraps what is loaded and not wrapped yet; cheap to call again and again."""
    api: Any = getattr(sys.modules.get("nova.compute.api"), "API", None)
    original = getattr(api, "rebuild", None)
    if callable(original) and not hasattr(original, _MARK):
        wrapped = _noting(original)
        setattr(wrapped, _MARK, True)
        api.rebuild = wrapped


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def rebuild(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        token = _REBUILD.set(_told(args, kwargs))
        try:
            return original(*args, **kwargs)
        finally:
            _REBUILD.reset(token)

    return rebuild


def _told(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rebuild | None:
    names = ("self", "context", "instance", "image_href")
    given = dict(zip(names, args, strict=False)) | kwargs
    uuid, image = getattr(given.get("instance"), "uuid", None), given.get("image_href")
    if isinstance(uuid, str) and isinstance(image, str) and uuid and image:
        return Rebuild(uuid, image)
    return None

"""What nova-compute was asked to do, where its notifications do not say it.

An unversioned notification of a snapshot names no snapshot, one of a rescue no image, none of
shelving the image that it makes, and none of all the metadata of a rescue image; and where a disk
is met, nobody says that it was resized. So the methods of `nova.compute.manager.ComputeManager`
that do these are wrapped, and while one runs, `current` says what it was given. A wrap calls the
original with what it was called with, and what it notes cannot fail it.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

MODULE = "nova.compute.manager"
# Each is given an `instance`, and those that make an image an `image_id`.
_RESIZE = "finish_resize"
_METHODS = (
    *("_snapshot_instance", "shelve_instance", "rescue_instance", "unrescue_instance"),
    _RESIZE,
)
_RESCUE_IMAGE = "_get_rescue_image"
_OF_IMAGE = ("disk_format", "container_format", "min_disk", "min_ram")
_MARK = "__metaledger_operations__"

Function = Callable[..., Any]


@dataclass(slots=True, kw_only=True)
class Operation:
    """A method that runs now. `told`: what was told of it, for two formats notify of one fact.
    `resizes`: it finishes a resize or a cold migration, where the instance came to.
    """

    instance_uuid: str
    resizes: bool = False
    snapshot_image_id: str | None = None
    rescue_image_ref: str | None = None
    rescue_metadata: Mapping[str, str | None] = field(default_factory=dict)
    told: set[type] = field(default_factory=set)


_CURRENT: ContextVar[Operation | None] = ContextVar("metaledger_operation", default=None)


def current(instance_uuid: str) -> Operation | None:
    """What is done with the instance in this context."""
    operation = _CURRENT.get()
    return operation if operation and operation.instance_uuid == instance_uuid else None


def install(module: ModuleType) -> None:
    """Wraps what was loaded."""
    manager = module.ComputeManager
    if hasattr(manager, _MARK):
        return
    setattr(manager, _MARK, True)
    for name in _METHODS:
        _replace(manager, name, functools.partial(_operating, name))
    _replace(manager, _RESCUE_IMAGE, _rescuing)


def _replace(owner: object, name: str, wrap: Callable[[Function], Function]) -> None:
    original = getattr(owner, name, None)
    if callable(original):
        setattr(owner, name, functools.wraps(original)(wrap(original)))


def _operating(name: str, original: Function) -> Function:
    signature = inspect.signature(original)

    def called(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        operation = None
        with suppress(AttributeError, LookupError, TypeError):
            given = signature.bind(*args, **kwargs).arguments
            operation = Operation(
                instance_uuid=given["instance"].uuid,
                resizes=name == _RESIZE,
                snapshot_image_id=given.get("image_id"),
            )
        token = _CURRENT.set(operation)
        try:
            return original(*args, **kwargs)
        finally:
            _CURRENT.reset(token)

    return called


def _rescuing(original: Function) -> Function:
    def get_rescue_image(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        image = original(*args, **kwargs)
        if (operation := _CURRENT.get()) is not None:
            with suppress(AttributeError, LookupError, TypeError):
                operation.rescue_image_ref = image.id
                operation.rescue_metadata = _metadata(image)
        return image

    return get_rescue_image


def _metadata(image: Any) -> dict[str, str | None]:  # noqa: ANN401
    """An ImageMeta as system metadata would hold it, in the names that Nova has for it today."""
    found = {name: getattr(image, name) for name in _OF_IMAGE if image.obj_attr_is_set(name)}
    properties = image.properties
    found |= {
        name: getattr(properties, name)
        for name in properties.fields
        if properties.obj_attr_is_set(name)
    }
    return {
        f"image_{name}": str(value)
        for name, value in found.items()
        if isinstance(value, str | int | float)
    }

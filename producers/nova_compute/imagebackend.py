"""The hook around libvirt's image backends: a disk's intent is durable before the disk is made.

Wrapped, never copied (Nova 34, `nova/virt/libvirt/imagebackend.py`):

- `Backend.by_name`, where an image gets its instance and its name;
- `Image.cache`, through which the driver makes each disk, or meets one that is there;
- `create_image` of each backend, for who calls it without `cache`.

Where these are not there, nothing that the module makes could be recorded: then it makes nothing.

A disk that is there and was never told of is backfilled with what the driver would make today, not
with what a guest may have written into it. Nova itself looks into a flat disk of which its file
`disk.info` says nothing, and notes there what it saw, so its idea of such a disk's format proves
nothing: it is raw where all images are made so (`force_raw_images`), else it may be as its image
was, and is `unknown`. A disk that comes with a resize from another host has changed, for that host
has told of it. A size that Nova leaves to the image is 0. Kernel and ramdisk, which go the same
way, are no disks.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

import structlog

from metaledger.producers.disks import Disks, NewDisk
from metaledger.producers.guard import beside, described
from metaledger.producers.nova_compute import operations
from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind
from metaledger.schemas.errors import Unrecorded

MODULE = "nova.virt.libvirt.imagebackend"
BACKENDS = ("Flat", "Qcow2", "Lvm", "Rbd", "Ploop")
VERSION = "1.0"
_NO_DISKS = ("kernel", "ramdisk", "kernel.rescue", "ramdisk.rescue")
_MAKERS = ("cache", "create_image")
_MARK = "__metaledger__"
_SIZE_AT = 2
# On an image: which disk it is, and whether its making is being recorded.
_NAME, _BUSY = "metaledger_name", "metaledger_busy"

_log = structlog.get_logger("metaledger.producers")

Function = Callable[..., Any]
Source = Callable[[], Disks | None]


def install(disks: Source, module: ModuleType) -> None:
    """Wraps what was loaded; `disks` gives None where disks are not to be recorded."""
    if hasattr(module, _MARK):
        return
    setattr(module, _MARK, True)
    with beside(functools.partial(_refuse, disks, module)):
        _wrap(module.Backend, "by_name", _naming)
        _wrap(module.Image, "cache", functools.partial(_making, disks))
        for name in BACKENDS:
            backend = getattr(module, name, None)
            if backend is not None and "create_image" in vars(backend):
                _wrap(backend, "create_image", functools.partial(_making, disks))


def _refuse(disks: Source, module: ModuleType, error: Exception) -> None:
    """Whatever makes disks in this module makes none as long as they are to be recorded."""
    _log.error("disks cannot be recorded in this Nova", error=described(error))
    for owner in [*vars(module).values()]:
        for name in _MAKERS:
            if isinstance(owner, type) and name in vars(owner):
                _wrap(owner, name, functools.partial(_refusing, disks, described(error)))


def _wrap(owner: object, name: str, wrap: Callable[[Function], Function]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(wrap(original)))


def _refusing(disks: Source, why: str, original: Function) -> Function:
    def refused(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if disks() is not None:
            raise Unrecorded(
                f"not made, for this Nova's {MODULE} is other than is assumed: {why}; upgrade "
                "Metaledger, or set disks = false in [metaledger], and no disk is recorded"
            )
        return original(*args, **kwargs)

    return refused


def _naming(original: Function) -> Function:
    def by_name(self: Any, instance: Any, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        image = original(self, instance, name, *args, **kwargs)
        # The driver names a disk by its path where it comes from another host.
        setattr(image, _NAME, (instance.uuid, PurePosixPath(name).name))
        return image

    return by_name


def _making(disks: Source, original: Function) -> Function:
    """Of `cache(fetch_func, filename, size=None, …)` and `create_image(prepare_template, base,
    size, …)`, which `cache` calls.
    """

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        recorder = None if getattr(self, _BUSY, False) else disks()
        name = getattr(self, _NAME, None)
        if recorder is None or name is None or name[1] in _NO_DISKS:
            return original(self, *args, **kwargs)
        function = args[0] if args else kwargs.get("fetch_func", kwargs.get("prepare_template"))
        size = args[2] if len(args) > _SIZE_AT else kwargs.get("size")
        disk = NewDisk(
            instance_uuid=name[0],
            disk=name[1],
            layout=_layout(self, size, _source(function, kwargs.get("image_id"))),
        )
        with _recorded(recorder, self, disk):
            return original(self, *args, **kwargs)

    return called


@contextmanager
def _recorded(disks: Disks, image: Any, disk: NewDisk) -> Iterator[None]:  # noqa: ANN401
    setattr(image, _BUSY, True)
    try:
        if image.exists():
            yield
            # Now, for the driver may have made it larger.
            operation = operations.current(disk.instance_uuid)
            is_resize = operation is not None and operation.resizes
            met = replace(disk, layout=replace(disk.layout, format=_format_unseen(image)))
            (disks.resized if is_resize else disks.met)(met)
            return
        with disks.creating(disk) as creation:
            yield
            # A flat disk's format is that of what was fetched, which Nova has found out by now.
            creation.made(disk, replace(disk.layout, format=_format(image)))
    finally:
        setattr(image, _BUSY, False)


def _layout(image: Any, size: int | None, source: DiskSource) -> DiskLayout:  # noqa: ANN401
    return DiskLayout(
        version=VERSION,
        backend=type(image).__name__.lower(),
        format=_format(image),
        size_bytes=int(size or 0),
        source=source,
        # Of an rbd image the path also says who may open it, and with which configuration.
        location=re.split(":(?:id|conf)=", image.path)[0],
    )


def _format(image: Any) -> str:  # noqa: ANN401
    # What it calls `rbd` for its own use is raw, as libvirt is told.
    return "raw" if image.driver_format == "rbd" else str(image.driver_format)


def _format_unseen(image: Any) -> str:  # noqa: ANN401
    """Of a disk that is there, without what Nova may have seen in it."""
    told = _format(image)
    if type(image).__name__ != "Flat" or told == "raw":
        return told
    conf = getattr(sys.modules.get(MODULE), "CONF", None)
    return "raw" if getattr(conf, "force_raw_images", False) else "unknown"


def _source(function: object, image_id: str | None) -> DiskSource:
    if image_id:
        return DiskSource(kind=SourceKind.IMAGE, image_id=image_id)
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return DiskSource(kind=SourceKind.FUNCTION, function=name)

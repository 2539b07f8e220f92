"""What Glance was told to do: learnt by wrapping a few of its functions, never by changing them.

Wrapped, where the service has loaded them (this module imports nothing of Glance):

- `glance.db.sqlalchemy.api._set_properties_for_image`: the purge flag, the new set, the exempt
  keys and the rows as Glance itself had read them, inside the transaction.
- `glance.db.ImageRepo._format_image_from_db` and `.save`: what the caller had read. The image
  object remembers the keys that it was made from, and the set that is saved derives from that
  object. The last `image_get` of the request would be wrong: an import asserts its lock by another
  read just before it saves (`ImportActionWrapper.__exit__`), which hides exactly the race that
  matters. Where Glance hides protected properties from the caller, the caller has not read them.
- the functions that take the request's context (also on the threads of the import pool, where oslo
  knows none): who did it.

A wrap calls the original with what it was called with, and what it notes itself cannot fail: where
something is not as expected there is no intent, and the rows alone tell what happened.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection

from metaledger.producers.glance.filter import PATCH
from metaledger.producers.glance.rows import Intent, Known

# Module-level functions of Glance that write and take the request's context first.
_CONTEXT_FIRST = (
    *("image_create", "image_update", "image_restore", "image_destroy", "image_tag_set_all"),
    *("image_tag_create", "image_tag_delete", "image_location_add", "image_location_update"),
    *("image_location_delete", "image_property_create", "image_property_delete"),
)
_REPO_METHODS = ("add", "remove", "set_property_atomic", "delete_property_atomic")
_PARAMETERS = ("context", "session", "image_ref", "properties", "purge_props", "atomic_props")
_SEEN = "metaledger_seen"
_MARK = "__metaledger__"

Function = Callable[..., Any]
Note = Callable[[Connection, str, Intent], None]
Given = ParamSpec("Given")
Result = TypeVar("Result")


def _where_as_expected(read: Callable[Given, Result]) -> Callable[Given, Result | None]:
    """None where the service's objects do not have the shape that is read."""

    @functools.wraps(read)
    def tolerant(*args: Given.args, **kwargs: Given.kwargs) -> Result | None:
        try:
            return read(*args, **kwargs)
        except (AttributeError, LookupError, TypeError):
            return None

    return tolerant


@dataclass(frozen=True, slots=True)
class Saving:
    """An image object is being saved; `seen` are the keys that it was made from."""

    image_id: str
    seen: frozenset[str]


REQUEST: ContextVar[object | None] = ContextVar("metaledger_request", default=None)
_SAVING: ContextVar[Saving | None] = ContextVar("metaledger_saving", default=None)


def request_context() -> object | None:
    """The context of the request that is being served: the caller's, else oslo's current one."""
    given = REQUEST.get()
    oslo = sys.modules.get("oslo_context.context")
    return given if given is not None or oslo is None else oslo.get_current()


def install(note: Note) -> None:
    """Wraps what is loaded and not wrapped yet; cheap to call again and again."""
    api = sys.modules.get("glance.db.sqlalchemy.api")
    if api is not None and not hasattr(api, _MARK):
        setattr(api, _MARK, True)
        _replace(api, "_set_properties_for_image", functools.partial(_noting, note))
        for name in _CONTEXT_FIRST:
            _replace(api, name, _with_given_context)
    repo = getattr(sys.modules.get("glance.db"), "ImageRepo", None)
    if repo is not None and not hasattr(repo, _MARK):
        setattr(repo, _MARK, True)
        _replace(repo, "_format_image_from_db", _remembering)
        _replace(repo, "save", _saving)
        for name in _REPO_METHODS:
            _replace(repo, name, _with_own_context)


def _replace(owner: object, name: str, wrap: Callable[[Function], Function]) -> None:
    original = getattr(owner, name, None)
    if callable(original):
        setattr(owner, name, functools.wraps(original)(wrap(original)))


def _noting(note: Note, original: Function) -> Function:
    def set_properties(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        # Glance's own decorator hides the signature, so the names are given here.
        given = dict(zip(_PARAMETERS, args, strict=False)) | kwargs
        intent, session = _intent(given), given.get("session")
        if intent is not None and session is not None:
            note(session.connection(), given["image_ref"].id, intent)
        return original(*args, **kwargs)

    return set_properties


@_where_as_expected
def _intent(given: Mapping[str, Any]) -> Intent:
    image = given["image_ref"]
    saving, patch = _SAVING.get(), PATCH.get()
    purge = bool(given.get("purge_props"))
    mine = saving is not None and saving.image_id == image.id
    patched = patch is not None and patch.image_id == image.id
    return Intent(
        purge=purge,
        sent=dict(given["properties"]),
        exempt=frozenset(given.get("atomic_props") or ()),
        known={row.name: Known(row.value, live=not row.deleted) for row in image.properties},
        seen=saving.seen if saving is not None and mine and purge else None,
        removed=patch.removed if patch is not None and patched and purge else None,
    )


def _with_given_context(original: Function) -> Function:
    def called(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _serving(args[0] if args else kwargs.get("context")):
            return original(*args, **kwargs)

    return called


def _with_own_context(original: Function) -> Function:
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _serving(getattr(self, "context", None)):
            return original(self, *args, **kwargs)

    return called


def _remembering(original: Function) -> Function:
    def format_image(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        image = original(*args, **kwargs)
        _remember(image)
        return image

    return format_image


def _saving(original: Function) -> Function:
    def save(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        inner = _innermost(image)
        seen = _seen_by_caller(inner)
        token = _SAVING.set(None if seen is None else Saving(inner.image_id, seen))
        try:
            with _serving(getattr(self, "context", None)):
                result = original(self, image, *args, **kwargs)
        finally:
            _SAVING.reset(token)
        # What it saves next derives from what it has saved now.
        _remember(inner)
        return result

    return save


@_where_as_expected
def _remember(image: Any) -> None:  # noqa: ANN401
    # `keys()`, for to iterate over Glance's ExtraProperties gives nothing.
    setattr(image, _SEEN, frozenset(image.extra_properties.keys()))


def _innermost(image: Any) -> Any:  # noqa: ANN401
    """The image object that the repository made, below the proxies of Glance's layers."""
    while (base := getattr(image, "base", None)) is not None:
        image = base
    return image


@_where_as_expected
def _seen_by_caller(image: Any) -> frozenset[str] | None:  # noqa: ANN401
    seen: frozenset[str] | None = getattr(image, _SEEN, None)
    # Present where Glance protects properties: the proxy holds only what the caller may read.
    rules = getattr(image.extra_properties, "property_rules", None)
    if seen is None or rules is None:
        return seen
    context = image.extra_properties.context
    return frozenset(key for key in seen if rules.check_property_rules(key, "read", context))


@contextmanager
def _serving(context: object | None) -> Iterator[None]:
    token = REQUEST.set(context if context is not None else REQUEST.get())
    try:
        yield
    finally:
        REQUEST.reset(token)

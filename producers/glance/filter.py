"""An optional WSGI filter that notes which keys a JSON patch asks to remove.

    [filter:metaledger]
    paste.filter_factory = metaledger.producers.glance.filter:filter_factory

stands in the paste pipeline anywhere before the application. Without it the ledger still tells a
decision from a loss, by what the caller had read; with it the caller's own words are recorded.

Rules: it looks at `PATCH /v2/images/{id}` with one of the JSON-patch media types and a body of at
most BODY_BYTES_MAX, hands the body on as it came, changes no answer, and lets whatever it does not
understand pass: Glance answers it. Both of Glance's forms of a step are read: `{"op": "remove",
"path": "/k"}` and, of version 2.0, `{"remove": "/k"}`.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

# Glance stores keys and values of at most 64 KiB; a patch of a hundred of them fits.
BODY_BYTES_MAX = 8 * 2**20
_PATH = re.compile(r"/v2(?:\.\d+)?/images/([^/]+)/?$")
_TYPES = re.compile(r"application/openstack-images-v2\.[01]-json-patch")
_OPERATIONS = ("add", "remove", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What the request that is being served asks of one image."""

    image_id: str
    removed: frozenset[str]


PATCH: ContextVar[Patch | None] = ContextVar("metaledger_patch", default=None)


def filter_factory(
    _global_conf: dict[str, str], **_local_conf: str
) -> Callable[[Application], Application]:
    """The paste entry point."""

    def wrap(application: Application) -> Application:
        def noting(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            token = PATCH.set(_patch_of(environ))
            try:
                return application(environ, start_response)
            finally:
                PATCH.reset(token)

        return noting

    return wrap


def removed_keys(operations: object) -> frozenset[str] | None:
    """The properties that a patch removes and does not add again; None where it is no patch."""
    if not isinstance(operations, list):
        return None
    removed: set[str] = set()
    for operation, path in _steps(operations):
        if not path.startswith("/") or "/" in path[1:]:
            continue
        key = path[1:].replace("~1", "/").replace("~0", "~")
        if operation == "remove":
            removed.add(key)
        else:
            removed.discard(key)
    return frozenset(removed)


def _steps(operations: list[object]) -> Iterator[tuple[str, str]]:
    for step in operations:
        if not isinstance(step, dict):
            continue
        operation, path = step.get("op"), step.get("path")
        if operation is None:  # the form of version 2.0
            operation = next((name for name in _OPERATIONS if name in step), None)
            path = step.get(operation)
        if isinstance(path, str) and operation in _OPERATIONS:
            yield str(operation), path


def _patch_of(environ: Environ) -> Patch | None:
    found = _PATH.search(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
    if environ.get("REQUEST_METHOD") != "PATCH" or found is None:
        return None
    length = environ.get("CONTENT_LENGTH", "")
    if not _TYPES.match(environ.get("CONTENT_TYPE", "")) or not length.isdecimal():
        return None
    if int(length) > BODY_BYTES_MAX:
        return None
    body = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = io.BytesIO(body)
    try:
        removed = removed_keys(json.loads(body))
    except (ValueError, RecursionError):
        return None
    return None if removed is None else Patch(image_id=found[1], removed=removed)

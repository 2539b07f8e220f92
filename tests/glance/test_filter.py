"""The WSGI filter notes what a JSON patch removes, and leaves the request as it came."""

import io
import json
from typing import Any

import pytest

from metaledger.producers.glance.filter import (
    BODY_BYTES_MAX,
    PATCH,
    Patch,
    filter_factory,
    removed_keys,
)

V21 = "application/openstack-images-v2.1-json-patch"
V20 = "application/openstack-images-v2.0-json-patch"


def served(body: bytes, **environ: Any) -> tuple[Patch | None, bytes]:
    """What the application behind the filter finds: the noted patch, and the body it reads."""
    found: list[tuple[Patch | None, bytes]] = []

    def application(environ: dict[str, Any], _start_response: Any) -> list[bytes]:
        found.append((PATCH.get(), environ["wsgi.input"].read()))
        return []

    request = {
        "REQUEST_METHOD": "PATCH",
        "PATH_INFO": "/v2/images/i-1",
        "CONTENT_TYPE": V21,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    filter_factory({})(application)(request, lambda *_: None)
    assert PATCH.get() is None
    return found[0]


def test_removed_keys_are_noted_and_the_body_is_read_again() -> None:
    body = json.dumps([{"op": "remove", "path": "/a"}, {"op": "add", "path": "/b"}]).encode()
    patch, read = served(body)
    assert patch == Patch(image_id="i-1", removed=frozenset({"a"}))
    assert read == body


def test_the_form_of_version_2_0_is_read_too() -> None:
    patch, _ = served(b'[{"remove": "/a"}, {"replace": "/b", "value": "1"}]', CONTENT_TYPE=V20)
    assert patch == Patch(image_id="i-1", removed=frozenset({"a"}))


def test_a_key_that_is_added_again_is_not_removed() -> None:
    steps = [{"op": "remove", "path": "/a"}, {"op": "add", "path": "/a", "value": "2"}]
    assert removed_keys(steps) == frozenset()


def test_paths_are_unescaped_and_deeper_ones_are_no_properties() -> None:
    steps = [{"op": "remove", "path": "/a~1b~0c"}, {"op": "remove", "path": "/locations/0"}]
    assert removed_keys(steps) == frozenset({"a/b~c"})


@pytest.mark.parametrize(
    "environ",
    [
        {"REQUEST_METHOD": "PUT"},
        {"PATH_INFO": "/v2/images/i-1/file"},
        {"CONTENT_TYPE": "application/json"},
        {"CONTENT_LENGTH": ""},
        {"CONTENT_LENGTH": "-1"},
        {"CONTENT_LENGTH": str(BODY_BYTES_MAX + 1)},
    ],
)
def test_other_requests_pass_untouched(environ: dict[str, Any]) -> None:
    body = b'[{"op": "remove", "path": "/a"}]'
    assert served(body, **environ) == (None, body)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"{}", b"[" * 100_000, b"null", b'"remove"'])
def test_what_is_no_patch_is_left_to_glance(body: bytes) -> None:
    assert served(body) == (None, body)


@pytest.mark.parametrize("step", [1, None, {}, {"op": "remove"}, {"op": "remove", "path": 1}])
def test_steps_that_are_none_are_skipped(step: object) -> None:
    assert removed_keys([step, {"op": "remove", "path": "/a"}]) == frozenset({"a"})

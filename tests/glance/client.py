"""A small HTTP driver of Glance's v2 API: it sends, and tells what came back; it judges nothing.

One client is one user. Every call opens its own connection to the loopback, so that clients can be
used from several threads at once and calls race as those of real users do.
"""

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_S = 60
JSON_PATCH = "application/openstack-images-v2.1-json-patch"


@dataclass(frozen=True, slots=True)
class Response:
    """What Glance answered; `body` is parsed JSON where it is JSON, text or None elsewhere."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Client:
    """The API as one user sees it."""

    def __init__(
        self,
        url: str,
        *,
        user: str = "alice",
        project: str = "projA",
        roles: str = "member,admin",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._address = urlsplit(url).netloc
        self._headers = {"X-Auth-Token": f"{user}:{project}:{roles}", **(headers or {})}

    def create(self, **attributes: object) -> Response:
        """POST /v2/images with a raw, bare image; attributes overrule and add properties."""
        body = {"disk_format": "raw", "container_format": "bare", **attributes}
        return self._json("POST", "/v2/images", body)

    def upload(self, image_id: str, payload: bytes) -> Response:
        """PUT the image's data."""
        return self._octets(f"/v2/images/{image_id}/file", payload)

    def stage(self, image_id: str, payload: bytes) -> Response:
        """PUT data into the staging area; the first half of an interoperable import."""
        return self._octets(f"/v2/images/{image_id}/stage", payload)

    def import_staged(self, image_id: str) -> Response:
        """Begins the import of what was staged; it goes on after the answer (202)."""
        method = {"method": {"name": "glance-direct"}}
        return self._json("POST", f"/v2/images/{image_id}/import", method)

    def patch(self, image_id: str, operations: Sequence[Mapping[str, object]]) -> Response:
        """PATCH with JSON-patch operations."""
        return self._json("PATCH", f"/v2/images/{image_id}", operations, JSON_PATCH)

    def get(self, image_id: str) -> Response:
        """GET one image."""
        return self.request("GET", f"/v2/images/{image_id}")

    def list(self) -> Response:
        """GET the images that the user sees."""
        return self.request("GET", "/v2/images")

    def delete(self, image_id: str) -> Response:
        """DELETE the image."""
        return self.request("DELETE", f"/v2/images/{image_id}")

    def add_tag(self, image_id: str, tag: str) -> Response:
        """PUT a tag."""
        return self.request("PUT", f"/v2/images/{image_id}/tags/{quote(tag, safe='')}")

    def remove_tag(self, image_id: str, tag: str) -> Response:
        """DELETE a tag."""
        return self.request("DELETE", f"/v2/images/{image_id}/tags/{quote(tag, safe='')}")

    def deactivate(self, image_id: str) -> Response:
        """Takes the image's data out of use."""
        return self.request("POST", f"/v2/images/{image_id}/actions/deactivate")

    def reactivate(self, image_id: str) -> Response:
        """Puts the image's data back into use."""
        return self.request("POST", f"/v2/images/{image_id}/actions/reactivate")

    def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str | None = None
    ) -> Response:
        """Any call at all."""
        headers = {**self._headers, "Connection": "close"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, told, _parsed(content, told.get("content-type", "")))
        finally:
            connection.close()

    def _json(
        self, method: str, path: str, body: object, content_type: str = "application/json"
    ) -> Response:
        return self.request(method, path, json.dumps(body).encode(), content_type)

    def _octets(self, path: str, payload: bytes) -> Response:
        return self.request("PUT", path, payload, "application/octet-stream")


def _parsed(content: bytes, content_type: str) -> Any:
    if content and content_type.startswith("application/json"):
        return json.loads(content)
    return content.decode("utf-8", "replace") or None

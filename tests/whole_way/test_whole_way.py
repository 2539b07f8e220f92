"""From a stock Glance with one line of configuration to the answer that a person gets.

Glance → outbox → relay → a real Kafka → projector → a real PostgreSQL → the command line: after
each step over HTTP the read model comes to say what HTTP answered, and at the end it still says
what Glance has forgotten.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..glance.client import Client
from ..glance.service import Glance
from .conftest import Installation

pytestmark = [pytest.mark.glance, pytest.mark.kafka, pytest.mark.postgres]

ARRIVES_S = 60  # a step took below 2 s on two cores
POLL_S = 0.2
SHOWN = ("name", "status", "owner", "visibility", "disk_format", "container_format")
PROPERTIES = {"image_type": "snapshot", "key1": "v1", "key2": "v2"}


def becomes(read: Callable[[], Any], expected: Any) -> None:
    """Waits until what is read is what is expected; shows both where it never is."""
    deadline = time.monotonic() + ARRIVES_S
    while (found := read()) != expected and time.monotonic() < deadline:
        time.sleep(POLL_S)
    assert found == expected


class Image:
    """One image as Glance answers it, and as the command line does."""

    def __init__(self, installation: Installation, client: Client, image_id: str) -> None:
        self._installation, self._client, self.image_id = installation, client, image_id

    def in_glance(self) -> dict[str, Any]:
        body = self._client.get(self.image_id).body
        keys = {*PROPERTIES, "key3", "first", "second"} & body.keys()
        return {**{name: body[name] for name in SHOWN}, **{key: body[key] for key in keys}}

    def in_the_ledger(self) -> dict[str, Any] | None:
        document = self._installation.answer("image", "show", self.image_id)
        if document is None:
            return None
        properties = {row["key"]: row["value"] for row in document["properties"]}
        assert not any(key.startswith("os_glance") for key in properties)
        return {**{name: document["attributes"][name] for name in SHOWN}, **properties}

    def agrees(self) -> None:
        becomes(self.in_the_ledger, self.in_glance())

    def ended(self) -> dict[str, str]:
        """Each property's last reason to end, by the command line."""
        document = self._installation.answer("image", "explain", self.image_id)
        return {one["key"]: one["ended"]["how"] for one in document["keys"] if one["ended"]}


def anomalies(installation: Installation, image_id: str) -> list[dict[str, Any]]:
    found = installation.answer("anomalies")
    return [anomaly for anomaly in found if anomaly["aggregate_id"] == image_id]


def race(glance: Glance, image_id: str, fifo: Path) -> None:
    """Two PATCHes, both answered 200: the first reads, the second is served, the first saves."""

    def add(key: str) -> list[dict[str, str]]:
        return [{"op": "add", "path": f"/{key}", "value": f"{key} value"}]

    os.mkfifo(fifo)
    held = glance.client(headers={"X-Gate": str(fifo)})
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(held.patch, image_id, add("first"))
        with fifo.open("w"):
            assert glance.client().patch(image_id, add("second")).status == 200
        assert first.result().status == 200


def test_what_http_answered_is_what_the_command_line_says(
    installation: Installation, glance: Glance
) -> None:
    relay = installation.start("relay", ["relay"])
    projector = installation.start("projector", ["project", "--follow"])
    client = glance.client()
    image_id = client.create(name="snap", visibility="private", **PROPERTIES).body["id"]
    image = Image(installation, client, image_id)
    image.agrees()

    assert client.upload(image_id, b"data").status == 204
    image.agrees()
    operations = [
        {"op": "replace", "path": "/key1", "value": "v1b"},
        {"op": "add", "path": "/key3", "value": "v3 \u202e\x1b[31m"},
        {"op": "remove", "path": "/key2"},
    ]
    assert client.patch(image_id, operations).status == 200
    image.agrees()
    assert image.ended() == {"key2": "removed"}
    assert anomalies(installation, image_id) == []

    race(glance, image_id, installation.folder / "gate")
    image.agrees()
    assert "second" not in image.in_glance()
    assert image.ended() == {"key2": "removed", "second": "purged"}
    (anomaly,) = anomalies(installation, image_id)
    assert (anomaly["kind"], anomaly["severity"]) == ("properties_lost_to_purge", "error")
    assert "second value" in str(anomaly["details"])

    assert client.delete(image_id).status == 204
    becomes(lambda: image.in_the_ledger()["status"], "deleted")
    assert image.ended()["image_type"] == "image_deleted"

    assert relay.stop() == 0, relay.log()
    assert projector.stop() == 0, projector.log()


def test_what_happened_while_everything_was_down_arrives_later(
    installation: Installation, glance: Glance
) -> None:
    client = glance.client()
    image_id = client.create(name="early", **PROPERTIES).body["id"]
    operations = [{"op": "remove", "path": "/key1"}]
    assert client.patch(image_id, operations).status == 200

    installation.start("relay", ["relay"]).kill()
    installation.start("relay", ["relay"])
    projector = installation.start("projector", ["project", "--follow"])
    image = Image(installation, client, image_id)
    image.agrees()
    projector.kill()
    assert client.patch(image_id, [{"op": "remove", "path": "/key2"}]).status == 200
    installation.start("projector", ["project", "--follow"])
    image.agrees()
    assert image.ended() == {"key1": "removed", "key2": "removed"}
    history = installation.answer("image", "history", image_id)["intervals"]
    versions = [(row["key"], row["version"]) for row in history if row["what"] == "property"]
    assert sorted(versions) == [(key, 1) for key in sorted(PROPERTIES)]

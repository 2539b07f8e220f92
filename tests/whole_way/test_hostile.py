"""Whatever a user writes into a property comes back exactly, and harms no terminal on the way.

Through a real Glance, Kafka and PostgreSQL, to `image show --json` and to what people are shown.
Glance itself refuses what takes four bytes as UTF-8: the planes behind the first are emitted.
"""

import json
from typing import Any

import pytest

from ..glance.client import Client
from ..glance.service import Glance
from .conftest import Installation
from .test_whole_way import anomalies, becomes

pytestmark = [pytest.mark.glance, pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow]

PLANE = 0x10000
PLANES = 17
HALF_A_MEGABYTE = 500_000
# Clears, colours, sets the title and the clipboard, turns round or hides what follows.
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m\x1b]52;c;cm0gLXJm\x07\u202egnp.exe\u2066\u200b\r\b\x7f\u2028"
)
SMALL = {
    "escapes": HOSTILE,
    "key\u202e\x1b[31m": "the key is hostile too",
    "markup": "[red]x[/red] :smile: [link=file:///etc]x[/link] <script>\"'`$(id)`",
    "spaces": " \t\n\r\u00a0\u3000 ",
    "combining": "e\u0301" + "\u0300" * 1000,
    "empty": "",
}


@pytest.fixture(scope="module")
def running(
    installation: Installation,
    glance: Glance,  # noqa: ARG001 (the outbox is there before its relay)
) -> Installation:
    """The installation with a relay and a projector."""
    installation.start("relay", ["relay"])
    installation.start("projector", ["project", "--follow"])
    return installation


def planes() -> dict[str, str]:
    """All of Unicode but NUL and the surrogates, a plane a property."""
    surrogates = range(0xD800, 0xE000)
    return {
        f"plane_{start // PLANE:02}": "".join(
            chr(one) for one in range(start or 1, start + PLANE) if one not in surrogates
        )
        for start in range(0, PLANES * PLANE, PLANE)
    }


def in_the_ledger(installation: Installation, image_id: str) -> dict[str, Any] | None:
    document = installation.answer("image", "show", image_id)
    return document and {row["key"]: row["value"] for row in document["properties"]}


def add(client: Client, image_id: str, properties: dict[str, str]) -> None:
    for key, value in properties.items():
        path = "/" + key.replace("~", "~0").replace("/", "~1")
        assert client.patch(image_id, [{"op": "add", "path": path, "value": value}]).status == 200


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_everything_in_a_property_comes_back_exactly(running: Installation, glance: Glance) -> None:
    client = glance.client()
    image_id = client.create(name=HOSTILE, tags=[HOSTILE], **SMALL).body["id"]
    larger = {"plane": planes()["plane_00"], "large": "\u202eäß" * (HALF_A_MEGABYTE // 7 + 1)}
    add(client, image_id, larger)
    sent = {**SMALL, **larger}
    answered = client.get(image_id).body
    assert all(answered[key] == sent[key] for key in sent)
    becomes(lambda: in_the_ledger(running, image_id) == sent, expected=True)
    assert running.answer("image", "show", image_id)["attributes"]["name"] == HOSTILE
    assert anomalies(running, image_id) == []

    for command in (("image", "show"), ("image", "explain"), ("image", "history")):
        shown = running.run(*command, image_id)
        assert shown.returncode == 0
        assert "large" in shown.stdout
        assert is_harmless(shown.stdout)
        exact = running.run("--json", *command, image_id)
        assert exact.stdout.isascii()
        assert is_harmless(exact.stdout)


def test_all_of_unicode_that_is_emitted_comes_back_exactly(running: Installation) -> None:
    head = {"service": "test", "host": "test", "occurred_at": "2026-11-21T00:00:00Z"}
    large = {"large": HOSTILE * (HALF_A_MEGABYTE // len(HOSTILE) + 1)}
    image = {"image_id": "emitted", "status": "active", "properties": large}
    events = [{"type": "ImageRegistered", "meta": head, "data": image}]
    for key, value in planes().items():
        change = {"mode": "MERGE", "set": {key: value}}
        data = {"image_id": "emitted", "attributes": {}, "change": change}
        events.append({"type": "ImageUpdated", "meta": head, "data": data})
    file = running.folder / "events.jsonl"
    file.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    done = running.run("emit", str(file))
    assert done.returncode == 0, done.stderr
    sent = {**large, **planes()}
    becomes(lambda: in_the_ledger(running, "emitted") == sent, expected=True)
    shown = running.run("image", "history", "emitted")
    assert is_harmless(shown.stdout)


def test_what_is_refused_is_recorded_nowhere(running: Installation, glance: Glance) -> None:
    client = glance.client()
    image_id = client.create(name="refusing", kept="v").body["id"]
    for value in ("a\0b", "\ud800", "\U0001f600"):
        refused = [{"op": "add", "path": "/refused", "value": value}]
        assert client.patch(image_id, refused).status >= 400
    add(client, image_id, {"last": "v"})
    becomes(lambda: in_the_ledger(running, image_id), {"kept": "v", "last": "v"})
    assert anomalies(running, image_id) == []


def test_what_exceeds_the_cap_is_its_digest_and_named(
    running: Installation, glance: Glance
) -> None:
    client = glance.client()
    image_id = client.create(name="capped", kept="v").body["id"]
    add(client, image_id, {"huge": "x" * 1_000_000})
    add(client, image_id, {"last": "v"})
    becomes(lambda: set(in_the_ledger(running, image_id) or ()), {"kept", "huge", "last"})
    held = in_the_ledger(running, image_id) or {}
    assert held["huge"].startswith("sha256:")
    (anomaly,) = anomalies(running, image_id)
    assert anomaly["kind"] == "value_altered"
    assert "huge" in str(anomaly["details"])

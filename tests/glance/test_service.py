"""The harness itself: a stock Glance 33 goes through its life-cycle without the ledger."""

import time

import pytest

from .client import Client
from .service import Glance

pytestmark = [pytest.mark.glance, pytest.mark.slow]
IMPORT_TIMEOUT_S = 60


def test_a_stock_glance_goes_through_its_life_cycle(stock_glance: Glance) -> None:
    client = stock_glance.client()
    image_id = client.create(name="cirros", key="old", going="soon").body["id"]
    assert client.upload(image_id, b"data").status == 204
    patched = client.patch(
        image_id,
        [
            {"op": "replace", "path": "/key", "value": "new"},
            {"op": "remove", "path": "/going"},
            {"op": "add", "path": "/added", "value": "yes"},
        ],
    )
    assert patched.status == 200
    assert client.add_tag(image_id, "t 1").status == 204
    assert client.deactivate(image_id).status == 204
    assert client.get(image_id).body["status"] == "deactivated"
    assert client.reactivate(image_id).status == 204
    image = client.get(image_id).body
    assert (image["key"], image["added"], image["tags"]) == ("new", "yes", ["t 1"])
    assert "going" not in image
    assert client.remove_tag(image_id, "t 1").status == 204
    assert image_id in {found["id"] for found in client.list().body["images"]}
    assert client.delete(image_id).status == 204
    assert client.get(image_id).status == 404


def test_staged_data_is_imported(stock_glance: Glance) -> None:
    client = stock_glance.client()
    image_id = client.create(name="imported").body["id"]
    assert client.stage(image_id, b"data").status == 204
    assert client.import_staged(image_id).status == 202
    assert wait_until_active(client, image_id) == "active"


def test_images_outlive_a_killed_service(stock_glance: Glance) -> None:
    image_id = stock_glance.client().create(name="kept").body["id"]
    stock_glance.kill()
    stock_glance.start()
    assert stock_glance.client().get(image_id).body["name"] == "kept"


def wait_until_active(client: Client, image_id: str) -> str:
    """The image's status once its import is through, or at the deadline."""
    deadline = time.monotonic() + IMPORT_TIMEOUT_S
    status = ""
    while status != "active" and time.monotonic() < deadline:
        status = client.get(image_id).body["status"]
        time.sleep(0.05)
    return status

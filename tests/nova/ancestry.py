"""Snapshots of snapshots, in a real Nova whose images are a real Glance's.

An instance is booted from an image, another one from a snapshot of it, and of that one two are
taken.

    python ancestry.py FOLDER GLANCE_URL IMAGE_ID

Everything is kept as `functional` keeps it of Nova's own tests, and what those have for an image
service is left out: Nova's own client registers and uploads, with what Nova makes the snapshots of.
There is no Keystone: a token says who its user is (`tests/glance/paste/fakeauth`). Nova's fake
hypervisor has no disk to read, so what libvirt's driver sends of it is sent here.
"""

import io
import sys
import unittest
from pathlib import Path
from typing import Any

# It has to come before the rest of Nova, which it may patch.
import nova.tests.functional  # noqa: F401 # isort: skip
import fixtures
from functional import Result, keep_databases, notify
from keystoneauth1.token_endpoint import Token
from nova.compute.task_states import IMAGE_PENDING_UPLOAD, IMAGE_UPLOADING
from nova.image import glance
from nova.tests.functional import integrated_helpers

FOLDER, GLANCE_URL, IMAGE_ID = sys.argv[1:]


class Glance(fixtures.Fixture):
    """Has the place of what Nova's tests take for an image service, and leaves all as it is."""

    def __init__(self, test: Any) -> None:
        super().__init__()
        test.flags(api_servers=[GLANCE_URL], group="glance")


def auth(context: Any) -> Token:
    roles = ",".join(context.roles)
    return Token(GLANCE_URL, f"{context.user_id}:{context.project_id}:{roles}")


def snapshot(
    _driver: Any, context: Any, instance: Any, image_id: str, update_task_state: Any
) -> None:
    """What libvirt's driver does once it has a copy of the disk."""
    update_task_state(task_state=IMAGE_PENDING_UPLOAD)
    update_task_state(task_state=IMAGE_UPLOADING, expected_state=IMAGE_PENDING_UPLOAD)
    images = glance.API()
    metadata = {
        "status": "active",
        "name": images.get(context, image_id)["name"],
        "disk_format": "raw",
        "container_format": "bare",
        "properties": {
            "image_location": "snapshot",
            "image_state": "available",
            "owner_id": instance.project_id,
        },
    }
    images.update(context, image_id, metadata, io.BytesIO(b"data of the snapshot"))


class Ancestry(integrated_helpers._IntegratedTestBase):
    """Snapshots of snapshots."""

    # Nova sees a private image for whoever has a token, which its tests have not, or is an admin.
    ADMIN_API = True
    microversion = "latest"

    def setUp(self) -> None:
        for name, replacement in (
            ("nova.tests.fixtures.GlanceFixture", Glance),
            ("nova.context.RequestContext.get_auth_plugin", auth),
            ("nova.virt.fake.FakeDriver.snapshot", snapshot),
        ):
            self.useFixture(fixtures.MonkeyPatch(name, replacement))
        # The one whose node has its id from Nova's file, as libvirt's has.
        self.flags(compute_driver="fake.FakeDriverWithoutFakeNodes")
        super().setUp()

    def runTest(self) -> None:  # noqa: N802
        first = self._create_server(image_uuid=IMAGE_ID, networks="none")
        second = self._create_server(image_uuid=self._taken(first, "snap-1"), networks="none")
        self._taken(second, "snap-2")
        self._taken(second, "snap-3")

    def _taken(self, server: Any, name: str) -> str:
        action = {"createImage": {"name": name}}
        image_id: str = self.api.post_server_action(server["id"], action)["image_id"]
        self._wait_for_server_parameter(server, {"OS-EXT-STS:task_state": None})
        return image_id


keep_databases(Path(FOLDER))
notify(Path(FOLDER))
done = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(
    unittest.TestSuite([Ancestry()])
)
sys.exit(0 if done.wasSuccessful() else 1)

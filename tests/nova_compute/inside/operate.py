"""Runs in the environment of a real Nova: its own services of its functional tests, and operations
through its API, while the notifiers are real ones that load our driver.

    python operate.py FOLDER
"""

import json
import os
import sys
import unittest
from pathlib import Path
from types import SimpleNamespace

# It has to come before the rest of Nova, which it may patch.
import nova.tests.functional  # isort: skip
import fixtures
import nova.conf
import oslo_messaging
from nova import rpc
from nova.tests.functional import integrated_helpers

FOLDER = Path(sys.argv[1])
FORMAT = os.environ["OS_NOTIFICATIONS__NOTIFICATION_FORMAT"]
CONF = nova.conf.CONF
SEEN: dict[str, object] = {}


class Operations(integrated_helpers._IntegratedTestBase):
    """One life, with everything in it that only nova-compute tells of."""

    ADMIN_API = True
    microversion = "latest"

    def _setup_services(self) -> None:
        transport = oslo_messaging.get_notification_transport(CONF, url="fake://")
        serializer = rpc.RequestContextSerializer(rpc.JsonPayloadSerializer())
        for name, form in (("LEGACY_NOTIFIER", "unversioned"), ("NOTIFIER", "versioned")):
            driver = "metaledger" if FORMAT in (form, "both") else "noop"
            notifier = oslo_messaging.Notifier(transport, serializer=serializer, driver=driver)
            self.useFixture(fixtures.MonkeyPatch(f"nova.rpc.{name}", notifier))
        super()._setup_services()

    def _snapshots(self) -> set[str]:
        return {
            image["id"]
            for image in self.glance.detail(None)
            if image["properties"].get("image_type") in ("snapshot", "backup")
        }

    def _made(self, before: set[str]) -> str:
        [made] = self._snapshots() - before
        return made

    def test_operations(self) -> None:
        server = self._create_server(networks="none")
        SEEN["uuid"], SEEN["image"] = server["id"], server["image"]["id"]
        before = self._snapshots()
        self._snapshot_server(server, "snapshot")
        SEEN["snapshot"] = self._made(before)
        before = self._snapshots()
        backup = {"name": "backup", "backup_type": "daily", "rotation": 2}
        self.api.post_server_action(server["id"], {"createBackup": backup})
        SEEN["backup"] = self._made(before)
        self._rescue_server(server)
        self._unrescue_server(server)
        before = self._snapshots()
        self._shelve_server(server)
        SEEN["shelved"] = self._made(before)
        self._delete_server(server)
        node = self.compute.manager.rt.compute_nodes
        [SEEN["hypervisor"]] = [
            {"id": it.uuid, "host": it.host, "hostname": it.hypervisor_hostname}
            for it in node.values()
        ]


suite = unittest.defaultTestLoader.loadTestsFromTestCase(Operations)
done = unittest.TextTestRunner(stream=sys.stderr).run(suite)
assert SimpleNamespace(ok=done.wasSuccessful() and done.testsRun == 1).ok
print(json.dumps(SEEN))

"""Runs in the environment of a real Nova: its own services of its functional tests, and operations
through its API, while the notifiers are real ones that load our driver.

    python operate.py FOLDER
"""

import json
import sys
import unittest
from pathlib import Path

# It has to come before the rest of Nova, which it may patch.
import nova.tests.functional  # isort: skip
import fixtures
import nova.conf
import oslo_messaging
from nova import context, exception, objects, rpc
from nova.tests.functional import integrated_helpers

from metaledger.producers.nova_compute import settings

FOLDER = Path(sys.argv[1])
CONF = nova.conf.CONF
DRIVER = "fake.FakeDriverWithoutFakeNodes"
SEEN: dict[str, dict[str, object]] = {}


class Operations(integrated_helpers._IntegratedTestBase):
    """One life, with everything in it that only nova-compute tells of."""

    ADMIN_API = True
    microversion = "latest"

    def setUp(self) -> None:
        # The one whose node has its id from Nova's file, as libvirt's has.
        self.flags(compute_driver=DRIVER)
        super().setUp()

    def _setup_services(self) -> None:
        form = self._testMethodName.removeprefix("test_")
        settings.load()
        CONF.set_override("spool", str(FOLDER / form / "spool.db"), group="metaledger")
        CONF.set_override("notification_format", form, group="notifications")
        transport = oslo_messaging.get_notification_transport(CONF, url="fake://")
        serializer = rpc.RequestContextSerializer(rpc.JsonPayloadSerializer())
        for name, its in (("LEGACY_NOTIFIER", "unversioned"), ("NOTIFIER", "versioned")):
            driver = "metaledger" if form in (its, "both") else "noop"
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

    def _operate(self) -> None:
        seen = SEEN[self._testMethodName.removeprefix("test_")] = {}
        server = self._create_server(networks="none")
        seen["uuid"], seen["image"] = server["id"], server["image"]["id"]
        before = self._snapshots()
        self._snapshot_server(server, "snapshot")
        seen["snapshot"] = self._made(before)
        before = self._snapshots()
        backup = {"name": "backup", "backup_type": "daily", "rotation": 100}
        self.api.post_server_action(server["id"], {"createBackup": backup})
        seen["backup"] = self._made(before)
        self._wait_for_server_parameter(server, {"OS-EXT-STS:task_state": None})
        self._rescue_server(server)
        self._unrescue_server(server)
        before = self._snapshots()
        self.flags(shelved_offload_time=-1)
        self._shelve_server(server, expected_state="SHELVED")
        seen["shelved"] = self._made(before)
        self._delete_server(server)
        [node] = self.compute.manager.rt.compute_nodes.values()
        seen["hypervisor"] = {
            "id": node.uuid,
            "host": node.host,
            "hostname": node.hypervisor_hostname,
        }

        # A host that was renamed is refused by Nova itself.
        manager = self.compute.manager
        service = objects.Service.get_by_host_and_binary(
            context.get_admin_context(), manager.host, "nova-compute"
        )
        manager.host = "renamed"
        with self.assertRaises(exception.InvalidConfiguration):
            manager.init_host(service)

    test_both = test_versioned = _operate


suite = unittest.defaultTestLoader.loadTestsFromTestCase(Operations)
done = unittest.TextTestRunner(stream=sys.stderr).run(suite)
print(json.dumps(SEEN))
sys.exit(0 if done.wasSuccessful() and done.testsRun else 1)

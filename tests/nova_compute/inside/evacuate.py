"""Evacuates an instance by Nova's own functional tests, and starts its old host again and again.

Run by the Python of Nova's environment, with this product on its path:

    python evacuate.py FOLDER ANSWER...

Before each start of the old host's nova-compute the file `FOLDER/answer` gets the next answer of
the guard's command, which the environment names. Prints what there was after each start, as JSON in
the last line. ANSWER may be `other-nova` or `other-order`: the method is then one of a Nova that we
do not know. Ends with 1 where a nova-compute did not start.
"""

import json
import sys
import unittest
from pathlib import Path
from typing import Any

# It has to come before the rest of Nova, which it may patch.
import nova.tests.functional  # noqa: F401 # isort: skip
from nova import context, objects
from nova.compute import manager
from nova.tests.functional import test_servers

from metaledger.producers import nova_guard

FOLDER, *ANSWERS = sys.argv[1:]
SEEN: list[Any] = []


class Evacuation(test_servers.ServerMovingTests):
    """One instance, its old host, its new one."""

    def runTest(self) -> None:  # noqa: N802
        source = self.compute1.host
        node = self._get_provider_uuid_by_host(source)
        server = self._boot_and_check_allocations(self.flavor1, source)
        service = self.admin_api.get_services(host=source, binary="nova-compute")[0]["id"]
        self.compute1.stop()
        self.admin_api.put_service(service, {"forced_down": "true"})
        server = self._evacuate_server(server, expected_host=self.compute2.host)
        # As far as Nova knows, nobody has destroyed it yet.
        assert server["id"] in self.compute1.manager.driver.list_instance_uuids()
        for answer in ANSWERS:
            Path(FOLDER, "answer").write_text(answer)
            self.compute1 = self.restart_compute_service(self.compute1)
            filters = {"instance_uuid": server["id"]}
            migrations = objects.MigrationList.get_by_filters(context.get_admin_context(), filters)
            SEEN.append(
                {
                    "instance": server["id"],
                    "node": node,
                    "held": server["id"] in self.compute1.manager.driver.list_instance_uuids(),
                    "migrations": [migration.status for migration in migrations],
                    "source_vcpus": self._get_provider_usages(node)["VCPU"],
                }
            )


def in_other_order(self: Any, context: Any, node_cache: Any) -> dict[str, Any]:
    """It looks at what is here before it asks what was evacuated."""
    for instance in self._get_instances_on_driver(context):
        if objects.MigrationList.get_by_filters(context, {"instance_uuid": instance.uuid}):
            self.driver.destroy(context, instance, node_cache, {})
    return {}


def main() -> int:
    if "other-order" in ANSWERS:
        manager.ComputeManager._destroy_evacuated_instances = in_other_order
    if "other-nova" in ANSWERS:
        manager.ComputeManager._destroy_evacuated_instances = lambda _self, _context: {}
    nova_guard.install(manager)
    nova_guard.install(manager)
    suite = unittest.TestSuite([Evacuation()])
    done = unittest.TextTestRunner(verbosity=0).run(suite)
    print(json.dumps(SEEN))
    return 0 if done.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())

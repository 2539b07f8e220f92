"""A host that is given the name of another one, in a real Nova that asks the real guard.

    python renamed.py FOLDER LEDGER METALEDGER...

METALEDGER is an operator's command line, whose ledger is the file LEDGER. Two instances run on
host1. One is evacuated to host2, and host1 comes back; then the other one, and host1 does not: its
name goes to the machine that was host2. Nova 34 does not start there before somebody has changed
its database; then it goes by the name, and destroys what was evacuated from host1 where it runs.

All is kept as `functional` keeps it of Nova's own tests. Relays and projector work where the story
says so. Whom the hypervisors held after each start stands in FOLDER/seen.json.
"""

import json
import sqlite3
import subprocess
import sys
import unittest
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

# It has to come before the rest of Nova, which it may patch.
import nova.tests.functional  # noqa: F401 # isort: skip
from functional import Result, keep_databases, notify
from nova import conf, context
from nova.db.main import api as database
from nova.tests.functional import test_servers

from metaledger.producers.database import open_database
from metaledger.producers.nova_compute import settings
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.log.embedded import create_embedded_log

FOLDER, LEDGER, *METALEDGER = sys.argv[1:]
# What else there is to be renamed is of no matter here.
TABLES = ("compute_nodes", "instances")
HELD: dict[str, list[str]] = {}
SEEN: dict[str, Any] = {"held": HELD}


class Renamed(test_servers.ServerMovingTests):
    """Two machines, two instances, and a name."""

    def runTest(self) -> None:  # noqa: N802
        SEEN["hypervisors"] = [self._get_provider_uuid_by_host(it) for it in ("host1", "host2")]
        first, second = (self._booted() for _ in range(2))
        SEEN["instances"] = [first["id"], second["id"]]
        self.compute1.stop()
        service = self.admin_api.get_services(host="host1", binary="nova-compute")[0]["id"]
        self.admin_api.put_service(service, {"forced_down": "true"})

        self._evacuate(first)
        self._relay()
        self._project()
        # The sources report once more, which may be anything to who has not read it.
        self._relay()
        self.compute1 = self._started("behind", self.compute1)
        self._project()
        self.compute1 = self._started("evacuated", self.compute1)
        self.compute1.stop()

        self._evacuate(second)
        self._relay()
        self._project()
        self._take_name()
        self.compute2 = self._started("renamed", self.compute2)
        conf.CONF.set_override("guard", False, group="metaledger")
        self.compute2 = self._started("unguarded", self.compute2)
        self._relay()

    def _booted(self) -> Any:
        return self._create_server(az="nova:host1", networks="none", flavor_id=self.flavor1["id"])

    def _evacuate(self, server: Any) -> None:
        self._evacuate_server(server, expected_host="host2", expected_task_state=None)

    def _take_name(self) -> None:
        """What an operator does who wants host2 to be host1; its `compute_id` stays."""
        self.compute2.stop()
        self.compute2.host = "host1"
        # Nova's fake hypervisor is named after its service; a real one has a name of its own.
        self.compute2.manager.driver.init_host = lambda host: None  # noqa: ARG005
        with closing(sqlite3.connect(self._cell())) as cell, cell:
            for table in TABLES:
                cell.execute(f"UPDATE {table} SET host = 'host1' WHERE host = 'host2'")

    def _started(self, name: str, compute: Any) -> Any:
        started = self.restart_compute_service(compute)
        HELD[name] = started.manager.driver.list_instance_uuids()
        return started

    def _cell(self) -> str:
        """The file of the cell's database: Nova's tests have files where its threads are real."""
        cell = self.cell_mappings["cell1"]
        with context.target_cell(context.get_admin_context(), cell) as targeted:
            return str(database.get_engine(context=targeted).url.database)

    def _relay(self) -> None:
        """What the daemons of both outboxes do until nothing waits."""
        producer = ProducerSettings(service="relay", host="here")
        outbox = Outbox(producer, producer.codec())
        with closing(create_embedded_log(Path(LEDGER))) as log:
            for file in (self._cell(), settings.load().spool):
                engine, writer = open_database(f"sqlite:///{file}"), log.writer()
                Relay(engine, writer, outbox, partitions=log.partitions, owner="relay").drain()
                engine.dispose()

    def _project(self) -> None:
        subprocess.run([*METALEDGER, "project"], check=True)


def patient(wait: Callable[..., Any]) -> Callable[..., Any]:
    """Nova's tests wait for five seconds, which are short for a boot on a busy machine."""

    def waits(*args: Any, **options: Any) -> Any:
        for _ in range(20):
            with suppress(AssertionError):
                return wait(*args, **options)
        return wait(*args, **options)

    return waits


for name in ("_wait_for_server_parameter", "_wait_for_migration_status"):
    setattr(Renamed, name, patient(getattr(Renamed, name)))
keep_databases(Path(FOLDER))
notify(Path(FOLDER))
done = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(unittest.TestSuite([Renamed()]))
Path(FOLDER, "seen.json").write_text(json.dumps(SEEN))
sys.exit(0 if done.wasSuccessful() else 1)

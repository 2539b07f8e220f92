"""Runs tests of Nova's own, unchanged, and keeps each cell's database as a test leaves it.

Run by the Python of Nova's environment, with this product on its path:

    python functional.py FOLDER TEST...

Nova's configuration comes from the environment, as oslo.config reads it: with
OS_DATABASE__CONNECTION_PARAMETERS=plugin=metaledger the engine plugin is loaded. All that is done
to Nova here is done to the fixtures of its tests: an outbox is installed behind the schema of each
cell, as `metaledger outbox install` does, and the database is copied before it is thrown away, into
`FOLDER/<test>@<cell>.sqlite`; what its tests have for notifiers hand each notification on to the
notification driver, whose spool is `FOLDER/<test>@spool.sqlite`; and each snapshot that their image
service is given is noted in `FOLDER/<test>@images.sqlite`. Ends with 1 where a test failed.
"""

import logging
import re
import sqlite3
import sys
import unittest
from pathlib import Path
from typing import Any

# It has to come before the rest of Nova, which it may patch.
import nova.tests.functional  # noqa: F401 # isort: skip
from nova.tests import fixtures
from nova.tests.fixtures import conf, notifications

from metaledger.producers.administration import install
from metaledger.producers.nova_compute import settings
from metaledger.producers.nova_compute.driver import NotificationDriver


class Result(unittest.TextTestResult):
    """Knows which test runs."""

    running = ""

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        Result.running = test.id().removeprefix("nova.tests.functional.")
        super().startTest(test)


def keep_databases(folder: Path) -> None:
    """From now on each cell has an outbox, and is copied at its end."""
    make, end = fixtures.CellDatabases._cache_schema, fixtures.CellDatabases.cleanup

    def cache_schema(self: Any, connection: str) -> None:
        make(self, connection)
        install(self._ctxt_mgrs[connection].writer.get_engine())

    def cleanup(self: Any) -> None:
        for cell, manager in self._ctxt_mgrs.items():
            name = re.sub(r"\W+", "_", cell).strip("_")
            held = manager.writer.get_engine().raw_connection()
            with sqlite3.connect(folder / f"{Result.running}@{name}.sqlite") as copy:
                held.driver_connection.backup(copy)
            copy.close()
            held.close()
        end(self)

    fixtures.CellDatabases._cache_schema = cache_schema
    fixtures.CellDatabases.cleanup = cleanup


def notify(folder: Path) -> None:
    """From now on the driver gets what Nova notifies of, in the form that oslo.messaging gives."""
    driver = NotificationDriver(None, (), None)

    def handing_on(original: Any) -> Any:
        def notified(self: Any, priority: str, ctxt: Any, event_type: str, payload: Any) -> None:
            original(self, priority, ctxt, event_type, payload)
            message = {
                "publisher_id": self.publisher_id,
                "event_type": event_type,
                "payload": self._serializer.serialize_entity(ctxt, payload),
            }
            driver.notify(self._serializer.serialize_context(ctxt), message, priority, None)

        return notified

    for notifier in (notifications.FakeNotifier, notifications.FakeVersionedNotifier):
        notifier._notify = handing_on(notifier._notify)
    configure = conf.ConfFixture.setUp

    def setUp(self: Any) -> None:
        configure(self)
        settings.load()
        spool = folder / f"{Result.running}@spool.sqlite"
        self.conf.set_override("spool", str(spool), group="metaledger")

    conf.ConfFixture.setUp = setUp


def keep_snapshots(folder: Path) -> None:
    """From now on it is noted which snapshots the image service was given: some go again."""
    create = fixtures.GlanceFixture.create

    def created(self: Any, *args: Any, **options: Any) -> Any:
        image = create(self, *args, **options)
        properties = image.get("properties", {})
        # A resize from cell to cell takes one of its own, and tells nobody of it.
        is_temporary = image.get("name", "").endswith("-resize-temp")
        if "instance_uuid" in properties and not is_temporary:
            row = (image["id"], properties["instance_uuid"], properties["image_type"])
            notes = sqlite3.connect(folder / f"{Result.running}@images.sqlite")
            with notes:
                notes.execute(
                    "CREATE TABLE IF NOT EXISTS snapshots (image_id, instance_uuid, image_type)"
                )
                notes.execute("INSERT INTO snapshots VALUES (?, ?, ?)", row)
            notes.close()
        return image

    fixtures.GlanceFixture.create = created


def main() -> int:
    folder, *names = sys.argv[1:]
    keep_databases(Path(folder))
    notify(Path(folder))
    keep_snapshots(Path(folder))
    logging.getLogger().setLevel(logging.ERROR)
    tests = unittest.defaultTestLoader.loadTestsFromNames(
        [f"nova.tests.functional.{name}" for name in names]
    )
    done = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(tests)
    return 0 if done.wasSuccessful() and done.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())

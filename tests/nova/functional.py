"""Runs tests of Nova's own, unchanged, and keeps each cell's database as a test leaves it.

Run by the Python of Nova's environment, with this product on its path:

    python functional.py FOLDER TEST...

Nova's configuration comes from the environment, as oslo.config reads it: with
OS_DATABASE__CONNECTION_PARAMETERS=plugin=metaledger the engine plugin is loaded. All that is done
to Nova here is done to the fixtures of its tests: an outbox is installed behind the schema of each
cell, as `metaledger outbox install` does, and the database is copied before it is thrown away, into
`FOLDER/<test>@<cell>.sqlite`; what its tests have for notifiers hand each notification on to the
notification driver, whose spool is `FOLDER/<test>@spool.sqlite`. What Nova's rows do not say in the
end is noted: each state of an instance and of its system metadata by triggers, beside
them; and in `FOLDER/<test>@notes.sqlite` each snapshot that the tests'
image service is given, each rescue that their hypervisor is told to make, and each id of a compute
node that Nova has from its file. Ends with 1 where a test failed.
"""

import json
import logging
import re
import sqlite3
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# It has to come before the rest of Nova, which it may patch.
import nova.tests.functional  # noqa: F401 # isort: skip
from nova.objects.base import obj_to_primitive
from nova.tests import fixtures
from nova.tests.fixtures import conf, notifications
from nova.virt import fake, node

from metaledger.producers.administration import install
from metaledger.producers.nova_compute import settings
from metaledger.producers.nova_compute.driver import NotificationDriver

# What a row was, each time; `n` is their order, and `states` how many of its instance came before.
# When it archives, Nova passes over tables with such a name.
SEEN = """
    CREATE TABLE shadow_seen_instances (
        n INTEGER PRIMARY KEY, uuid, image_ref, host, compute_id, is_deleted);
    CREATE TABLE shadow_seen_metadata (
        n INTEGER PRIMARY KEY, instance_uuid, key, value, is_deleted, states);
"""
TRIGGER = """
    CREATE TRIGGER seen_{table}_{change} AFTER {change} ON {table} BEGIN
        INSERT INTO {seen} ({names}) VALUES ({values});
    END;
"""
OF_INSTANCES = ("uuid", "image_ref", "host", "compute_id")
OF_METADATA = ("instance_uuid", "key", "value")
# Of an image that an instance is rescued from.
OF_IMAGE = ("disk_format", "container_format", "min_disk", "min_ram")


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
        engine = self._ctxt_mgrs[connection].writer.get_engine()
        install(engine)
        held = engine.raw_connection()
        held.driver_connection.executescript(SEEN + "".join(triggers()))
        held.close()

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


def triggers() -> Iterator[str]:
    """What is seen of instances and their system metadata. A row that is gone is a deleted one."""
    for change, row, deleted in (
        ("INSERT", "new", "new.deleted"),
        ("UPDATE", "new", "new.deleted"),
        ("DELETE", "old", "old.id"),
    ):
        states = f"(SELECT count(*) FROM shadow_seen_instances WHERE uuid = {row}.instance_uuid)"
        for table, seen, names, more in (
            ("instances", "shadow_seen_instances", OF_INSTANCES, {}),
            ("instance_system_metadata", "shadow_seen_metadata", OF_METADATA, {"states": states}),
        ):
            values = {name: f"{row}.{name}" for name in names} | {"is_deleted": deleted} | more
            joined = {"names": ", ".join(values), "values": ", ".join(values.values())}
            yield TRIGGER.format(table=table, seen=seen, change=change, **joined)


def note(folder: Path, table: str, **row: str | None) -> None:
    """Something that no database of Nova's will say."""
    names, values = ", ".join(row), ", ".join("?" * len(row))
    notes = sqlite3.connect(folder / f"{Result.running}@notes.sqlite")
    with notes:
        notes.execute(f"CREATE TABLE IF NOT EXISTS {table} ({names})")
        notes.execute(f"INSERT INTO {table} VALUES ({values})", tuple(row.values()))
    notes.close()


def note_snapshots(folder: Path) -> None:
    """From now on it is noted which snapshots the image service was given: some go again."""
    create = fixtures.GlanceFixture.create

    def created(self: Any, *args: Any, **options: Any) -> Any:
        image = create(self, *args, **options)
        properties = image.get("properties", {})
        # A resize from cell to cell takes one of its own, and tells nobody of it.
        is_temporary = image.get("name", "").endswith("-resize-temp")
        if "instance_uuid" in properties and not is_temporary:
            names = ("instance_uuid", "image_type", "base_image_ref")
            given = {name: properties.get(name) for name in names}
            note(folder, "snapshots", image_id=image["id"], **given)
        return image

    fixtures.GlanceFixture.create = created


def note_rescues(folder: Path) -> None:
    """From now on it is noted from which image, with which metadata, an instance was rescued."""
    rescue = fake.FakeDriver.rescue

    def rescued(
        self: Any, context: Any, instance: Any, network: Any, image: Any, *rest: Any
    ) -> None:
        rescue(self, context, instance, network, image, *rest)
        held = {name: getattr(image, name) for name in OF_IMAGE if image.obj_attr_is_set(name)}
        held |= obj_to_primitive(image.properties)
        metadata = json.dumps({f"image_{name}": str(value) for name, value in held.items()})
        note(folder, "rescues", instance_uuid=instance.uuid, image_id=image.id, metadata=metadata)

    fake.FakeDriver.rescue = rescued


def note_ids(folder: Path) -> None:
    """From now on it is noted which compute node has its id from Nova's file."""
    original = node.get_local_node_uuid

    def get_local_node_uuid() -> str:
        found: str = original()
        note(folder, "local_nodes", uuid=found)
        return found

    node.get_local_node_uuid = get_local_node_uuid


def main() -> int:
    folder, *names = sys.argv[1:]
    keep_databases(Path(folder))
    notify(Path(folder))
    for noting in (note_snapshots, note_rescues, note_ids):
        noting(Path(folder))
    logging.getLogger().setLevel(logging.ERROR)
    tests = unittest.defaultTestLoader.loadTestsFromNames(
        [f"nova.tests.functional.{name}" for name in names]
    )
    done = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(tests)
    return 0 if done.wasSuccessful() and done.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())

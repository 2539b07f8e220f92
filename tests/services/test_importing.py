"""`import` and `reconcile` as an operator types them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, insert, update

from metaledger.producers.administration import install
from metaledger.producers.glance.tables import IMAGES, PROPERTIES
from metaledger.producers.nova.tables import INSTANCES, SYSTEM_METADATA
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.codec import Codec
from metaledger.schemas.log.embedded import create_embedded_log
from tests.importing.kit import put_instance, put_nodes

from .conftest import Result

Run = Callable[..., Result]
URL = "sqlite:///glance.sqlite"
CELL = "sqlite:///cell.sqlite"
GONE = datetime(2026, 2, 1, 12, 0, 5)  # noqa: DTZ001 (as Nova's tables have it)


def put_image(engine: Engine, image_id: str, **columns: object) -> None:
    row = {"name": "n", "status": "active", "visibility": "private", "size": 5, "deleted": False}
    with engine.begin() as connection:
        connection.execute(insert(IMAGES), {"id": image_id, **row, **columns})
        kept = {"image_id": image_id, "name": "k", "value": "\x1b[31mv", "deleted": False}
        connection.execute(insert(PROPERTIES), kept)


@pytest.fixture
def glance() -> Iterator[Engine]:
    """A database with Glance's tables, two images, and an outbox."""
    engine = create_engine(URL)
    IMAGES.metadata.create_all(engine)
    install(engine)
    for image_id in ("a", "b"):
        put_image(engine, image_id)
    yield engine
    engine.dispose()


@pytest.fixture
def nova() -> Iterator[Engine]:
    """A cell's database with three compute nodes, a live instance and two deleted ones."""
    engine = create_engine(CELL)
    INSTANCES.metadata.create_all(engine)
    install(engine)
    with engine.begin() as connection:
        put_nodes(connection)
        put_instance(connection, 1)
        put_instance(connection, 2, deleted=2, deleted_at=GONE)
        put_instance(connection, 3, deleted=3)
    yield engine
    engine.dispose()


def relay(engine: Engine) -> None:
    """What the daemon does until nothing waits."""
    settings = ProducerSettings(service="relay", host="here")
    with closing(create_embedded_log(Path("metaledger.db"))) as log:
        outbox = Outbox(settings, Codec())
        Relay(engine, log.writer(), outbox, partitions=1, owner="relay").drain()


def test_an_operator_imports_and_asks(metaledger: Run, glance: Engine) -> None:
    put_image(glance, "c", status="deleted", deleted=True)
    done = metaledger("import", "glance", URL)
    assert (done.status, done.err) == (0, "")
    assert "1 rows of image are deleted and do not say when" in done.out
    again = metaledger("--json", "import", "glance", URL)
    assert again.status == 0
    assert again.document == {
        "service": "glance",
        "imported": [
            {
                "kind": "image",
                "total": 3,
                "imported": 0,
                "events": 0,
                "known": 3,
                "in_flight": 0,
                "untold": 0,
            }
        ],
        "deleted_without_time": [{"kind": "image", "count": 1, "named": ["c"]}],
    }
    relay(glance)
    assert metaledger("project").status == 0
    shown = metaledger("--json", "image", "show", "a").document
    assert [(it["key"], it["value"]) for it in shown["properties"]] == [("k", "\x1b[31mv")]
    # Nobody saw it registered: only since when it is known can be told.
    since = shown["attributes"]["registration_told_at"]
    assert (shown["attributes"]["registered_at"], since is None) == (None, False)
    then = metaledger("--json", "image", "show", "a", "--as-of", since).document["attributes"]
    assert then["registration_told_at"] == since
    assert then["registered_at"] is None
    assert f"known since {since[:19]}" in metaledger("image", "lineage", "a").out


def test_reconcile_answers_no_shows_and_mends(metaledger: Run, glance: Engine) -> None:
    assert metaledger("import", "glance", URL).status == 0
    relay(glance)
    assert metaledger("project").status == 0
    same = metaledger("reconcile", "glance", URL)
    assert (same.status, same.err) == (0, "")
    assert "2 compared: 0 differ" in same.out
    with glance.begin() as connection:
        changed = {"value": "\x1b[32mw"}
        connection.execute(update(PROPERTIES).where(PROPERTIES.c.image_id == "a").values(changed))
    differs = metaledger("reconcile", "glance", URL)
    assert differs.status == 1
    assert "\x1b" not in differs.out
    document = metaledger("--json", "reconcile", "glance", URL).document
    assert document["differences"] == [
        {
            "aggregate": "image:a",
            "what": "property",
            "key": "k",
            "ledger": "\x1b[31mv",
            "database": "\x1b[32mw",
        }
    ]
    mended = metaledger("--json", "reconcile", "glance", URL, "--mend")
    assert (mended.status, mended.document["mended"]) == (0, 1)
    flying = metaledger("--json", "reconcile", "glance", URL).document
    assert (flying["differing"], list(flying["left_out"].values())) == (0, [1])
    relay(glance)
    assert metaledger("project").status == 0
    after = metaledger("--json", "reconcile", "glance", URL)
    assert (after.status, after.document["compared"]) == (0, 2)


def test_a_mend_that_leaves_something_unrecorded_answers_no(
    metaledger: Run, glance: Engine
) -> None:
    assert metaledger("import", "glance", URL).status == 0
    relay(glance)
    assert metaledger("project").status == 0
    put_image(glance, "c")
    assert metaledger("import", "glance", URL).status == 0
    assert metaledger("outbox", "reseed", URL).status == 0
    waits = metaledger("--json", "reconcile", "glance", URL, "--mend")
    assert (waits.status, waits.document["settled"], waits.document["unrecorded"]) == (1, 2, 1)
    relay(glance)
    assert metaledger("project").status == 0
    done = metaledger("--json", "reconcile", "glance", URL, "--mend")
    assert (done.status, done.document["settled"], done.document["unrecorded"]) == (0, 1, 0)


def test_an_operator_imports_a_cell_and_asks(metaledger: Run, nova: Engine) -> None:
    done = metaledger("import", "nova", CELL)
    assert (done.status, done.err) == (0, "")
    assert "1 rows of instance are deleted and do not say when" in done.out
    again = metaledger("--json", "import", "nova", CELL).document
    assert again["service"] == "nova"
    known = {one["kind"]: (one["total"], one["events"], one["known"]) for one in again["imported"]}
    assert known == {"hypervisor": (3, 0, 3), "instance": (3, 0, 3)}
    assert {one["kind"]: one["named"] for one in again["deleted_without_time"]} == {
        "hypervisor": ["hv-3"],
        "instance": ["i-3"],
    }
    relay(nova)
    assert metaledger("project").status == 0
    shown = metaledger("--json", "instance", "show", "i-1").document["attributes"]
    assert (shown["image_ref"], shown["flavor"], shown["host"], shown["hypervisor_id"]) == (
        *("image-a", "m1.small", "host-1", "hv-1"),
    )
    assert shown["booted_at"] is None
    since = shown["boot_told_at"]
    then = metaledger("--json", "instance", "show", "i-1", "--as-of", since).document["attributes"]
    assert then["boot_told_at"] == since
    stored = metaledger("--json", "instance", "metadata", "i-1").document["system_metadata"]
    assert {one["key"]: one["value"] for one in stored} == {
        "image_base_image_ref": "image-a",
        "image_min_disk": "1",
        "owner_user_name": "alice",
    }
    gone = metaledger("--json", "instance", "show", "i-2").document["attributes"]
    assert gone["deleted_at"] == "2026-02-01T12:00:05.000000Z"
    host = metaledger("--json", "hypervisor", "show", "hv-1").document
    assert "i-1" in str(host)
    assert host["attributes"]["registered_at"] is None
    since = host["attributes"]["registration_told_at"]
    then = metaledger("--json", "hypervisor", "show", "hv-1", "--as-of", since).document
    assert then["attributes"] == {"registration_told_at": since}
    assert "secret" not in metaledger("--json", "events").out
    assert metaledger("--json", "anomalies").document == []


def test_reconcile_mends_a_cell(metaledger: Run, nova: Engine) -> None:
    assert metaledger("import", "nova", CELL).status == 0
    relay(nova)
    assert metaledger("project").status == 0
    same = metaledger("reconcile", "nova", CELL)
    assert (same.status, same.err) == (0, "")
    assert "6 compared: 0 differ" in same.out
    with nova.begin() as connection:
        of_it = (SYSTEM_METADATA.c.instance_uuid == "i-1") & (
            SYSTEM_METADATA.c.key == "image_min_disk"
        )
        connection.execute(update(SYSTEM_METADATA).where(of_it).values(value="2"))
        put_instance(connection, 4)
    differs = metaledger("--json", "reconcile", "nova", CELL)
    assert differs.status == 1
    assert differs.document["differences"] == [
        {
            "aggregate": "instance:i-1",
            "what": "metadata",
            "key": "image_min_disk",
            "ledger": "1",
            "database": "2",
        },
        {
            "aggregate": "instance:i-4",
            "what": "state",
            "key": "",
            "ledger": "unknown",
            "database": "there",
        },
    ]
    mended = metaledger("--json", "reconcile", "nova", CELL, "--mend")
    assert (mended.status, mended.document["mended"]) == (0, 2)
    relay(nova)
    assert metaledger("project").status == 0
    after = metaledger("--json", "reconcile", "nova", CELL)
    assert (after.status, after.document["compared"], after.document["differing"]) == (0, 7, 0)
    assert metaledger("--json", "anomalies").document == []


@pytest.mark.parametrize("first", ["nova", "glance"])
def test_what_an_instance_runs_now_is_no_parent_of_its_snapshot_from_before(
    metaledger: Run, glance: Engine, nova: Engine, first: str
) -> None:
    """It was rebuilt from that very snapshot, and a deleted one from another image."""
    with nova.begin() as connection:
        put_instance(connection, 4, image_ref="snap")
        put_instance(connection, 5, image_ref="b", deleted=5, deleted_at=GONE)
    for image_id, uuid in (("snap", "i-4"), ("old", "i-5")):
        put_image(glance, image_id)
        said = {"image_type": "snapshot", "instance_uuid": uuid, "base_image_ref": "image-a"}
        with glance.begin() as connection:
            for name, value in said.items():
                row = {"image_id": image_id, "name": name, "value": value, "deleted": False}
                connection.execute(insert(PROPERTIES), row)
    imports = {"nova": (nova, CELL), "glance": (glance, URL)}
    for service in sorted(imports, key=lambda name: name != first):
        engine, url = imports[service]
        assert metaledger("import", service, url).status == 0
        relay(engine)
        assert metaledger("project").status == 0
    standing = [
        (one["kind"], one["aggregate_id"])
        for one in metaledger("--json", "anomalies").document
        if one["withdrawn_by_event"] is None
    ]
    assert standing == []
    for image_id, uuid in (("snap", "i-4"), ("old", "i-5")):
        shown = metaledger("--json", "snapshot", "show", image_id).document
        assert (shown["instance_uuid"], shown["parent_image_id"], shown["taken_at"]) == (
            *(uuid, None, None),
        )
        assert shown["lineage"]["evidence"] == "declared"
        assert shown["lineage"]["root_image_id"] == "image-a"


def test_of_many_differences_some_are_shown_and_all_counted(
    metaledger: Run, glance: Engine
) -> None:
    for number in range(1000):
        put_image(glance, f"more-{number}")
    metaledger("migrate")
    few = metaledger("reconcile", "glance", URL)
    assert few.status == 1
    assert "… and 952 more; --json shows all" in few.out
    assert few.out.count("image:") == 50
    assert "1,002 compared: 1,002 differ, in 1,002 values; 0 mended." in few.out
    assert len(metaledger("--json", "reconcile", "glance", URL).document["differences"]) == 1002


def test_what_is_absent_has_no_member(metaledger: Run, glance: Engine) -> None:
    assert metaledger("import", "glance", URL).status == 0
    relay(glance)
    assert metaledger("project").status == 0
    with glance.begin() as connection:
        added = {"image_id": "a", "name": "null", "value": None, "deleted": False}
        connection.execute(insert(PROPERTIES), added)
    (found,) = metaledger("--json", "reconcile", "glance", URL).document["differences"]
    assert found == {"aggregate": "image:a", "what": "property", "key": "null", "database": None}


@pytest.mark.parametrize("command", ["import", "reconcile"])
def test_what_cannot_be_done_is_said_in_a_line(
    metaledger: Run, glance: Engine, command: str
) -> None:
    relay(glance)
    assert metaledger("project").status == 0
    other = create_engine("sqlite:///other.sqlite")
    install(other)
    bare = create_engine("sqlite:///bare.sqlite")
    IMAGES.metadata.create_all(bare)
    for url, status, words in (
        ("sqlite:///nothing.sqlite", 2, "no such database"),
        ("sqlite:///other.sqlite", 2, "no database of glance: it has no table image_locations"),
        ("sqlite:///bare.sqlite", 2, "run `metaledger outbox install URL`"),
        ("postgresql://nobody:secret@127.0.0.1:1/glance", 3, "cannot be reached"),
        ("nonsense", 2, "no database URL"),
    ):
        done = metaledger(command, "glance", url)
        assert (done.status, done.out) == (status, "")
        assert words in done.err
        assert "secret" not in done.err
        assert len(done.err.splitlines()) == 1
    wrong = metaledger(command, "cinder", URL)
    assert wrong.status == 2
    assert "glance, nova" in wrong.err
    assert metaledger(command, "glance").status == 2
    other.dispose()
    bare.dispose()


def test_reconcile_refuses_the_read_model_of_another_log(metaledger: Run, glance: Engine) -> None:
    assert metaledger("import", "glance", URL).status == 0
    relay(glance)
    with create_engine(URL).begin() as connection:
        connection.exec_driver_sql("UPDATE metaledger_relay SET topic_id = 'another'")
    assert metaledger("project").status == 0
    refused = metaledger("reconcile", "glance", URL)
    assert refused.status == 2
    assert "name the right read model" in refused.err


def test_a_full_outbox_without_a_relay_ends_the_import(metaledger: Run, glance: Engine) -> None:
    Path("small.toml").write_text("[relay]\noutbox_rows_max = 20\n")
    for number in range(20):
        put_image(glance, f"many-{number}")
    done = metaledger("--config", "small.toml", "import", "glance", URL)
    assert (done.status, done.out) == (3, "")
    assert "no relay drains it. Start `metaledger relay`" in done.err

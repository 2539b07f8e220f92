"""`import` and `reconcile` as an operator types them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, insert, update

from metaledger.producers.administration import install
from metaledger.producers.glance.tables import IMAGES, PROPERTIES
from metaledger.producers.outbox import Outbox
from metaledger.producers.relay import Relay
from metaledger.producers.settings import ProducerSettings
from metaledger.schemas.codec import Codec
from metaledger.schemas.log.embedded import create_embedded_log

from .conftest import Result

Run = Callable[..., Result]
URL = "sqlite:///glance.sqlite"


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


def test_reconcile_answers_no_shows_and_mends(metaledger: Run, glance: Engine) -> None:
    metaledger("import", "glance", URL)
    relay(glance)
    metaledger("project")
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
    metaledger("project")
    after = metaledger("--json", "reconcile", "glance", URL)
    assert (after.status, after.document["compared"]) == (0, 2)


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
    metaledger("import", "glance", URL)
    relay(glance)
    metaledger("project")
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
    metaledger("project")
    other = create_engine("sqlite:///other.sqlite")
    install(other)
    bare = create_engine("sqlite:///bare.sqlite")
    IMAGES.metadata.create_all(bare)
    for url, status, words in (
        ("sqlite:///nothing.sqlite", 2, "no such database"),
        ("sqlite:///other.sqlite", 2, "no database of glance: it has no table image_locations"),
        ("sqlite:///bare.sqlite", 2, "run `metaledger outbox install`"),
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
    metaledger("import", "glance", URL)
    relay(glance)
    with create_engine(URL).begin() as connection:
        connection.exec_driver_sql("UPDATE metaledger_relay SET topic_id = 'another'")
    metaledger("project")
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

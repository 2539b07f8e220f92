"""The hook's settings stand in Glance's own configuration file, and `strict` keeps its word."""

from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine, text

from .config import Extra
from .conftest import PLUGIN, NewGlance
from .ledger import recorded
from .service import Glance

pytestmark = [pytest.mark.glance, pytest.mark.slow]

STRICT = """
[metaledger]
strict = true
deployment_id = region-1
service = images
host = control-7
outbox_rows_max = 5
"""


@pytest.fixture(scope="module")
def strict_glance(new_glance: NewGlance) -> Iterator[Glance]:
    with new_glance(Extra(database_options=PLUGIN, text=STRICT)) as glance:
        yield glance


def test_events_say_what_the_operator_chose(strict_glance: Glance) -> None:
    image_id = strict_glance.client().create(name="n", key="v").body["id"]
    (event,) = recorded(strict_glance.database_url, image_id)
    meta = event.meta
    assert (meta.deployment_id, meta.service, meta.host) == ("region-1", "images", "control-7")


def test_strict_fails_a_change_that_cannot_be_recorded(strict_glance: Glance) -> None:
    client = strict_glance.client()
    image_id = client.create(name="n", key="v").body["id"]
    with_outbox = recorded(strict_glance.database_url)
    rename(strict_glance, "metaledger_outbox", "metaledger_gone")
    operations = [{"op": "replace", "path": "/key", "value": "lost"}]
    assert client.patch(image_id, operations).status == 500
    assert client.get(image_id).body["key"] == "v"
    rename(strict_glance, "metaledger_gone", "metaledger_outbox")
    assert recorded(strict_glance.database_url) == with_outbox
    assert "changes not recorded" in strict_glance.log_path.read_text()
    assert client.patch(image_id, operations).status == 200
    assert client.get(image_id).body["key"] == "lost"


def test_strict_fails_a_change_when_the_outbox_is_full(strict_glance: Glance) -> None:
    client = strict_glance.client()
    statuses = [client.create(name="n").status for _ in range(6)]
    assert statuses[-1] == 500
    assert len(recorded(strict_glance.database_url)) == 5


def rename(glance: Glance, old: str, new: str) -> None:
    engine = create_engine(glance.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

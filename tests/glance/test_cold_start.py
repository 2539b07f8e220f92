"""A Glance that ran without the ledger: what its database holds is told, and what differs later."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from metaledger.producers.administration import install
from metaledger.producers.database import open_database
from metaledger.producers.glance.source import KINDS
from metaledger.producers.importing import Importer
from metaledger.producers.live import LiveWriter
from metaledger.producers.mending import Mender
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.source import require_service
from metaledger.services.reading import reading
from metaledger.services.reconciling import Reconciliation

from .config import Extra
from .conftest import NewGlance
from .ledger import recorded
from .readmodel import ReadModel
from .service import Glance
from .test_lifecycle import AS_TEXT, IN_ROW, IN_ROW_ONCE_UPLOADED, add, properties, remove

pytestmark = [pytest.mark.glance, pytest.mark.slow]

SETTINGS = ProducerSettings(service="metaledger", host="here")
(IMAGE,) = KINDS


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def unhooked_glance(new_glance: NewGlance, request: pytest.FixtureRequest) -> Iterator[Glance]:
    """A running Glance that loads nothing of ours, beside an outbox."""
    if request.param == "sqlite":
        with new_glance(Extra()) as glance:
            yield glance
        return
    server = request.getfixturevalue(request.param)
    url = server.create_database()
    with new_glance(Extra(), url) as glance:
        yield glance
    server.drop_database(url)


def test_what_a_glance_held_before_is_what_it_answers(
    unhooked_glance: Glance, tmp_path: Path
) -> None:
    client = unhooked_glance.client()
    live, gone, queued = (
        client.create(name=name, visibility="private", a="1", b="2", tags=["t"]).body["id"]
        for name in ("live", "gone", "queued")
    )
    for image_id in (live, gone):
        assert client.upload(image_id, b"data").status == 204
        assert client.patch(image_id, [remove("a"), add("c", "3")]).status == 200
        assert client.add_tag(image_id, "u").status == 204
        assert client.remove_tag(image_id, "t").status == 204
    assert client.delete(gone).status == 204

    install(engine := open_database(unhooked_glance.database_url))
    require_service(engine, "glance", KINDS)
    writer = LiveWriter(engine, SETTINGS)
    importer = Importer(engine, writer, context=SETTINGS.context())
    done = importer.run(IMAGE)
    assert (done.imported, done.lacking) == (3, 0)
    read_model = ReadModel(tmp_path, unhooked_glance.database_url)
    read_model.catch_up()
    for image_id in (live, queued):
        answered = client.get(image_id).body
        image = read_model.image(image_id)
        names = IN_ROW if answered["size"] is None else IN_ROW + IN_ROW_ONCE_UPLOADED
        assert {name: image[name] for name in names} == {name: answered[name] for name in names}
        assert read_model.properties(image_id) == properties(answered)
        attributes = read_model.attributes(image_id)
        assert {name: attributes[name] for name in AS_TEXT} == {
            name: str(answered[name]).lower() for name in AS_TEXT
        }
    registered = next(it.data for it in recorded(unhooked_glance.database_url, gone))
    # Nothing tells that `a` was removed before the image was.
    assert dict(registered.properties) == {"a": "1", "b": "2", "c": "3"}  # type: ignore[union-attr]
    # MariaDB keeps no fraction of a second, and `t` was removed just before.
    seconds_only = engine.dialect.name == "mysql"
    assert set(registered.tags) - {"t" if seconds_only else ""} == {"u"}  # type: ignore[union-attr]
    assert read_model.image(gone)["deleted_at"] is not None
    assert {it.type for it in recorded(unhooked_glance.database_url, gone)} >= {"ImageDeleted"}

    assert client.patch(live, [add("d", "4"), remove("b")]).status == 200
    read_model_url = f"sqlite:///{tmp_path}/read.db"
    with reading(read_model_url) as connection:
        (page,) = Reconciliation(engine=engine, read_model=connection).pages(IMAGE)
    assert {(it.aggregate, it.key) for it in page.found} == {
        (f"image:{live}", "b"),
        (f"image:{live}", "d"),
    }
    Mender(writer=writer, context=SETTINGS.context()).mend(IMAGE, page.differing)
    read_model.catch_up()
    assert read_model.properties(live) == properties(client.get(live).body)
    assert read_model.anomalies(live) == []
    read_model.close()
    engine.dispose()

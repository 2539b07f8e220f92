"""What goes wrong around a real Glance, from its HTTP to what the command line answers."""

import http.server
import json
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from ..glance.config import Extra
from ..glance.conftest import (  # noqa: F401 (fixtures)
    PLUGIN,
    empty_database,
    glance_environment,
    new_glance,
    product,
)
from ..glance.service import Glance
from ..services.conftest import Result
from ..services.waiting import wait_for

pytestmark = [pytest.mark.glance, pytest.mark.slow]

ROWS_MAX = 12
SECRET = "s3cret-of-the-location"
STORES = "enabled_backends = store1:file, store2:file, web:http"
SETTINGS = """
[web]
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = [{port}]
[metaledger]
outbox_rows_max = {rows_max}
"""


@dataclass(frozen=True)
class Installation:
    """A hooked Glance and an embedded ledger, as an operator has them."""

    glance: Glance
    folder: Path
    metaledger: Callable[..., Result]
    start: Callable

    def run(self, *arguments) -> Result:
        return self.metaledger("--config", self.folder / "c.toml", *arguments)

    def answer(self, *arguments):
        return self.run("--json", *arguments).document

    def catch_up(self):
        """Relays what waits, and projects it."""
        relay = self.start("--config", self.folder / "c.toml", "relay")
        assert "relay.started" in relay.stderr.readline()
        wait_for(lambda: self.answer("outbox", "status")["rows_waiting"] == 0)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(timeout=60) == 0
        assert self.run("project").status == 0

    def execute(self, statement):
        engine = create_engine(self.glance.database_url, poolclass=NullPool)
        with engine.begin() as connection:
            return connection.execute(text(statement))


class Silent(http.server.BaseHTTPRequestHandler):
    """An image's data that lies elsewhere."""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(b"data")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def elsewhere():
    """The port of a web server that has an image's data."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def glance(new_glance, elsewhere):  # noqa: F811
    settings = SETTINGS.format(port=elsewhere, rows_max=ROWS_MAX)
    extra = Extra(default_options=STORES, database_options=PLUGIN, text=settings)
    with new_glance(extra) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ledger")


@pytest.fixture
def installation(glance, folder, metaledger, start):
    (folder / "c.toml").write_text(
        'ledger = "sqlite:///ledger.db"\nread_model = "sqlite:///read.db"\n'
        f'[relay]\noutbox = "{glance.database_url}"\noutbox_rows_max = {ROWS_MAX}\n'
    )
    made = Installation(glance, folder, metaledger, start)
    made.catch_up()
    return made


@contextmanager
def missing(installation):
    """The outbox's table is not there for a while."""
    installation.execute("ALTER TABLE metaledger_outbox RENAME TO metaledger_gone")
    yield
    installation.execute("ALTER TABLE metaledger_gone RENAME TO metaledger_outbox")


@contextmanager
def full(installation):
    """Nothing drains the outbox, and others have filled it."""
    client = installation.glance.client()
    for _ in range(ROWS_MAX):
        assert client.create(name="other").status == 201
    yield
    status = installation.answer("status")
    assert any("events wait" in one["what"] for one in status["problems"])


@pytest.mark.parametrize("trouble", [missing, full])
def test_a_change_that_went_unrecorded_stands_in_status_until_it_is_mended(installation, trouble):
    client = installation.glance.client()
    image_id = client.create(name="n", kept="1", changed="1", removed="1").body["id"]
    installation.catch_up()
    with trouble(installation):
        operations = [
            {"op": "replace", "path": "/changed", "value": "2"},
            {"op": "remove", "path": "/removed"},
        ]
        assert client.patch(image_id, operations).status == 200
    assert client.get(image_id).body["changed"] == "2"
    status = installation.run("--json", "status")
    assert status.status == 1
    unrecorded = status.document["outbox"]["unrecorded"]
    assert f"image:{image_id}" in {one["aggregate"] for one in unrecorded}
    assert any("lack a change" in one["what"] for one in status.document["problems"])

    installation.catch_up()
    assert client.patch(image_id, [{"op": "add", "path": "/added", "value": "1"}]).status == 200
    installation.catch_up()
    still = installation.answer("status")["outbox"]["unrecorded"]
    assert f"image:{image_id}" not in {one["aggregate"] for one in still}
    events = installation.answer("events", "--image", image_id)
    assert [one["meta"]["origin"] for one in events] == ["OBSERVED", "RECONCILED", "OBSERVED"]
    rows = installation.answer("image", "history", image_id)["intervals"]
    told = {
        (row["key"], row["value"]): (row["set_via"], row["end_reason"])
        for row in rows
        if row["what"] == "property"
    }
    assert told == {
        ("kept", "1"): ("registered", None),
        ("changed", "1"): ("registered", "unseen"),
        ("changed", "2"): ("unseen", None),
        ("removed", "1"): ("registered", "unseen"),
        ("added", "1"): ("purge", None),
    }


# All that Glance takes; characters beyond the first plane it refuses itself.
HOSTILE = {
    "marks": "\u202eright to left\u2066\u200f",
    "escapes": "\x1b]0;pwned\x07\x1b[2J\x9b31m\r\n\t",
    "quotes": "'; DROP TABLE images; -- \\\" %s {} :name",
    "empty": "",
    "k\u202e\x1b[31m": "in the key",
}


def test_hostile_properties_go_the_whole_way(installation):
    client = installation.glance.client()
    huge = "é" * 1_000_000
    answer = client.create(name="\x1b[31m\u202e", **HOSTILE, huge=huge, nul="a\0b")
    assert answer.status == 201
    image_id = answer.body["id"]
    installation.catch_up()
    shown = installation.answer("image", "show", image_id)
    live = {one["key"]: one["value"] for one in shown["properties"]}
    digest = live.pop("huge")
    assert digest != huge[: len(digest)]
    assert len(digest) < 200
    assert live == {**HOSTILE, "nul": "a\ufffdb"}
    assert shown["attributes"]["name"] == "\x1b[31m\u202e"
    (anomaly,) = of_image(installation, image_id)
    assert anomaly["kind"] == "value_altered"
    assert {"huge", "nul"} == set(anomaly["details"]["keys"])

    later = [{"op": "replace", "path": "/nul", "value": "a"}]
    assert client.patch(image_id, later).status == 200
    installation.catch_up()
    shown = installation.answer("image", "show", image_id)
    live = {one["key"]: one["value"] for one in shown["properties"]}
    assert live == {**HOSTILE, "nul": "a", "huge": digest}
    for command in (
        ("image", "show", image_id),
        ("image", "history", image_id),
        ("image", "explain", image_id),
        ("events", "--image", image_id),
        ("anomalies",),
        ("sql", "SELECT * FROM image_properties"),
    ):
        told = installation.run(*command)
        assert told.status == 0
        assert all(line.isprintable() for line in told.out.splitlines())


def of_image(installation, image_id):
    return [one for one in installation.answer("anomalies") if one["aggregate_id"] == image_id]


def test_the_secrets_of_a_location_appear_nowhere(installation, elsewhere):
    client = installation.glance.client()
    image_id = client.create(name="elsewhere", k="v").body["id"]

    def locate(path: str) -> None:
        url = f"http://somebody:{SECRET}@127.0.0.1:{elsewhere}/{path}?token={SECRET}"
        location = {"url": url, "metadata": {"store": "web"}}
        add = [{"op": "add", "path": "/locations/-", "value": location}]
        assert client.patch(image_id, add).status == 200

    locate("image")
    assert SECRET in str(client.get(image_id).body["locations"])
    told = outbox_dump(installation)
    assert image_id in told
    with missing(installation):
        locate("copy")
    assert client.delete(image_id).status == 204
    told += outbox_dump(installation)
    installation.catch_up()
    for command in ("events", "status", "doctor", "anomalies"):
        for form in ((), ("--json",)):
            result = installation.run(*form, command)
            told += result.out + result.err
    assert SECRET not in told
    for file in (*installation.folder.iterdir(), installation.glance.log_path):
        assert SECRET.encode() not in file.read_bytes(), file.name
    history = installation.answer("image", "history", image_id)["intervals"]
    assert "location_count" in json.dumps(history)


def outbox_dump(installation):
    """Every value of every table of the outbox, as text."""
    engine = create_engine(installation.glance.database_url, poolclass=NullPool)
    tables = ("outbox", "counters", "sent", "relay", "stream")
    with engine.connect() as connection:
        return "".join(
            str(
                [tuple(row) for row in connection.execute(text(f"SELECT * FROM metaledger_{name}"))]
            )
            for name in tables
        )

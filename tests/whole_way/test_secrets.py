"""What is never recorded: a location's credentials and a request's token, looked for everywhere.

Everywhere is: the outbox, the topic, the read model, the logs of Glance, relay and projector, also
of a change that could not be recorded, and all that the command line says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from kafka import KafkaConsumer, TopicPartition
from sqlalchemy import MetaData, NullPool, create_engine, inspect, select, text

from ..glance.client import Client
from ..glance.service import Glance
from .conftest import Installation
from .test_whole_way import becomes

pytestmark = [pytest.mark.glance, pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow]

PASSWORD = "pa55w0rd-of-a-location"
METADATA = "s3cret-in-a-locations-metadata"
TOKEN = "t0ken-of-a-request"
SECRETS = tuple(secret.encode() for secret in (PASSWORD, METADATA, TOKEN))
SAID = ("status", "doctor", "events", "anomalies", "quarantine list")
SAID_OF_AN_IMAGE = ("image show", "image history", "image explain")
POLL_MS = 500


class Anything(BaseHTTPRequestHandler):
    """Answers as if whatever is asked for were there, and says nothing of it."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def location() -> Iterator[dict[str, object]]:
    """A location with credentials, that Glance finds data at."""
    server = HTTPServer(("127.0.0.1", 0), Anything)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://user:{PASSWORD}@127.0.0.1:{server.server_port}/image"
    yield {"url": url, "metadata": {"store": "web", "password": METADATA}}
    server.shutdown()
    thread.join()
    server.server_close()


def located(client: Client, location: dict[str, object]) -> str:
    """The id of an image that has the location."""
    image_id = str(client.create(name="located", key="v").body["id"])
    add = {"op": "add", "path": "/locations/-", "value": location}
    answer = client.patch(image_id, [add])
    assert answer.status == 200, answer
    return image_id


@contextmanager
def broken(url: str) -> Iterator[None]:
    """While it holds, nothing can be written into the outbox."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE metaledger_outbox RENAME TO metaledger_gone"))
    yield
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE metaledger_gone RENAME TO metaledger_outbox"))


def held(url: str, prefix: str = "") -> bytes:
    """All that the tables with this prefix hold, of all schemas."""
    engine, found = create_engine(url, poolclass=NullPool), b""
    for schema in inspect(engine).get_schema_names():
        if schema == "information_schema":
            continue
        metadata = MetaData(schema)
        metadata.reflect(engine)
        with engine.connect() as connection:
            for table in metadata.sorted_tables:
                if table.name.startswith(prefix):
                    found += b"".join(map(_bytes, connection.execute(select(table))))
    return found


def _bytes(row: object) -> bytes:
    values = tuple(row)  # type: ignore[arg-type]
    return b"\n".join(
        bytes(it) if isinstance(it, bytes | memoryview) else str(it).encode() for it in values
    )


def in_the_topic(bootstrap: str, topic: str) -> bytes:
    """Keys, headers and values of all records."""
    found = b""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(one) < ends[one] for one in partitions):
            for records in consumer.poll(timeout_ms=POLL_MS).values():
                for record in records:
                    headers = b"".join(value for _, value in record.headers)
                    found += record.key + headers + record.value
    finally:
        consumer.close()
    return found


def test_no_secret_stands_anywhere(
    installation: Installation,
    glance: Glance,
    databases: tuple[str, str],
    location: dict[str, object],
) -> None:
    client = glance.client(roles=f"member,admin,{TOKEN}")
    glance_database, read_model = databases
    image_id = located(client, location)
    with broken(glance_database):
        located(client, location)
    assert "changes not recorded" in glance.log_path.read_text()
    # It is there to be found, in Glance's own table.
    assert PASSWORD.encode() in held(glance_database, "image_locations")
    outbox = held(glance_database, "metaledger_")
    assert image_id.encode() in outbox

    relay = installation.start("relay", ["relay"])
    projector = installation.start("projector", ["project", "--follow"])
    history = "image", "history", image_id
    becomes(lambda: "location_count" in str(installation.answer(*history)), expected=True)
    places = {
        "the outbox": outbox,
        "the read model": held(read_model),
        "Glance's log": glance.log_path.read_bytes(),
        "the relay's log": relay.log().encode(),
        "the projector's log": projector.log().encode(),
        "the configuration's folder": b"".join(map(_content, installation.folder.iterdir())),
    }
    topic = read_model.rpartition("/")[2]
    places["the topic"] = in_the_topic(_bootstrap(installation), topic)
    commands = [it.split() for it in SAID] + [[*it.split(), image_id] for it in SAID_OF_AN_IMAGE]
    for command in commands:
        for options in ([], ["--json"]):
            done = installation.run(*options, *command)
            places[" ".join([*options, *command])] = (done.stdout + done.stderr).encode()
    assert image_id.encode() in places["the topic"]
    assert image_id.encode() in places["the read model"]
    leaks = [(place, it) for place, content in places.items() for it in SECRETS if it in content]
    assert leaks == []


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _bootstrap(installation: Installation) -> str:
    url = installation.configuration.read_text().split('"')[1]
    return url.removeprefix("kafka://").partition("/")[0]

"""The servers themselves: each does one real thing, and keeps its data when it is killed."""

import json
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from .interface import Broker, MariaDB, Postgres
from .process import accepts_connections, free_port, wait_until

TOPIC = "metaledger-test-servers"


def create_topic(broker: Broker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    admin.close()


def produce(broker: Broker, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    producer.send(TOPIC, value).get(timeout=30)
    producer.close()


def consume(broker: Broker, *, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap, enable_auto_commit=False, consumer_timeout_ms=30_000
    )
    partition = TopicPartition(TOPIC, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    values = [next(consumer).value for _ in range(count)]
    consumer.close()
    return values


def query(url: str, statement: str) -> object:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        result = connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None


def test_a_broker_keeps_its_records_when_it_is_killed(own_broker: Broker) -> None:
    create_topic(own_broker)
    produce(own_broker, b"before")

    own_broker.kill()
    own_broker.start()
    produce(own_broker, b"after")

    assert consume(own_broker, count=2) == [b"before", b"after"]


def test_a_frozen_broker_goes_on(own_broker: Broker) -> None:
    create_topic(own_broker)
    own_broker.pause()
    own_broker.resume()
    produce(own_broker, b"thawed")
    assert consume(own_broker, count=1) == [b"thawed"]


def test_the_shared_broker_takes_a_record_of_more_than_a_megabyte(broker: Broker) -> None:
    create_topic(broker)
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=2_000_000)
    producer.send(TOPIC, bytes(1_200_000)).get(timeout=30)
    producer.close()


def test_a_database_is_new_and_empty(postgres_url: str) -> None:
    assert query(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


def test_a_mariadb_database_is_new_and_empty(mariadb_url: str) -> None:
    tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE()"
    assert query(mariadb_url, tables) == 0


def test_a_database_is_dropped_under_whoever_uses_it(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    query(url, "CREATE TABLE used (id int)")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        connection.execute(text("SELECT * FROM used"))
        mariadb.drop_database(url)
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
        connection.invalidate()


def test_mariadb_keeps_what_was_committed_when_it_is_killed(own_mariadb: MariaDB) -> None:
    url = own_mariadb.create_database()
    query(url, "CREATE TABLE kept AS SELECT 7 AS value")

    own_mariadb.kill()
    with pytest.raises(OperationalError):
        query(url, "SELECT 1")
    own_mariadb.start()

    assert query(url, "SELECT value FROM kept") == 7


@pytest.mark.parametrize("end", ["kill", "crash"])
def test_postgres_keeps_what_was_committed_however_it_ends(
    own_postgres: Postgres, end: str
) -> None:
    url = own_postgres.create_database()
    query(url, "CREATE TABLE kept AS SELECT 7 AS value")

    getattr(own_postgres, end)()
    with pytest.raises(OperationalError):
        query(url, "SELECT 1")
    own_postgres.start()

    assert query(url, "SELECT value FROM kept") == 7


def test_on_a_frozen_postgres_nobody_goes_on(own_postgres: Postgres) -> None:
    engine = create_engine(own_postgres.create_database(), poolclass=NullPool)
    with engine.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(text("SELECT 1"))
        own_postgres.pause()
        asked = pool.submit(connection.execute, text("SELECT 1"))
        assert not wait([asked], timeout=0.5).done
        own_postgres.resume()
        assert asked.result(timeout=30).scalar() == 1


def test_the_registry_gives_back_a_schema(registry_url: str) -> None:
    schema = {"type": "record", "name": "Kept", "fields": [{"name": "value", "type": "string"}]}
    request = urllib.request.Request(
        f"{registry_url}/subjects/test-servers/versions",
        data=json.dumps({"schema": json.dumps(schema)}).encode(),
        headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        schema_id = json.load(answer)["id"]
    with urllib.request.urlopen(f"{registry_url}/schemas/ids/{schema_id}", timeout=30) as answer:
        assert json.loads(json.load(answer)["schema"]) == schema


PARENT = """
import os, signal, sys
from pathlib import Path
root, folder, port = sys.argv[1:]
sys.path.insert(0, root)
from tests.servers.process import HOST, LocalServer, accepts_connections
command = [sys.executable, "-m", "http.server", "--bind", HOST, port]
server = LocalServer(
    command, folder=Path(folder), answers=lambda: accepts_connections(int(port))
)
server.start()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    port = free_port()
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", PARENT, root, tmp_path, str(port)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert wait_until(lambda: not accepts_connections(port), alive=lambda: True, timeout_s=10)

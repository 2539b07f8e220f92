"""A topic that lost history, would lose it, or is another than it was: refused by who opens it."""

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from sqlalchemy import NullPool, create_engine, select

from metaledger.producers.tables import outbox

from ..services.conftest import Result
from ..services.samples import SCENARIO, SCENARIO_IMAGE, file_of, registered
from ..services.test_kafka import emit_into
from ..services.waiting import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@dataclass(frozen=True)
class Topic:
    """A topic under a command line, and the broker's administration of it."""

    name: str
    admin: KafkaAdminClient
    run: Callable[..., Result]

    def make(self):
        command = ("topic", "create", "--partitions", 2, "--replication", 1)
        assert self.run(*command).status == 0

    def change(self, setting, value):
        asked = ConfigResource(ConfigResourceType.TOPIC, self.name, {setting: value})
        self.admin.alter_configs([asked])


@pytest.fixture
def topic(broker, metaledger, monkeypatch):
    """A topic with two events that are projected; the environment names it."""
    name = f"faults-{uuid.uuid4()}"
    monkeypatch.setenv("METALEDGER_LEDGER_URL", f"kafka://{broker.bootstrap}/{name}")
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        topic = Topic(name, admin, metaledger)
        topic.make()
        for command in (("emit", SCENARIO), ("project",)):
            assert metaledger(*command).status == 0
        yield topic


def compacts(topic):
    topic.change("cleanup.policy", "compact")


def expires(topic):
    topic.change("retention.ms", "604800000")


def was_made_anew(topic):
    topic.admin.delete_topics([topic.name])
    while topic.name in topic.admin.list_topics():
        pass
    topic.make()


def was_made_anew_and_has_as_much(topic):
    was_made_anew(topic)
    file = file_of(Path("f.jsonl"), *(registered(image) for image in "abcdefghijklmnop"))
    assert topic.run("emit", file).status == 0


def has_another_number_of_partitions(topic):
    topic.admin.create_partitions({topic.name: 3})
    topic.admin.wait_for_topics([topic.name])


WOULD_LOSE = [(compacts, "cleanup.policy"), (expires, "retention.ms")]
IS_ANOTHER = [
    (was_made_anew, "made anew"),
    (was_made_anew_and_has_as_much, "made anew"),
    (has_another_number_of_partitions, "3 partitions"),
]


def assert_refused(result, *words):
    assert (result.status, result.out) == (2, "")
    # A daemon's log has said by then that it started.
    *before, line = result.err.splitlines()
    assert [json.loads(one)["level"] for one in before] in ([], ["info"])
    assert line.startswith("metaledger: ")
    assert all(word in line for word in words)


def wrong(metaledger):
    result = metaledger("--json", "doctor")
    assert result.status == 1
    return {one["check"]: one["text"] for one in result.document["findings"] if not one["fine"]}


@pytest.mark.parametrize(("harm", "setting"), WOULD_LOSE)
def test_a_topic_that_would_lose_history_is_refused(metaledger, topic, harm, setting):
    harm(topic)
    for command in (
        ("project",),
        ("project", "--follow"),
        ("relay", "--spool", "spool.db"),
        ("emit", SCENARIO),
        ("events",),
        ("topic", "check"),
    ):
        assert_refused(metaledger(*command), topic.name, setting)
    assert setting in wrong(metaledger)["ledger"]
    status = metaledger("--json", "status")
    assert status.status == 1
    assert setting in json.dumps(status.document["problems"])


@pytest.mark.parametrize(("harm", "word"), IS_ANOTHER)
def test_a_topic_that_is_another_is_refused_and_nothing_is_projected(
    metaledger, start, topic, harm, word
):
    before = metaledger("--json", "image", "show", SCENARIO_IMAGE).document
    harm(topic)
    assert_refused(metaledger("project"), word)
    following = start("project", "--follow")
    out, err = following.communicate(timeout=60)
    assert_refused(Result(following.returncode, out, err), word)
    assert "checkpoint" in wrong(metaledger)
    [problem] = metaledger("--json", "status").document["problems"]
    assert "nothing is projected" in problem["what"]
    assert metaledger("--json", "image", "show", SCENARIO_IMAGE).document == before
    assert metaledger("image", "show", "a").status == 1


@pytest.mark.parametrize("harm", [was_made_anew, has_another_number_of_partitions])
def test_a_relay_does_not_go_on_into_another_topic(start, topic, harm):
    relay = start("relay", "--spool", "spool.db")
    assert any("relay.started" in line for line in relay.stderr)
    relay.terminate()
    assert relay.wait() == 0
    harm(topic)
    again = start("relay", "--spool", "spool.db")
    out, err = again.communicate(timeout=60)
    assert_refused(Result(again.returncode, out, err), "this outbox", "outbox reseed")


def test_daemons_that_run_do_not_go_on_into_a_topic_that_was_made_anew(start, topic, home):
    relay = start("relay", "--spool", "spool.db")
    projector = start("project", "--follow")
    for daemon in (relay, projector):
        assert any(".started" in line for line in daemon.stderr)
    # Into every partition, so that the relay knows an offset of each.
    for name in ("before", *map(str, range(9))):
        emit_into(home / "spool.db", name)
    wait_for(lambda: topic.run("image", "show", "before").status == 0)
    was_made_anew(topic)
    emit_into(home / "spool.db", "after")
    for daemon in (relay, projector):
        out, err = daemon.communicate(timeout=60)
        assert (daemon.returncode, out) == (2, "")
        assert re.search("made anew|is not the log", err.splitlines()[-1])
    assert topic.run("image", "show", "before").status == 0
    assert topic.run("image", "show", "after").status == 1
    # Whatever the new topic took of it, the outbox has it still.
    assert "after" in waiting_in(home / "spool.db")


def waiting_in(spool):
    engine = create_engine(f"sqlite:///{spool}", poolclass=NullPool)
    with engine.connect() as connection:
        names = connection.scalars(select(outbox.c.aggregate))
        return {name.removeprefix("image:") for name in names}


def test_a_topic_that_comes_to_expire_under_a_daemon_stands_in_status(start, topic):
    projector = start("project", "--follow")
    assert any(".started" in line for line in projector.stderr)
    expires(topic)
    status = topic.run("--json", "status")
    assert status.status == 1
    assert "retention.ms" in json.dumps(status.document["problems"])

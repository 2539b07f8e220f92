"""The relay between an outbox and an embedded ledger: no server at all."""

import os
import signal

import pytest
from sqlalchemy import create_engine

from metaledger.producers.outbox import Outbox
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.jsonform import parse_line

from .samples import SCENARIO, SCENARIO_IMAGE
from .waiting import wait_for


@pytest.fixture
def service(metaledger, home):
    """A service's database with an outbox, and two events in it."""
    url = f"sqlite:///{home}/service.db"
    (home / "service.db").touch()
    assert metaledger("outbox", "install", url).status == 0
    producer = ProducerSettings(service="test", host="here")
    outbox = Outbox(producer, producer.codec())
    engine = create_engine(url)
    with engine.begin() as connection:
        lines = SCENARIO.read_text().splitlines()
        outbox.record(connection, [parse_line(line, producer.context()) for line in lines])
    engine.dispose()
    return url


def test_an_embedded_ledger_is_made_and_filled(metaledger, service, start):
    relay = start("relay", service)
    show = ("image", "show", SCENARIO_IMAGE)
    # The ledger may be there and still empty.
    wait_for(lambda: metaledger("project").status == 0 and metaledger(*show).status == 0)
    relay.send_signal(signal.SIGTERM)
    out, _ = relay.communicate(timeout=60)
    assert (relay.returncode, out) == (0, "")
    shown = metaledger("--json", "outbox", "status", service).document
    assert (shown["lease_owner"], shown["held_aggregates"]) == (None, 0)


def test_a_projector_may_be_there_first(metaledger, service, start):
    projector = start("project", "--follow")
    assert "projector.started" in projector.stderr.readline()
    start("relay", service)
    wait_for(lambda: metaledger("image", "show", SCENARIO_IMAGE).status == 0)


@pytest.mark.usefixtures("service")
def test_a_projector_that_follows_leaves_the_processor_to_services(start):
    projector = start("project", "--follow")
    assert "projector.started" in projector.stderr.readline()
    ours, its = (os.getpriority(os.PRIO_PROCESS, process) for process in (0, projector.pid))
    assert its > ours


def test_metrics_are_written_where_the_settings_say(service, start, home):
    config = home / "c.toml"
    config.write_text(f'[relay]\noutbox = "{service}"\nmetrics_file = "relay.prom"\n')
    start("--config", config, "relay")
    wait_for((home / "relay.prom").exists)
    assert "metaledger_relay_sent_total" in (home / "relay.prom").read_text()


@pytest.mark.parametrize(
    "arguments",
    [[], ["sqlite:///nope.db"], ["sqlite:///a.db", "--spool", "b.db"], ["nonsense"]],
    ids=" ".join,
)
def test_what_cannot_be_relayed_is_one_line(metaledger, home, arguments):
    result = metaledger("relay", *arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("is_in_file", [False, True])
def test_a_spool_makes_no_ledger_that_nobody_named(home, start, is_in_file):
    spool, config = home / "spool.db", home / "c.toml"
    Spool(spool, ProducerSettings(service="nova-compute", host="here")).install()
    config.write_text('[relay]\nspool = "spool.db"\n')
    arguments = ["--config", config, "relay"] if is_in_file else ["relay", "--spool", spool]
    refused = start(*arguments)
    out, err = refused.communicate(timeout=60)
    assert (refused.returncode, out) == (2, "")
    assert err.startswith("metaledger: into which ledger does ")
    assert err.count("\n") == 1
    assert not (home / "metaledger.db").exists()
    # Bound to none: it goes where it is sent, be it a file.
    start("--ledger", f"sqlite:///{home}/chosen.db", *arguments)
    wait_for((home / "chosen.db").exists)


def test_a_spool_goes_into_the_ledger_that_is_there(metaledger, home, start):
    assert metaledger("emit", SCENARIO).status == 0
    relay = start("relay", "--spool", home / "spool.db")
    assert "relay.started" in relay.stderr.readline()
    assert "relay.spool_made" in relay.stderr.readline()

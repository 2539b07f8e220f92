import re
from datetime import timedelta

import pytest
from sqlalchemy import create_engine

from metaledger.producers.administration import install
from metaledger.producers.glance.tables import IMAGES
from metaledger.producers.nova.tables import INSTANCES
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.identity import system_clock
from metaledger.services.examination import examine
from metaledger.services.settings import load_settings

from .samples import SCENARIO, file_of, line, registered

CONF = """
[DEFAULT]
debug = true
debug = false
bind_port = %(nothing)s
[database]
connection = sqlite:///{home}/{service}.db
{parameters}
[metaledger]
{settings}
"""


def hooked(home, service, tables):
    """Writes a service's configuration; its database has its tables and an outbox."""
    engine = create_engine(f"sqlite:///{home}/{service}.db")
    tables.create_all(engine)
    install(engine)
    engine.dispose()

    def write(parameters="connection_parameters = plugin=metaledger", settings=""):
        conf = home / f"{service}.conf"
        given = {"parameters": parameters, "settings": settings}
        conf.write_text(CONF.format(home=home, service=service, **given))
        return conf

    return write


@pytest.fixture
def glance(home):
    return hooked(home, "glance", IMAGES.metadata)


@pytest.fixture
def nova(home):
    return hooked(home, "nova", INSTANCES.metadata)


@pytest.fixture
def findings(metaledger):
    def ask(*arguments):
        document = metaledger("--json", "doctor", *arguments).document
        return {one["check"]: one for one in document["findings"]}

    return ask


def test_a_good_installation_is_fine(metaledger, glance):
    metaledger("emit", SCENARIO)
    metaledger("project")
    result = metaledger("--json", "doctor", "--glance-conf", glance(settings="strict = false"))
    assert result.status == 0
    assert result.document["fine"]
    assert "ok" in metaledger("doctor").out


def test_what_is_not_there_yet_is_said_and_nothing_is_made(metaledger, home):
    result = metaledger("--json", "doctor")
    assert result.status == 1
    fine = {one["check"]: one["fine"] for one in result.document["findings"]}
    assert fine == {
        "versions": True,
        "configuration": True,
        "event size": True,
        "ledger": False,
        "read model": False,
        "checkpoint": None,
        "owners of event types": None,
    }
    assert list(home.iterdir()) == []


def test_a_read_model_of_another_log_is_found(metaledger, home, findings):
    metaledger("emit", SCENARIO)
    metaledger("project")
    (home / "metaledger.db").unlink()
    metaledger("emit", SCENARIO)
    assert findings()["checkpoint"]["fine"] is False
    assert metaledger("project").status == 2


def through(stream, event_type, instance, service="x", **data):
    """An event of an instance as a service's outbox or spool brings it."""
    head = {"stream_id": stream, "stream_seq": 1, "epoch": 1, "service": service}
    return line(event_type, 0, meta=head, instance_uuid=instance, **data)


def report(stream):
    """How far a service's outbox or spool is."""
    head = {"aggregate": f"stream:{stream}/0", "stream_id": stream, "stream_seq": 1, "epoch": 1}
    counts = {"rows_waiting": 0, "rows_max": 1, "unrecorded_aggregates": 0}
    return line("SourceProgressed", 0, meta=head, **counts)


@pytest.fixture
def owners(metaledger, home, findings):
    """What is found about who tells what."""

    def tell(*events):
        assert metaledger("emit", file_of(home / "f.jsonl", *events)).status == 0
        assert metaledger("project").status == 0
        return findings()["owners of event types"]

    return tell


def test_a_type_with_two_owners_is_found_until_a_week_after_its_end(owners):
    other = registered("i-2")
    other["meta"]["service"] = "another"
    found = owners(registered(), other)
    assert found["fine"] is False
    assert re.match(
        r"ImageRegistered is written by another \(1 from files, the last at \S+Z\) and metaledger "
        r"\(1 from files, the last at \S+Z\): .*this one's is the engine plugin",
        found["text"],
    )
    settings = load_settings(ledger=None, read_model=None, config=None, environment={})
    for days, fine in ((6, False), (8, True)):
        later = system_clock() + timedelta(days=days)
        [found] = [
            one
            for one in examine(settings, {}, clock=lambda now=later: now)
            if one.check == "owners of event types"
        ]
        assert found.fine is fine


def test_what_a_file_tells_in_a_services_name_is_found(owners):
    emitted = line("InstanceBooted", 0, meta={"service": "x"}, instance_uuid="tried")
    found = owners(report("s-1"), through("s-1", "InstanceBooted", "booted"), emitted)
    assert found["fine"] is False
    for teller in ("x (1, the last at", "x (1 from files, the last at"):
        assert teller in found["text"]


def test_a_stream_that_tells_what_two_places_own_is_found(owners):
    found = owners(
        report("s-1"),
        through("s-1", "InstanceBooted", "a"),
        through("s-1", "InstanceUnrescued", "b"),
    )
    assert found["fine"] is False
    assert "the stream s-1 tells InstanceBooted (1, the last" in found["text"]
    assert "InstanceUnrescued (1, the last" in found["text"]


def test_cells_and_compute_hosts_under_one_name_are_no_overlap(owners):
    layout = {"version": "1.0", "backend": "flat", "format": "raw", "size_bytes": 1}
    disk = {"disk": "disk", "layout": layout | {"source": {"kind": "IMAGE"}}}
    found = owners(
        *map(report, ("cell1", "cell2", "host1", "host2")),
        through("cell1", "InstanceBooted", "a"),
        through("cell2", "InstanceBooted", "b"),
        through("host1", "InstanceUnrescued", "a"),
        through("host1", "DiskCreationStarted", "c", **disk),
        through("host2", "DiskCreationStarted", "d", **disk),
    )
    assert found["fine"] is True
    assert found["text"].startswith("3 event types observed in the last 7 days")


def test_a_guard_that_asks_a_stream_that_never_reported_is_found(metaledger, home, findings):
    metaledger("emit", file_of(home / "f.jsonl", report("s-1")))
    metaledger("project")
    config = home / "c.toml"
    config.write_text('guard_streams = ["s-1"]')
    assert findings("--config", config)["guard's streams"]["fine"] is True
    config.write_text('guard_streams = ["s-1", "s-2"]')
    found = findings("--config", config)["guard's streams"]
    assert found["fine"] is False
    assert found["text"].startswith("guard_streams names s-2, and none of that name ever reported")


def test_a_size_that_the_log_does_not_take_is_found(home, findings):
    config = home / "c.toml"
    config.write_text("event_bytes_max = 2000000")
    assert findings("--config", config)["event size"]["fine"] is False


@pytest.mark.parametrize(
    ("parameters", "settings", "check", "text"),
    [
        ("", "", "glance: plugin", "connection_parameters = plugin=metaledger"),
        ("connection_parameters = plugin=other", "", "glance: plugin", "does not load"),
        (None, "strct = true", "glance: [metaledger]", "has no setting strct"),
        (None, "deployment_id = north", "glance: [metaledger]", "for deployment north"),
        (None, "event_bytes_max = 950000", "glance: [metaledger]", "at most 900000"),
        (None, "schema_ids_file = /x", "glance: [metaledger]", "Confluent"),
    ],
)
def test_what_is_wrong_with_a_hooked_glance_is_found(
    glance, findings, parameters, settings, check, text
):
    given = {"settings": settings} | ({} if parameters is None else {"parameters": parameters})
    found = findings("--glance-conf", glance(**given))[check]
    assert found["fine"] is False
    assert text in found["text"]


def test_a_hooked_nova_is_looked_at_as_glance_is(nova, findings):
    found = findings("--nova-conf", nova())
    assert [found[f"nova: {it}"]["fine"] for it in ("plugin", "[metaledger]", "outbox")] == [
        True
    ] * 3
    assert findings("--nova-conf", nova(parameters=""))["nova: plugin"]["fine"] is False


def test_the_configuration_of_another_service_is_found(glance, nova, findings):
    found = findings("--glance-conf", nova(), "--nova-conf", glance())
    for service, table in (("glance", "image_locations"), ("nova", "compute_nodes")):
        assert found[f"{service}: outbox"]["fine"] is False
        assert found[f"{service}: outbox"]["text"] == (
            f"this is no database of {service}: it has no table {table}; its URL stands in "
            f"{service}'s own configuration, [database] connection"
        )


def test_a_hooked_nova_compute_is_looked_at(home, findings):
    conf, spool = home / "nova.conf", home / "spool.db"
    lines = ["[oslo_messaging_notifications]", "driver = metaledger", "driver = messagingv2"]
    names = [f"nova-compute: {name}" for name in ("driver", "[metaledger]", "spool")]

    def fine(*more: str) -> list[bool]:
        conf.write_text("\n".join([*lines, "[metaledger]", "disks = false", *more]))
        found = findings("--compute-conf", conf)
        return [found[name]["fine"] for name in names]

    assert fine(f"spool = {spool}") == [True, True, False]
    Spool(spool, ProducerSettings(service="nova-compute", host="here")).install()
    assert fine(f"spool = {spool}") == [True, True, True]
    assert fine(f"spool = {spool}", "dsks = true") == [True, False, True]
    assert fine(f"spool = {spool}", "guard = true") == [True, False, True]
    told = f"spool = {spool}", "guard = true", "guard_command = metaledger"
    assert fine(*told) == [True, True, True]
    lines.remove("driver = metaledger")
    assert fine(f"spool = {spool}") == [False, True, True]


def test_the_files_of_a_nova_compute_are_read_as_it_reads_them(home, findings):
    """Several, as it is started: a later one wins, and its drivers are beside those before."""
    first, second = home / "nova.conf", home / "nova-compute.conf"
    spool = home / "spool.db"
    Spool(spool, ProducerSettings(service="nova-compute", host="here")).install()
    first.write_text(
        "[oslo_messaging_notifications]\ndriver = messagingv2\ndriver = metaledger\n"
        "[metaledger]\nspool = /nowhere\nguard_command = metaledger\n"
    )
    second.write_text(
        "[oslo_messaging_notifications]\ndriver =\n  log\n"
        f"[metaledger]\nguard = true\nspool = {spool}\n"
    )
    found = findings("--compute-conf", first, "--compute-conf", second)
    checks = [found[f"nova-compute: {name}"] for name in ("driver", "[metaledger]", "spool")]
    assert [one["fine"] for one in checks] == [True, True, True]
    assert checks[0]["text"] == f"{first} with {second} loads it, with 2 others"
    assert findings("--compute-conf", first)["nova-compute: spool"]["fine"] is False
    alone = findings("--compute-conf", second)
    assert alone["nova-compute: driver"]["fine"] is False
    assert "guard_command" in alone["nova-compute: [metaledger]"]["text"]
    lacking = findings("--compute-conf", first, "--compute-conf", home / "none.conf")
    said = lacking["nova-compute: driver"]["text"]
    assert said == f"{home}/none.conf cannot be read: No such file or directory"


def test_a_compute_host_needs_no_read_model(metaledger, home, findings):
    conf, spool = home / "nova.conf", home / "spool.db"
    Spool(spool, ProducerSettings(service="nova-compute", host="here")).install()
    conf.write_text(
        f"[oslo_messaging_notifications]\ndriver = metaledger\n[metaledger]\nspool = {spool}\n"
    )
    metaledger("emit", SCENARIO)
    assert metaledger("doctor", "--compute-conf", conf).status == 0
    assert findings("--compute-conf", conf)["read model"]["fine"] is None
    named = ("--read-model", "sqlite:///named.db", "--compute-conf", conf)
    assert findings(*named)["read model"]["fine"] is False
    assert metaledger("doctor").status == 1


@pytest.mark.parametrize(
    "parameters",
    [
        "connection_parameters = plugin=metaledger",
        "connection_parameters = charset=utf8&plugin=metaledger",
        "connection_parameters = plugin=other,metaledger",
    ],
)
def test_the_plugin_is_found_beside_others(glance, findings, parameters):
    assert findings("--glance-conf", glance(parameters))["glance: plugin"]["fine"]


def test_a_glance_without_an_outbox_is_found(home, glance, findings):
    conf = glance()
    (home / "glance.db").write_bytes(b"")
    engine = create_engine(f"sqlite:///{home}/glance.db")
    IMAGES.metadata.create_all(engine)
    engine.dispose()
    assert "outbox install" in findings("--glance-conf", conf)["glance: outbox"]["text"]

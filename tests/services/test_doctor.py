import pytest

from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool

from .samples import SCENARIO, file_of, line, registered

CONF = """
[DEFAULT]
debug = true
debug = false
bind_port = %(nothing)s
[database]
connection = sqlite:///{home}/glance.db
{parameters}
[metaledger]
{settings}
"""


@pytest.fixture
def glance(metaledger, home):
    """Writes a service's configuration, Glance's or Nova's; its database has an outbox."""
    (home / "glance.db").touch()
    assert metaledger("outbox", "install", f"sqlite:///{home}/glance.db").status == 0

    def write(parameters="connection_parameters = plugin=metaledger", settings=""):
        conf = home / "glance-api.conf"
        conf.write_text(CONF.format(home=home, parameters=parameters, settings=settings))
        return conf

    return write


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


def test_a_type_with_two_owners_is_found(metaledger, home, findings):
    other = registered("i-2")
    other["meta"]["service"] = "another"
    metaledger("emit", file_of(home / "f.jsonl", registered(), other))
    metaledger("project")
    owners = findings()["owners of event types"]
    assert owners["fine"] is False
    assert "ImageRegistered is written by another and metaledger" in owners["text"]
    assert "this one's is the engine plugin" in owners["text"]


def test_a_guard_that_asks_a_stream_that_never_reported_is_found(metaledger, home, findings):
    head = {"aggregate": "stream:s-1/0", "stream_id": "s-1", "stream_seq": 1, "epoch": 1}
    counts = {"rows_waiting": 0, "rows_max": 1, "unrecorded_aggregates": 0}
    report = line("SourceProgressed", 0, meta=head, **counts)
    metaledger("emit", file_of(home / "f.jsonl", report))
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


def test_a_hooked_nova_is_looked_at_as_glance_is(glance, findings):
    found = findings("--nova-conf", glance())
    assert [found[f"nova: {it}"]["fine"] for it in ("plugin", "[metaledger]", "outbox")] == [
        True
    ] * 3
    assert findings("--nova-conf", glance(parameters=""))["nova: plugin"]["fine"] is False


def test_a_hooked_nova_compute_is_looked_at(home, findings):
    conf, spool = home / "nova.conf", home / "spool.db"
    lines = ["[oslo_messaging_notifications]", "driver = metaledger", "driver = messagingv2"]
    names = [f"nova-compute: {name}" for name in ("driver", "[metaledger]", "spool")]

    def fine(*more: str) -> list[bool]:
        conf.write_text("\n".join([*lines, "[metaledger]", "disks = true", *more]))
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
    assert "outbox install" in findings("--glance-conf", conf)["glance: outbox"]["text"]

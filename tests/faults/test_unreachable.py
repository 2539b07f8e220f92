"""Whatever a command needs and cannot reach is one line and status 3, and no password is told."""

import pytest

from metaledger.schemas.log import _kafka_client

from ..services.samples import SCENARIO

SECRET = "s3cret-in-the-url"
# Nobody listens on port 1, so that a connection is refused at once.
DATABASE = f"postgresql://somebody:{SECRET}@127.0.0.1:1/d"
BROKER = "kafka://127.0.0.1:1/t"
CONFIGURATION = f"""\
[kafka]
sasl_mechanism = "PLAIN"
sasl_username = "somebody"
sasl_password = "{SECRET}"
[relay]
outbox = "{DATABASE}"
"""
WHY = ("--reason", "r")
GUARD = ("guard", "--hypervisor", "h", "--host", "c", "--instance", "u")
OF_THE_MODEL = [
    ("project",),
    ("project", "--follow"),
    ("migrate",),
    ("image", "show", "i"),
    ("image", "history", "i"),
    ("image", "explain", "i"),
    ("image", "lineage", "i"),
    ("snapshot", "show", "i"),
    ("instance", "show", "u"),
    ("instance", "metadata", "u"),
    ("instance", "disks", "u"),
    ("hypervisor", "show", "h"),
    ("hypervisor", "history", "h"),
    ("hypervisor", "unmapped"),
    GUARD,
    ("anomalies",),
    ("sql", "SELECT 1"),
    ("quarantine", "list"),
    ("quarantine", "show", "0:1"),
    ("quarantine", "release", "image:i"),
    ("quarantine", "skip", "0:1", *WHY),
    ("quarantine", "accept-gap", "image:i", *WHY),
]
OF_THE_LOG = [
    ("project",),
    ("project", "--follow"),
    ("relay", "--spool", "spool.db"),
    ("emit", str(SCENARIO)),
    ("events",),
    ("events", "--follow"),
    GUARD,
    ("topic", "create"),
    ("topic", "check"),
    ("quarantine", "release", "image:i"),
]
OF_THE_OUTBOX = [
    ("relay",),
    ("outbox", "install"),
    ("outbox", "status"),
    ("outbox", "reseed"),
]
OF_A_SERVICE = [
    (command, service, *options)
    for service in ("glance", "nova")
    for command, *options in (("import",), ("reconcile",), ("reconcile", "--mend"))
]
ALL_PARTS = [("status",), ("doctor",)]


def words(command):
    return " ".join(command[:2])


@pytest.fixture
def configured(home):
    """A configuration with every password that there is."""
    (home / "c.toml").write_text(CONFIGURATION)
    return ("--config", "c.toml")


@pytest.fixture
def impatient(monkeypatch):
    """Asks a broker for less long than a user does; how long that is, is a test of the log's."""
    monkeypatch.setattr(_kafka_client, "CONNECT_TIMEOUT_S", 0.1)


def assert_unreachable(result):
    assert (result.status, result.out) == (3, "")
    assert result.err.startswith("metaledger: ")
    assert result.err.count("\n") == 1
    assert "127.0.0.1:1" in result.err
    assert SECRET not in result.err


@pytest.mark.parametrize("command", OF_THE_MODEL, ids=words)
def test_without_its_database_a_command_is_one_line(metaledger, configured, command):
    assert metaledger("emit", SCENARIO).status == 0
    assert_unreachable(metaledger(*configured, "--read-model", DATABASE, *command))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("command", OF_THE_LOG, ids=words)
def test_without_its_broker_a_command_is_one_line(metaledger, configured, command):
    assert metaledger("emit", SCENARIO).status == 0
    assert metaledger("project").status == 0
    assert_unreachable(metaledger(*configured, "--ledger", BROKER, *command))


@pytest.mark.parametrize("command", OF_THE_OUTBOX, ids=words)
def test_without_the_services_database_a_command_is_one_line(metaledger, configured, command):
    assert_unreachable(metaledger(*configured, *command))


@pytest.mark.parametrize("command", OF_A_SERVICE, ids=" ".join)
def test_without_the_database_of_a_cold_start_a_command_is_one_line(
    metaledger, configured, command
):
    assert metaledger("emit", SCENARIO).status == 0
    assert metaledger("project").status == 0
    assert_unreachable(metaledger(*configured, *command, DATABASE))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("command", ALL_PARTS, ids=words)
def test_who_looks_at_all_parts_tells_of_each(metaledger, configured, command):
    options = (*configured, "--ledger", BROKER, "--read-model", DATABASE)
    for form in ((), ("--json",)):
        result = metaledger(*options, *form, *command)
        assert (result.status, result.err) == (3, "")
        assert SECRET not in result.out
    told = [one for one in found(result.document) if "127.0.0.1:1" in one]
    assert len(told) == 3
    assert not any("\n" in one for one in told)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:a@{SECRET}@127.0.0.1:1/d",
        f"postgresql://u:a/{SECRET}@127.0.0.1:1/d",
        f"postgresql://u:{SECRET}@127.0.0.1:port/d",
        f"postgresql://127.0.0.1:1/d?password={SECRET}",
        f"nosuch://u:{SECRET}@127.0.0.1:1/d",
    ],
)
def test_a_url_that_is_written_badly_is_one_line_without_its_password(metaledger, url):
    for command in (("--read-model", url, "anomalies"), ("outbox", "status", url)):
        result = metaledger(*command)
        assert (result.status in {2, 3}, result.out, result.err.count("\n")) == (True, "", 1)
        assert SECRET not in result.err
    for command in ALL_PARTS:
        result = metaledger("--read-model", url, *command)
        assert result.status in {1, 3}
        assert SECRET not in result.out + result.err


def test_a_password_in_the_ledgers_url_is_refused_and_not_told(metaledger):
    for command in (("events",), ("status",)):
        result = metaledger("--ledger", f"kafka://u:{SECRET}@127.0.0.1:1/t", *command)
        assert result.status in {1, 2}
        assert "[kafka]" in result.out + result.err
        assert SECRET not in result.out + result.err


def found(document):
    if "problems" in document:
        return [one["what"] for one in document["problems"]]
    return [one["text"] for one in document["findings"] if one["fine"] is False]

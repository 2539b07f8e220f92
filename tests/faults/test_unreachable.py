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
OF_THE_MODEL = [
    ("project",),
    ("project", "--follow"),
    ("migrate",),
    ("image", "show", "i"),
    ("image", "history", "i"),
    ("image", "explain", "i"),
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
    metaledger("emit", SCENARIO)
    assert_unreachable(metaledger(*configured, "--read-model", DATABASE, *command))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("command", OF_THE_LOG, ids=words)
def test_without_its_broker_a_command_is_one_line(metaledger, configured, command):
    metaledger("emit", SCENARIO)
    metaledger("project")
    assert_unreachable(metaledger(*configured, "--ledger", BROKER, *command))


@pytest.mark.parametrize("command", OF_THE_OUTBOX, ids=words)
def test_without_the_services_database_a_command_is_one_line(metaledger, configured, command):
    assert_unreachable(metaledger(*configured, *command))


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


def found(document):
    if "problems" in document:
        return [one["what"] for one in document["problems"]]
    return [one["text"] for one in document["findings"] if one["fine"] is False]

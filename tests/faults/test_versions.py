"""A read model of another version: the word to migrate or upgrade, and nothing is written."""

import pytest
from sqlalchemy import create_engine, text

from ..services.samples import SCENARIO, SCENARIO_IMAGE

COMMANDS = [
    ("project",),
    ("project", "--follow"),
    ("image", "show", SCENARIO_IMAGE),
    ("anomalies",),
    ("sql", "SELECT 1"),
    ("quarantine", "list"),
    ("quarantine", "release", "image:i"),
    ("quarantine", "skip", "0:1", "--reason", "r"),
    ("quarantine", "accept-gap", "image:i", "--reason", "r"),
]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, home):
    if request.param == "sqlite":
        return f"sqlite:///{home}/read.db"
    return request.getfixturevalue("postgres_url")


@pytest.mark.parametrize(("version", "word"), [(0, "metaledger migrate"), (99, "upgrade")])
def test_a_read_model_of_another_version_is_not_written(metaledger, url, version, word):
    options = ("--read-model", url)
    metaledger("emit", SCENARIO)
    assert metaledger(*options, "migrate").status == 0
    engine = create_engine(url)
    shared = "" if engine.dialect.name == "sqlite" else "metaledger."
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {shared}read_model SET format = {version}"))
    for command in COMMANDS:
        result = metaledger(*options, *command)
        assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
        assert word in result.err
    for command in ("status", "doctor"):
        result = metaledger(*options, command)
        assert result.status == 1
        assert word in result.out
    events = "ledger_events" if engine.dialect.name == "sqlite" else "metaledger.ledger_events"
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT count(*) FROM {events}")).scalar() == 0
    engine.dispose()
    if version == 0:
        for command in ("migrate", "project"):
            assert metaledger(*options, command).status == 0
        assert metaledger(*options, "image", "show", SCENARIO_IMAGE).status == 0

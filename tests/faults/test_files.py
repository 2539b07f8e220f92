"""A truncated or foreign file is one clear line for every command, and stays as it is."""

import sqlite3
from contextlib import closing

import pytest

from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool

from ..services.samples import SCENARIO, SCENARIO_IMAGE

WHY = ("--reason", "r")
READERS_OF_THE_LEDGER = [("events",), ("project",), ("events", "--follow")]
WRITERS_OF_THE_LEDGER = [("emit", str(SCENARIO)), ("relay", "--spool", "spool.db")]
OF_THE_MODEL = [
    ("project",),
    ("migrate",),
    ("image", "show", SCENARIO_IMAGE),
    ("anomalies",),
    ("sql", "SELECT count(*) FROM images"),
    ("quarantine", "list"),
    ("quarantine", "skip", "0:1", *WHY),
]


def words(command):
    return command[0]


@pytest.fixture
def scenario(metaledger):
    metaledger("emit", SCENARIO)
    assert metaledger("project").status == 0


def cut(file):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def foreign(file):
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER)")
        connection.commit()


def text(file):
    file.write_bytes(b"Dear diary, this is no database at all.\n" * 500)


DAMAGES = [cut, foreign, text]


def assert_refused(result, name):
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("metaledger: ")
    assert result.err.count("\n") == 1
    assert name in result.err


def damaged(path, damage):
    """The file, harmed; without what SQLite keeps beside it."""
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    damage(path)
    return path.read_bytes()


@pytest.mark.usefixtures("scenario")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_ledger_is_refused_by_who_reads_and_who_writes(metaledger, home, damage):
    ledger = home / "metaledger.db"
    left = damaged(ledger, damage)
    for command in (*READERS_OF_THE_LEDGER, *WRITERS_OF_THE_LEDGER):
        assert_refused(metaledger(*command), "metaledger.db")
    assert ledger.read_bytes() == left


@pytest.mark.usefixtures("scenario")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_read_model_is_refused(metaledger, home, damage):
    model = home / "metaledger-read.db"
    left = damaged(model, damage)
    for command in OF_THE_MODEL:
        assert_refused(metaledger(*command), "metaledger-read.db")
    assert model.read_bytes() == left


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_spool_is_refused(metaledger, home, damage):
    spool = home / "spool.db"
    whole = Spool(spool, ProducerSettings(service="test", host="here"))
    whole.install()
    whole.engine.dispose()
    left = damaged(spool, damage)
    ledger = f"sqlite:///{home}/l.db"
    assert_refused(metaledger("--ledger", ledger, "relay", "--spool", spool), "spool.db")
    assert spool.read_bytes() == left


@pytest.mark.usefixtures("scenario")
@pytest.mark.parametrize("damage", DAMAGES)
def test_who_looks_at_all_parts_names_the_damaged_one(metaledger, home, damage):
    for name in ("metaledger.db", "metaledger-read.db"):
        damaged(home / name, damage)
    for command in ("status", "doctor"):
        result = metaledger("--json", command)
        assert (result.status, result.err) == (1, "")
        assert "metaledger.db" in result.out
        assert "metaledger-read.db" in result.out

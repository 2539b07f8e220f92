"""The incidents, from the file to the answers, on both kinds of installation."""

import json
import uuid

import pytest

from .samples import SCENARIO

INSTALLATIONS = [
    "embedded",
    pytest.param("servers", marks=[pytest.mark.kafka, pytest.mark.postgres]),
]


@pytest.fixture(params=INSTALLATIONS)
def urls(request):
    """SQLite alone, or Kafka with PostgreSQL."""
    if request.param == "embedded":
        return ()
    broker = request.getfixturevalue("broker")
    model = request.getfixturevalue("postgres_url").replace("postgresql+psycopg2:", "postgresql:")
    return ("--ledger", f"kafka://{broker.bootstrap}/s-{uuid.uuid4()}", "--read-model", model)


SCENARIOS = SCENARIO.parent


@pytest.mark.parametrize("batch_records_max", [1, 2, 5_000])
@pytest.mark.parametrize("file", sorted(SCENARIOS.glob("*.jsonl")), ids=lambda file: file.stem)
def test_a_scenario_gives_what_is_expected_in_any_split(
    metaledger, home, urls, batch_records_max, file
):
    expected = json.loads(file.with_suffix(".expect.json").read_text(encoding="utf-8"))["sql"]
    options = projected(metaledger, home, urls, batch_records_max, file)
    for query, rows in expected.items():
        assert metaledger(*options, "sql", query).document["rows"] == rows, query


def projected(metaledger, home, urls, batch_records_max, file):
    """Emits and projects the file; gives the options that ask about it."""
    config = home / "c.toml"
    config.write_text(f"[projector]\nbatch_records_max = {batch_records_max}\n")
    options = ("--json", "--config", config, *urls)
    if urls:
        created = metaledger(*options, "topic", "create", "--partitions", 2, "--replication", 1)
        assert created.status == 0
    # Twice: into the topic it adds nothing, and embedded the projector is asked to do nothing.
    count = len(file.read_text(encoding="utf-8").splitlines())
    assert metaledger(*options, "emit", file).document["appended"] == count
    if urls:
        assert metaledger(*options, "emit", file).status == 0
    for _ in range(2):
        assert metaledger(*options, "project").status == 0
    return options

"""The incidents, from the file to the answers, on both kinds of installation.

Of the changed host name: what hypervisors tell of it, and what is asked of them alone.
"""

import json
import uuid

import pytest

from .samples import HOSTNAME_CHANGE, SCENARIO, file_of, hypervisor_events

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


def expected_of(scenario):
    return json.loads(scenario.with_suffix(".expect.json").read_text(encoding="utf-8"))["sql"]


PURGE = expected_of(SCENARIO)
OF_HYPERVISORS = {
    query: rows
    for query, rows in expected_of(HOSTNAME_CHANGE).items()
    if "instance_locations" not in query
}


@pytest.mark.parametrize("batch_records_max", [1, 2, 5_000])
def test_scenario_1_gives_what_is_expected_in_any_split(metaledger, home, urls, batch_records_max):
    answers(metaledger, home, urls, batch_records_max, SCENARIO, PURGE)


@pytest.mark.parametrize("batch_records_max", [1, 2, 5_000])
def test_scenario_4_gives_of_hypervisors_what_is_expected_in_any_split(
    metaledger, home, urls, batch_records_max
):
    file = file_of(home / "f.jsonl", *hypervisor_events())
    assert len(OF_HYPERVISORS) == 2
    answers(metaledger, home, urls, batch_records_max, file, OF_HYPERVISORS)


def answers(metaledger, home, urls, batch_records_max, file, expected):
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
    for query, rows in expected.items():
        assert metaledger(*options, "sql", query).document["rows"] == rows

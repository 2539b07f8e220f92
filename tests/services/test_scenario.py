"""The incidents, from the file to the answers, on both kinds of installation."""

import json
import random
import uuid
from collections import defaultdict

import pytest

from metaledger.schemas.jsonform import parse_line
from metaledger.schemas.meta import Context

from .samples import SCENARIO

SERVERS = [pytest.mark.kafka, pytest.mark.postgres]
INSTALLATIONS = ["embedded", pytest.param("servers", marks=SERVERS)]
# To Kafka and back takes twenty times as long.
INTERLEAVED = [
    *(pytest.param("embedded", seed) for seed in range(12)),
    *(pytest.param("servers", seed, marks=SERVERS) for seed in range(12, 14)),
]


@pytest.fixture(params=INSTALLATIONS)
def urls(request):
    """SQLite alone, or Kafka with PostgreSQL."""
    if request.param == "embedded":
        return ()
    broker = request.getfixturevalue("broker")
    model = request.getfixturevalue("postgres_url").replace("postgresql+psycopg2:", "postgresql:")
    return ("--ledger", f"kafka://{broker.bootstrap}/s-{uuid.uuid4()}", "--read-model", model)


FILES = sorted(SCENARIO.parent.glob("*.jsonl"))


def histories(file):
    """The lines of each aggregate, in their order."""
    found = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        found[parse_line(line, Context(service="s", host="h")).aggregate].append(line)
    return list(found.values())


OF_SEVERAL = [file for file in FILES if len(histories(file)) > 1]


@pytest.mark.parametrize("batch_records_max", [1, 2, 5_000])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_gives_what_is_expected_in_any_split(
    metaledger, home, urls, batch_records_max, file
):
    options = begun(metaledger, home, urls, batch_records_max)
    # Twice: into the topic it adds nothing, and embedded the projector is asked to do nothing.
    count = len(file.read_text(encoding="utf-8").splitlines())
    assert metaledger(*options, "emit", file).document["appended"] == count
    if urls:
        assert metaledger(*options, "emit", file).status == 0
    for _ in range(2):
        assert metaledger(*options, "project").status == 0
    for query, rows in expected(file):
        assert metaledger(*options, "sql", query).document["rows"] == rows, query


@pytest.mark.parametrize(("urls", "seed"), INTERLEAVED, indirect=["urls"])
@pytest.mark.parametrize("file", OF_SEVERAL, ids=lambda file: file.stem)
def test_a_scenario_gives_what_is_expected_in_whatever_order_its_aggregates_come(
    metaledger, home, urls, seed, file
):
    """As partitions are read that know nothing of each other: each aggregate keeps its own order,
    and what takes several is derived and judged before the rest is there.
    """
    chance, waiting = random.Random(seed), histories(file)
    options = begun(metaledger, home, urls, (1, 2, 5_000)[seed % 3])
    part, parts_max = home / "part.jsonl", 3 if urls else 7
    left = sum(map(len, waiting))
    for number in range(parts_max, 0, -1):
        count = left if number == 1 else min(left, chance.randint(1, 3))
        lines = [
            chance.choice([history for history in waiting if history]).pop(0) for _ in range(count)
        ]
        left -= count
        if lines:
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            assert metaledger(*options, "emit", part).document["appended"] == count
            assert metaledger(*options, "project").status == 0
    for query, rows in expected(file):
        # What was withdrawn tells what was believed meanwhile.
        standing = query.replace(" anomalies ", " anomalies WHERE withdrawn_by_event IS NULL ")
        assert metaledger(*options, "sql", standing).document["rows"] == rows, query


def expected(file):
    """The queries and their answers."""
    document = json.loads(file.with_suffix(".expect.json").read_text(encoding="utf-8"))
    return document["sql"].items()


def begun(metaledger, home, urls, batch_records_max):
    """The options that everything takes; makes the topic, where there is to be one."""
    config = home / "c.toml"
    config.write_text(f"[projector]\nbatch_records_max = {batch_records_max}\n")
    options = ("--json", "--config", config, *urls)
    if urls:
        created = metaledger(*options, "topic", "create", "--partitions", 2, "--replication", 1)
        assert created.status == 0
    return options

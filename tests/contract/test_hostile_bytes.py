"""Hostile bytes end in a ContractError or UnknownSchema, and never in anything else.

They are decoded in a child process with limits of time and memory, since the danger is that the
process dies.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = 20_000


@pytest.fixture(scope="module")
def outcomes() -> Any:
    command = [sys.executable, "-m", "tests.contract.hostile", "1", str(RECORDS)]
    # Wherever this process imports metaledger from, the child has to find the same.
    packages = {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        command, cwd=ROOT, env=packages, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


def test_a_named_attack_is_refused(outcomes: Any) -> None:
    expected = dict.fromkeys(outcomes["named"], "refused")
    expected["none"] = "decoded"
    expected["a fingerprint of tomorrow"] = "unknown"
    expected["an id of another registry"] = "unknown"
    assert outcomes["named"] == expected


def test_another_spelling_gives_at_most_an_event_that_could_have_been_spelled_well(
    outcomes: Any,
) -> None:
    assert set(outcomes["odd"].values()) == {"decoded"}


def test_mutated_records_are_refused_or_decode_to_what_can_be_stored(outcomes: Any) -> None:
    assert set(outcomes["mutated"]) <= {"refused", "unknown", "decoded"}
    assert sum(outcomes["mutated"].values()) == RECORDS
    assert outcomes["mutated"]["refused"] > RECORDS / 2

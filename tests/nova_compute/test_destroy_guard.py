"""A real Nova 34 destroys what was evacuated from a host only where the guard allows it."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..glance.environment import Environment

PROGRAM = Path(__file__).parent / "inside" / "evacuate.py"
TIMEOUT_S = 600
# Answers as the file beside it says, and notes what it was asked.
GUARD = """
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
uuids = sys.stdin.read().split()
with (folder / "asked").open("a") as asked:
    asked.write(json.dumps([sys.argv[1:], uuids]) + "\\n")
answer = (folder / "answer").read_text()
if answer == "fails":
    sys.exit("metaledger: the broker does not answer")
verdicts = [{"instance_uuid": uuid, "verdict": answer, "reason": "r"} for uuid in uuids]
print(json.dumps({"verdicts": verdicts}))
sys.exit(0 if answer == "ALLOW" else 1)
"""
Evacuate = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def evacuate(guarded_nova: tuple[Environment, Path], tmp_path: Path) -> Evacuate:
    environment, product = guarded_nova
    (tmp_path / "guard.py").write_text(GUARD)
    command = shlex.join([sys.executable, str(tmp_path / "guard.py")])

    def run(answers: Sequence[str], **settings: str) -> "subprocess.CompletedProcess[str]":
        given = {"guard": "true", "guard_command": command, **settings}
        return subprocess.run(
            [environment.tool("python"), str(PROGRAM), str(tmp_path), *answers],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": str(product),
                **{f"OS_METALEDGER__{name.upper()}": value for name, value in given.items()},
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )

    return run


def seen_after(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    """What there was after each start."""
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    seen: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.nova
def test_only_what_is_allowed_is_destroyed_and_the_rest_is_asked_about_again(
    evacuate: Evacuate, tmp_path: Path
) -> None:
    answers = ["DENY", "UNKNOWN", "fails", "ALLOW", "ALLOW"]
    *refused, allowed, again = seen_after(evacuate(answers))
    for seen in refused:
        assert seen["held"]
        assert seen["migrations"] == ["done"]
        assert seen["source_vcpus"] > 0
    assert not allowed["held"]
    assert allowed["migrations"] == ["completed"]
    assert allowed["source_vcpus"] == 0
    assert again == allowed
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    # Nothing is left to be asked about the last time.
    assert asked == [
        [
            [
                *("guard", f"--hypervisor={allowed['node']}", "--host=host1"),
                *("--instances-from=-", "--json"),
            ],
            [allowed["instance"]],
        ]
    ] * (len(answers) - 1)


@pytest.mark.nova
def test_without_the_guard_nova_does_what_it_does(evacuate: Evacuate, tmp_path: Path) -> None:
    [seen] = seen_after(evacuate(["DENY"], guard="false"))
    assert not seen["held"]
    assert seen["migrations"] == ["completed"]
    assert not (tmp_path / "asked").exists()


@pytest.mark.nova
@pytest.mark.parametrize(
    ("answer", "command", "sentence"),
    [
        ("ALLOW", "", "guard is set without a guard_command"),
        ("ALLOW", "'", "guard_command cannot be read"),
        ("other-nova", "/bin/true", "does not take self, context, node_cache"),
        ("other-order", "/bin/true", "has not asked for the evacuations before it looked"),
    ],
    ids=["no command", "no command line", "another Nova", "another order"],
)
def test_nova_does_not_start_where_the_guard_cannot_work(
    evacuate: Evacuate, answer: str, command: str, sentence: str
) -> None:
    done = evacuate([answer], guard_command=command)
    assert done.returncode == 1
    assert f"OperatorError: {sentence}" in done.stderr.replace("[metaledger] ", "").replace(
        "the destroy guard does not fit this Nova: _destroy_evacuated_instances ", ""
    )

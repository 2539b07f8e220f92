"""Hostile bytes end in one of the contract's errors: nothing dies, is slow or takes the memory.

The inputs are tried in child processes (`fuzz_child`), by three engines: mutation of good records
by chance, hypothesis, and atheris where it has a build.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fuzz_child import boxed
from .fuzz_meter import CPU_S_MAX, MEMORY_BYTES_MAX
from .fuzz_targets import RECORD, TAKEN, TARGETS
from .proof import Proof, Run

ROOT = Path(__file__).parents[2]
# Of so many inputs one is hypothesis', which is a hundred times as slow; and so many are atheris'.
_HYPOTHESIS_ONE_IN = 200
_ATHERIS_ONE_IN = 10
_SHOWN_BYTES_MAX = 2000
_SHOWN_CHARS_MAX = 3000


@dataclass(frozen=True, slots=True)
class Child:
    """What one child process has to do."""

    engine: str
    seed: int
    inputs: int
    folder: Path


def check(run: Run) -> None:
    children = _children(run)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(_report, children))
    for child, report in zip(children, reports, strict=True):
        tried = sum(sum(outcomes.values()) for outcomes in report["outcomes"].values())
        slowest_ms = report["cpu_s_max"] * 1000
        run.say(f"{child.engine}: {tried:,} inputs, the slowest {slowest_ms:.1f} ms")
        # Hypothesis may end early, where it found every choice tried.
        assert tried >= child.inputs * 0.9, f"{child.engine} tried {tried} of {child.inputs}"
    _tell(run, reports)


def _children(run: Run) -> list[Child]:
    random = run.random
    counts = {"hypothesis": run.size // _HYPOTHESIS_ONE_IN}
    if importlib.util.find_spec("atheris"):
        counts["atheris"] = run.size // _ATHERIS_ONE_IN
    else:
        run.say("atheris has no build for this Python: left out")
    children = []
    for engine, inputs in counts.items():
        children.append(Child(engine, random.getrandbits(31), inputs, run.folder / engine))
    left, processors = run.size - sum(counts.values()), os.cpu_count() or 1
    for index in range(processors):
        inputs = left // processors + (left % processors if index == 0 else 0)
        folder = run.folder / f"mutation-{index}"
        children.append(Child("mutation", random.getrandbits(31), inputs, folder))
    return children


def _report(child: Child) -> Any:
    """What the child told. Raises AssertionError with the input on which it ended."""
    child.folder.mkdir()
    arguments = [child.engine, str(child.seed), str(child.inputs), str(child.folder)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.proofs.fuzz_child", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([_importable(child.folder), *sys.path])},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode == 0:
        return json.loads(ended.stdout.splitlines()[-1])
    value = boxed(child.folder / "box")
    raise AssertionError(
        f"{child.engine} ended with {ended.returncode} on {len(value)} bytes: "
        f"{value[:_SHOWN_BYTES_MAX]!r}\n{ended.stderr[-_SHOWN_CHARS_MAX:]}"
    )


def _importable(folder: Path) -> str:
    """A folder of which `metaledger` can be imported: atheris does not see through the finder of
    an editable installation.
    """
    package = folder / "importable" / "metaledger"
    package.mkdir(parents=True)
    for name in ("schemas", "producers", "projector", "services"):
        (package / name).symlink_to(ROOT / name)
    return str(package.parent)


def _tell(run: Run, reports: Sequence[Any]) -> None:
    total = records = 0
    for target in TARGETS:
        outcomes: Counter[str] = Counter()
        for report in reports:
            outcomes.update(report["outcomes"].get(target.name, {}))
        told = ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
        run.say(f"{target.name}: {told}")
        assert outcomes[TAKEN], f"no input for {target.name} was good: this shows little"
        total += outcomes.total()
        records += outcomes.total() if target.name == RECORD else 0
    run.say(f"{total:,} inputs, {records:,} of them mutated records")


PROOF = Proof(
    name="fuzz",
    promise=(
        f"no bytes end a reader, take it {CPU_S_MAX * 1000:.0f} ms or {MEMORY_BYTES_MAX >> 20} MB, "
        "or raise anything but the contract's errors"
    ),
    unit="inputs, seven in ten of them mutated records",
    least=1_000,
    short=1_000_000,
    # Mutation by chance alone makes 89.5 % of them, and so 5,000,000 records.
    long=8_000_000,
    check=check,
)

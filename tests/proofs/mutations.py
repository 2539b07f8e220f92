"""The tests can fail: each rule that a patch breaks turns the tests red that are to hold it.

`mutations/*.patch` says in its first line what it breaks, in `Red:` lines which tests must tell it.
Each is applied to a copy of the project. A patch that no longer applies, and tests that do not fail
or do not run, are failures of this proof: make the patch anew, or write the test that is missing.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .proof import Proof, Run

ROOT = Path(__file__).parents[2]
PATCHES = sorted(Path(__file__).with_name("mutations").glob("*.patch"))
PACKAGES = ("schemas", "producers", "projector", "services")
# What the tests read besides; no caches, and no environments.
_COPIED = (*PACKAGES, "tests", "docs", "deploy", "pyproject.toml", "README.md")
# A test of two transactions that wait for each other may wait for ever once a rule is broken.
_TESTS_TIMEOUT_S = 300
_SHOWN_CHARS_MAX = 2500
# Where two race, all may go well although the rule is broken.
_TRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class Mutation:
    """A patch: the rule that it breaks, and the tests that hold it."""

    patch: Path
    breaks: str
    tests: Sequence[str]


def check(run: Run) -> None:
    mutations = [_read(patch) for patch in PATCHES]
    mutations = run.random.sample(mutations, min(run.size, len(mutations)))
    sound = run.folder / "sound"
    _copy(sound)
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    status, told = _run_tests(sound, tests)
    assert status == 0, f"red although nothing is broken:\n{told}"
    assert "SKIPPED" not in told, f"what was skipped can show nothing:\n{told}"
    run.say(f"{len(tests)} tests are green")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = list(pool.map(lambda mutation: _fault(run.folder, mutation), mutations))
    for mutation, fault in zip(mutations, faults, strict=True):
        run.say(f"{'NOT SEEN' if fault else 'red'}: {mutation.breaks}")
    found = [
        f"{mutation.patch.name}: {fault}"
        for mutation, fault in zip(mutations, faults, strict=True)
        if fault
    ]
    assert not found, "\n".join(found)


def _read(patch: Path) -> Mutation:
    head, *_ = patch.read_text().partition("\n--- ")
    breaks, *lines = head.splitlines()
    tests = [line.removeprefix("Red: ") for line in lines if line.startswith("Red: ")]
    assert breaks, f"{patch.name} does not say what it breaks"
    assert tests, f"{patch.name} does not say which test tells"
    return Mutation(patch, breaks, tests)


def _copy(tree: Path) -> None:
    tree.mkdir()
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.db*")
            )
        else:
            shutil.copy(ROOT / name, tree / name)
    # Before any installation of the project, wherever that is.
    package = tree / "importable" / "metaledger"
    package.mkdir(parents=True)
    for name in PACKAGES:
        (package / name).symlink_to(tree / name)


def _fault(folder: Path, mutation: Mutation) -> str | None:
    """Why the mutation shows nothing; None where its tests are red, each of them."""
    tree = folder / mutation.patch.stem
    _copy(tree)
    # Outside of a repository, and with the context that is left where code has moved.
    applied = subprocess.run(
        ["git", "apply", "-C1", str(mutation.patch)],
        cwd=tree,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if applied.returncode != 0:
        return f"the patch no longer applies, make it anew: {applied.stderr.strip()}"
    for _ in range(_TRIES_MAX):
        status, told = _run_tests(tree, mutation.tests)
        failed = re.search(r"\b(\d+) failed", told)
        is_red = status == 1 and failed is not None and int(failed[1]) >= len(mutation.tests)
        if is_red:
            break
    shutil.rmtree(tree)
    return None if is_red else f"not all of its tests failed:\n{told}"


def _run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Pytest's exit status, and the end of what it said."""
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *tests],
            cwd=tree,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(tree / "importable"), *sys.path]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_TESTS_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end within {_TESTS_TIMEOUT_S} s"
    return ended.returncode, (ended.stdout + ended.stderr)[-_SHOWN_CHARS_MAX:]


PROOF = Proof(
    name="mutations",
    promise="each rule that is broken on purpose turns its tests red",
    unit="mutations",
    least=1,
    short=len(PATCHES),
    long=len(PATCHES),
    check=check,
)

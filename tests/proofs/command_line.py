"""Whatever is typed and whatever the files hold: a documented exit status and one sentence.

Hypothesis draws the command lines in child processes (`command_child`), which run many each,
through the entry point's own function. Each command and option is found where the command line has
it, so that a new one is tried too.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .command_child import commands
from .proof import Proof, Run

ROOT = Path(__file__).parents[2]
_SHOWN_CHARS_MAX = 4000
LEAST = 150


def check(run: Run) -> None:
    # Each has to come to every command.
    processors = min(os.cpu_count() or 1, run.size // LEAST)
    seeds = [run.random.getrandbits(31) + index for index in range(processors)]
    with ThreadPoolExecutor(processors) as pool:
        ended = pool.map(
            lambda seed: _statuses(run.folder / str(seed), seed, -(-run.size // processors)), seeds
        )
        statuses = sum(ended, Counter[str]())
    by_status = Counter[str]()
    for named, count in statuses.items():
        by_status[named.rpartition(": ")[2]] += count
    told = ", ".join(f"{count:,} with {status}" for status, count in sorted(by_status.items()))
    run.say(f"{statuses.total():,} command lines ended: {told}")
    tried = {named.rpartition(": ")[0] for named in statuses}
    assert tried == {" ".join(command.name) for command in commands()}, f"only {sorted(tried)}"
    assert {"0", "1", "2", "3"} <= set(by_status), "some exit status never came: this shows little"


def _statuses(folder: Path, seed: int, count: int) -> Counter[str]:
    """How often a command ended with which status. Raises AssertionError with the command line."""
    folder.mkdir()
    unset = {"METALEDGER_LEDGER_URL", "METALEDGER_READ_MODEL_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {
        "METALEDGER_CONFIG": os.devnull,
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_STATE_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tests.proofs.command_child", str(seed), str(count)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode == 0:
        return Counter(json.loads(ended.stdout.splitlines()[-1]))
    tried = (folder / "tried").read_text() if (folder / "tried").exists() else "nothing"
    raise AssertionError(
        f"{ended.returncode} after {tried[:_SHOWN_CHARS_MAX]}\n{ended.stderr[-_SHOWN_CHARS_MAX:]}"
    )


PROOF = Proof(
    name="command-line",
    promise="every hostile command line and file ends in an exit status of 0 to 3 and a sentence",
    unit="command lines",
    least=LEAST,
    short=1_500,
    long=50_000,
    check=check,
)

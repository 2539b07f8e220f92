"""Asks the destroy guard whether instances may be destroyed, from within a service.

A service has the base install alone, and neither the read model nor a way to the log: so this runs
the command line that has both, without a shell, with a timeout. The instances go in by standard
input, for there may be more of them than a command line takes. What comes back is believed if it is
exactly an answer to the question. Everything else is UNKNOWN for all of them: a command that is not
there, fails, takes too long, or says anything that was not asked. Nothing is ever raised.

    command = ("/opt/metaledger/bin/metaledger", "--config", "/etc/metaledger/metaledger.toml")
    judge("3b1f6c1e-…", "compute-1", uuids, command=command)[uuid].verdict is Verdict.ALLOW
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metaledger.schemas.instance import Verdict

# The command gives itself 10 s to find that a part is away, waits a little for the projector, and
# a broker may take 30 s to acknowledge.
TIMEOUT_S = 60.0
_STATUSES = (0, 1)
_SAID_CHARS_MAX = 300
_MEMBERS = {"instance_uuid", "verdict", "reason"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, and why."""

    verdict: Verdict
    reason: str


def judge(
    hypervisor_id: str,
    host: str,
    instance_uuids: Sequence[str],
    *,
    command: Sequence[str],
    timeout_s: float = TIMEOUT_S,
) -> Mapping[str, Answer]:
    """An answer for each of the instances, which the hypervisor holds."""
    asked = frozenset(instance_uuids)
    if not asked:
        return {}
    try:
        return _answers(_run(hypervisor_id, host, sorted(asked), command, timeout_s), asked)
    except subprocess.TimeoutExpired:
        said = f"it has not answered within {timeout_s:g} s"
    except (OSError, ValueError, RecursionError, subprocess.SubprocessError) as error:
        said = str(error)
    reason = f"the guard gave no answer: {said[:_SAID_CHARS_MAX]}"
    return dict.fromkeys(asked, Answer(Verdict.UNKNOWN, reason))


def _run(
    hypervisor_id: str,
    host: str,
    instance_uuids: Sequence[str],
    command: Sequence[str],
    timeout_s: float,
) -> "subprocess.CompletedProcess[bytes]":
    # Behind an = a name may begin with a dash.
    question = (f"--hypervisor={hypervisor_id}", f"--host={host}", "--instances-from=-", "--json")
    return subprocess.run(  # noqa: S603 (the operator's own command, without a shell)
        [*command, "guard", *question],
        input="".join(f"{one}\n" for one in instance_uuids).encode(),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


def _answers(
    done: "subprocess.CompletedProcess[bytes]", asked: frozenset[str]
) -> Mapping[str, Answer]:
    """What the command said. Raises ValueError where that is no answer to the question."""
    if done.returncode not in _STATUSES:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise ValueError(f"it ended with {done.returncode}: {said}")
    document = json.loads(done.stdout, object_pairs_hook=_members)
    verdicts = document.get("verdicts") if isinstance(document, dict) else None
    if not isinstance(verdicts, list) or len(document) != 1 or len(verdicts) != len(asked):
        raise ValueError("what it said is no list of the verdicts that were asked for")
    found = dict(map(_answer, verdicts))
    if found.keys() != asked:
        raise ValueError("it has judged other instances than were asked about")
    if (done.returncode == 0) != all(one.verdict is Verdict.ALLOW for one in found.values()):
        raise ValueError("its exit status contradicts its verdicts")
    return found


def _answer(one: object) -> tuple[str, Answer]:
    if not isinstance(one, dict) or one.keys() != _MEMBERS:
        raise ValueError("a verdict is not in its form")
    if not all(isinstance(value, str) for value in one.values()):
        raise ValueError("a verdict is not in its form")
    return one["instance_uuid"], Answer(Verdict(one["verdict"]), one["reason"])


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose members is told once."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is told twice")
    return found

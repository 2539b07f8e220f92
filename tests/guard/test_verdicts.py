"""What a service believes of the command that it asks: an exact answer, and nothing else."""

import json
import shlex
import sys
import time

import pytest

from metaledger.producers.verdicts import judge
from metaledger.schemas.instance import Verdict

ASKED = ("i-1", "i-2")


def verdict(uuid, word, **more):
    return {"instance_uuid": uuid, "verdict": word, "reason": "for a reason", **more}


BOTH = [verdict("i-1", "ALLOW"), verdict("i-2", "ALLOW")]


@pytest.fixture
def asking(tmp_path):
    """Asks a program that says `out` and ends with `status`; what it was asked stands in a file."""

    def ask(out, status=0, *, before="", timeout_s=60.0, asked=ASKED, host="compute-1"):
        program = tmp_path / "program.py"
        text = out if isinstance(out, str) else json.dumps(out)
        program.write_text(
            "import json, sys, time\n"
            f"asked = {{'arguments': sys.argv[1:], 'input': sys.stdin.read()}}\n"
            f"open({str(tmp_path / 'asked')!r}, 'w').write(json.dumps(asked))\n"
            f"{before}\n"
            f"sys.stdout.buffer.write({text.encode('utf-8', 'surrogateescape')!r})\n"
            f"sys.exit({status})\n"
        )
        command = (sys.executable, str(program), "--config", "c; $(touch never).toml")
        return judge("hv-1", host, asked, command=command, timeout_s=timeout_s)

    return ask


def words(answers):
    assert all(answer.reason for answer in answers.values())
    return {uuid: answer.verdict.value for uuid, answer in answers.items()}


def test_an_answer_is_believed_and_the_question_goes_in_whole(asking, tmp_path):
    several = [verdict("i-2", "DENY"), verdict("i-1", "ALLOW")]
    answers = asking({"verdicts": several}, 1, host="-x y")
    assert words(answers) == {"i-1": "ALLOW", "i-2": "DENY"}
    assert answers["i-2"].reason == "for a reason"
    assert json.loads((tmp_path / "asked").read_text()) == {
        "arguments": [
            *("--config", "c; $(touch never).toml", "guard", "--hypervisor=hv-1"),
            *("--host=-x y", "--instances-from=-", "--json"),
        ],
        "input": "i-1\ni-2\n",
    }
    assert not (tmp_path / "never").exists()
    assert words(asking({"verdicts": BOTH})) == {"i-1": "ALLOW", "i-2": "ALLOW"}


NO_ANSWER = {
    "nothing": ("", 0),
    "no JSON": ("ALLOW", 0),
    "bytes": ("\udcff", 0),
    "null": ("null", 1),
    "no end": ("[" * 100_000, 0),
    "a list": (BOTH, 0),
    "a verdict": ({"verdicts": "ALLOW"}, 0),
    "one is missing": ({"verdicts": BOTH[:1]}, 0),
    "one too many": ({"verdicts": [*BOTH, verdict("i-3", "ALLOW")]}, 0),
    "one twice": ({"verdicts": [BOTH[0], BOTH[0]]}, 0),
    "another one": ({"verdicts": [BOTH[0], verdict("i-3", "ALLOW")]}, 0),
    "an unknown word": ({"verdicts": [BOTH[0], verdict("i-2", "allow")]}, 0),
    "no word": ({"verdicts": [BOTH[0], verdict("i-2", True)]}, 0),
    "no reason": ({"verdicts": [BOTH[0], {"instance_uuid": "i-2", "verdict": "ALLOW"}]}, 0),
    "more members": ({"verdicts": [BOTH[0], verdict("i-2", "ALLOW", unless="x")]}, 0),
    "more documents": (json.dumps({"verdicts": BOTH}) * 2, 0),
    "more of a document": ({"verdicts": BOTH, "warning": "x"}, 0),
    "a member twice": (
        json.dumps({"verdicts": BOTH}).replace('"verdict": "ALLOW"', '"verdict": "DENY", '
        '"verdict": "ALLOW"'),
        0,
    ),
    "the status says no": ({"verdicts": BOTH}, 1),
    "the status says yes": ({"verdicts": [BOTH[0], verdict("i-2", "DENY")]}, 0),
    "unreachable": ({"verdicts": BOTH}, 3),
    "usage": ({"verdicts": BOTH}, 2),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_ANSWER)
def test_whatever_is_no_answer_is_unknown_for_all(asking, what):
    assert words(asking(*NO_ANSWER[what])) == {"i-1": "UNKNOWN", "i-2": "UNKNOWN"}


def test_a_command_that_fails_is_told_by_what_it_said(asking):
    said = "sys.stderr.write('metaledger: the broker\\ndoes not answer')"
    [answer] = asking("", 3, before=said, asked=("i-1",)).values()
    assert "it ended with 3: metaledger: the broker does not answer" in answer.reason


def test_a_command_that_takes_too_long_is_ended(asking):
    started = time.monotonic()
    answers = asking({"verdicts": BOTH}, before="time.sleep(600)", timeout_s=0.5)
    assert words(answers) == {"i-1": "UNKNOWN", "i-2": "UNKNOWN"}
    assert "within 0.5 s" in answers["i-1"].reason
    assert time.monotonic() - started < 300


@pytest.mark.parametrize("command", [("/nope/metaledger",), ("/",), ("\0",), ()])
def test_a_command_that_cannot_be_run_is_unknown(command):
    [answer] = judge("hv-1", "h", ["i-1"], command=command).values()
    assert answer.verdict is Verdict.UNKNOWN


def test_no_instances_ask_nobody():
    assert judge("hv-1", "h", [], command=("/nope",)) == {}


def test_the_real_command_answers(tmp_path):
    command = shlex.split(f"{sys.executable} -m metaledger.services")
    database = f"sqlite:///{tmp_path}/x.db"
    [answer] = judge("hv-1", "h", ["i-1"], command=[*command, "--ledger", database]).values()
    assert answer.verdict is Verdict.UNKNOWN
    assert "it ended with 2: metaledger: " in answer.reason

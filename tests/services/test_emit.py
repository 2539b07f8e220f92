import json
import subprocess
import sys
from pathlib import Path

import pytest

from metaledger.schemas.catalogue import latest
from metaledger.schemas.events import EVENT_BY_TYPE
from metaledger.services import held

from .samples import SCENARIO, file_of, registered, updated

ROOT = Path(__file__).parents[2]
GOOD = json.dumps(registered())
BAD = [
    ("nonsense", "", "a JSON object", "Expecting value at column 1"),
    ("[]", "", "an object", "an array"),
    ('{"type": "ImageDeletd", "data": {}}', "type", "one of", "'ImageDeletd'"),
    ('{"type": "ImageDeleted"}', "data", "an object", "nothing"),
    (json.dumps(registered(extra=1)), "data", "one of image_id", "field 'extra'"),
    (json.dumps(registered(min_disk="1")), "data.min_disk", "an integer", "'1'"),
    (json.dumps(updated(mode="PATCH")), "data.change.mode", "MERGE, PURGE", "'PATCH'"),
    (json.dumps(registered(name="a\0b")), "data.name", "without NUL", "'a\\x00b'"),
    (json.dumps(registered(name="\ud800")), "data.name", "lone surrogates", "'\\ud800'"),
    (GOOD.replace("00:00:00Z", "00:00:00"), "meta.occurred_at", "with an offset", "00:00:00'"),
    (
        json.dumps(updated(meta={"deployment_id": "north"})),
        "meta.deployment_id",
        "'default'",
        "'north'",
    ),
    (json.dumps(registered(name="x" * 900_000)), "", "at most 900000 bytes", "a larger one"),
]


def test_events_are_appended_in_their_order(metaledger, home):
    file = file_of(home / "f.jsonl", registered(), updated(set={"k": "v"}), registered("i-2"))
    result = metaledger("--json", "emit", file)
    assert (result.status, result.err) == (0, "")
    assert result.document == {"file": str(file), "appended": 3, "errors": []}
    events = metaledger("--json", "events").document
    assert [(e["type"], e["meta"]["aggregate"], e["meta"]["stream_seq"]) for e in events] == [
        ("ImageRegistered", "image:i-1", 1),
        ("ImageUpdated", "image:i-1", 2),
        ("ImageRegistered", "image:i-2", 1),
    ]


@pytest.mark.parametrize(("bad", "path", "expected", "got"), BAD, ids=[one[0][:40] for one in BAD])
def test_a_bad_line_is_named_and_nothing_is_appended(metaledger, home, bad, path, expected, got):
    file = home / "f.jsonl"
    file.write_text(f"{GOOD}\n\n{bad}\n{GOOD}\n", encoding="utf-8", errors="surrogatepass")
    result = metaledger("--json", "emit", file)
    assert result.status == 2
    assert result.document["appended"] == 0
    [error] = result.document["errors"]
    assert (error["line"], error["path"]) == (3, path)
    assert expected in error["expected"]
    assert got in error["got"]
    assert result.err.startswith(f"metaledger: {file}, line 3: {path or 'the event'}: expected ")
    assert result.err.count("\n") == 1
    assert not (home / "metaledger.db").exists()


def test_a_bad_file_leaves_the_ledger_as_it_was(metaledger, home):
    metaledger("emit", SCENARIO)
    before = (home / "metaledger.db").read_bytes()
    file = home / "f.jsonl"
    file.write_text(f"{GOOD}\nnonsense\n")
    assert metaledger("emit", file).status == 2
    assert (home / "metaledger.db").read_bytes() == before
    assert len(metaledger("--json", "events").document) == 2


def test_bytes_that_are_no_text_are_named(metaledger, home):
    (home / "f.jsonl").write_bytes(GOOD.encode() + b"\n\xff\xfe\n")
    assert "line 2: the event: expected UTF-8, got byte 0xff" in metaledger("emit", "f.jsonl").err


def test_many_bad_lines_are_counted(metaledger, home):
    (home / "f.jsonl").write_text("nonsense\n" * 1000)
    result = metaledger("--json", "emit", "f.jsonl")
    assert len(result.document["errors"]) == 20
    assert result.document["errors_total"] == 1000
    assert result.err.splitlines()[-1] == "metaledger: f.jsonl, and 980 more lines"


def test_hostile_text_in_a_bad_line_does_not_reach_the_terminal(metaledger, home):
    (home / "f.jsonl").write_text('{"type": "\x1b[2J\u202e"}\n')
    (home / "g.jsonl").write_text('{"type": "\\u001b[2J\\u202e"}\n')
    for name in ("f.jsonl", "g.jsonl"):
        assert metaledger("emit", name).err.rstrip("\n").isprintable()


def test_standard_input_is_a_file(start):
    process = start("--json", "emit", "-", stdin=-1)
    out, err = process.communicate(SCENARIO.read_text(), timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["appended"] == 2


def test_a_file_that_is_not_there_is_one_line(metaledger, home):
    result = metaledger("emit", "nope.jsonl")
    assert (result.status, result.err) == (
        2,
        "metaledger: nope.jsonl cannot be read: No such file or directory\n",
    )
    assert list(home.iterdir()) == []


def test_an_empty_file_has_no_events(metaledger, home):
    (home / "f.jsonl").write_text("\n \n")
    assert metaledger("--json", "emit", "f.jsonl").document["appended"] == 0


@pytest.mark.parametrize("memory_bytes_max", [1, 1 << 20])
def test_all_that_a_line_says_is_appended_wherever_it_was_held(
    metaledger, home, monkeypatch, memory_bytes_max
):
    monkeypatch.setattr(held, "_MEMORY_BYTES_MAX", memory_bytes_max)
    golden = ROOT / "tests" / "contract" / "golden"
    newest = sorted(f"{name}.v{latest(name).version}.json" for name in EVENT_BY_TYPE)
    told = [json.loads((golden / name).read_text()) for name in newest]
    for one in told:
        one["meta"]["deployment_id"] = "default"
    assert metaledger("emit", file_of(home / "f.jsonl", *told)).status == 0
    appended = metaledger("--json", "events").document
    assert [{name: one[name] for name in ("type", "meta", "data")} for one in appended] == told


# Between this process and the command stands a small one: a process counts as its own the memory
# of the one that it was forked from.
MEASURED = """import resource, subprocess, sys
status = subprocess.run([sys.executable, "-m", "metaledger.services", *sys.argv[1:]]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)"""


def test_a_file_larger_than_the_memory_it_may_take_is_appended(home):
    with (home / "f.jsonl").open("w") as file:
        for n in range(120):
            file.write(json.dumps(registered(f"i-{n}", name="x" * 800_000)) + "\n")
    command = [sys.executable, "-c", MEASURED, "--json", "emit", "f.jsonl"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    # 96 MB of events; the process takes some 70 without any.
    assert int(result.stdout.splitlines()[-1]) < 180_000


def test_a_file_that_is_no_ledger_is_refused(metaledger, home):
    for content in (b"", b"nonsense", b"SQLite format 3\0" + bytes(84)):
        (home / "metaledger.db").write_bytes(content)
        result = metaledger("emit", SCENARIO)
        assert result.status == 2
        assert "no Metaledger log" in result.err
        assert (home / "metaledger.db").read_bytes() == content


def test_what_is_not_said_is_filled_in(metaledger, home):
    file = home / "f.jsonl"
    file.write_text(
        '{"type": "ImageDeleted", "data": {"image_id": "i", "deleted_at": "2026-01-01T00:00:00Z"}}'
    )
    metaledger("emit", file)
    [event] = metaledger("--json", "events").document
    assert event["meta"]["service"] == "metaledger"
    assert event["meta"]["occurred_at"] >= "2026"
    assert event["meta"]["user_id"] is None

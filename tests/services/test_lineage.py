"""`image lineage` and `snapshot show`, from events to what a person and a program see."""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from .samples import SCENARIO, file_of, registered

DROPPED = SCENARIO.parent / "3-rebuild-drops-base-image-ref.jsonl"
A, B = "aaaaaaaa-1111-4111-8111-111111111111", "bbbbbbbb-2222-4222-8222-222222222222"
C = "cccccccc-3333-4333-8333-333333333333"
INSTANCE = "5c0c7a31-2f4e-4f0a-8f0e-61c1a3f70b21"


@pytest.fixture
def told(metaledger, home):
    def tell(*lines):
        assert metaledger("emit", file_of(home / "told.jsonl", *lines)).status == 0
        assert metaledger("project").status == 0

    return tell


@pytest.fixture
def scenario(metaledger):
    assert metaledger("emit", DROPPED).status == 0
    assert metaledger("project").status == 0


def declaring(image, base):
    properties = {} if base is None else {"base_image_ref": base}
    return registered(image, properties=properties)


@pytest.mark.usefixtures("scenario")
def test_the_base_that_a_rebuild_dropped_is_known(metaledger):
    document = metaledger("--json", "image", "lineage", C).document
    assert document["evidence"] == "derived"
    assert document["parent_image_id"] == document["root_image_id"] == B
    assert document["declared_base_image_ref"] is None
    assert document["declared_lost"] is False
    assert [node["image_id"] for node in document["nodes"]] == [B, C]
    assert document["edges"] == [{"image_id": C, "to_image_id": B, "evidence": "derived"}]
    told = metaledger("image", "lineage", C)
    assert (told.status, told.err) == (0, "")
    root, leaf = told.out.splitlines()[-2:]
    assert root.startswith(f"* {B}  windows")
    assert leaf.startswith(f"* {C}  snap")
    assert f"snapshot of {INSTANCE}" in leaf


@pytest.mark.usefixtures("scenario")
def test_what_came_of_an_image_is_drawn_below_it(metaledger):
    document = metaledger("--json", "image", "lineage", B).document
    assert (document["evidence"], document["descendants"]) == ("none", 1)
    assert [node["name"] for node in document["nodes"]] == ["windows", "snap"]
    assert metaledger("--json", "image", "lineage", A).document["nodes"][0]["name"] == "linux"


@pytest.mark.usefixtures("scenario")
def test_a_snapshot_is_shown_with_its_instance_and_its_parent(metaledger):
    document = metaledger("--json", "snapshot", "show", C).document
    assert document["parent_image_id"] == B
    assert (document["purpose"], document["taken_at"]) == (
        "SNAPSHOT",
        "2018-11-03T09:00:00.000000Z",
    )
    assert document["instance"]["instance_uuid"] == INSTANCE
    assert document["image"]["name"] == "snap"
    told = metaledger("snapshot", "show", C)
    assert (told.status, told.err) == (0, "")
    assert "taken_at" in told.out


@pytest.mark.parametrize("command", [("image", "lineage"), ("snapshot", "show")])
@pytest.mark.usefixtures("scenario")
def test_what_nobody_told_of_is_no(metaledger, command):
    result = metaledger("--json", *command, "nope")
    assert (result.status, result.document) == (1, None)
    assert result.err.count("\n") == 1


@pytest.mark.usefixtures("scenario")
def test_an_image_that_is_no_snapshot_is_none(metaledger):
    assert metaledger("snapshot", "show", B).status == 1


def test_an_image_that_others_name_alone_is_drawn_with_them(metaledger, told):
    told(declaring("child", "never-heard-of"))
    document = metaledger("--json", "image", "lineage", "never-heard-of").document
    assert (document["evidence"], document["descendants"]) == ("none", 1)
    assert document["edges"][0]["evidence"] == "declared"
    out = metaledger("image", "lineage", "never-heard-of").out
    assert "(nobody saw it registered)" in out


def test_a_cycle_is_drawn_once_and_ends(metaledger, told):
    told(declaring("a", "b"), declaring("b", "a"), declaring("self", "self"))
    told_of = metaledger("image", "lineage", "a")
    assert told_of.status == 0
    assert told_of.out.splitlines()[-2:] == ["* b  (declared)", "* a  (declared)"]
    assert metaledger("image", "lineage", "self").out.splitlines()[-1].startswith("* self")
    kinds = metaledger("--json", "anomalies", "--kind", "lineage_cycle").document
    assert sorted(one["aggregate_id"] for one in kinds) == ["a", "b", "self"]


def test_what_a_user_wrote_stays_harmless_in_a_tree(metaledger, told):
    told(declaring("child", "\x1b]0;pwned\x07\u202e"))
    out = metaledger("image", "lineage", "child").out
    assert "\x1b" not in out
    assert "\u202e" not in out


def on_a_terminal(*arguments, columns=80):
    """What a pseudo terminal is sent, line by line, without its styles."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    command = [sys.executable, "-m", "metaledger.services", *arguments]
    environment = {"TERM": "xterm", "HOME": os.environ["HOME"], "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        sent = b""
        try:
            while part := os.read(ours, 65536):
                sent += part
        except OSError:
            # The end of a pseudo terminal whose other side is closed.
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", sent.decode()).splitlines()


@pytest.mark.parametrize("depth", [1, 20, 300])
def test_each_image_of_a_deep_chain_is_whole_on_a_line_of_a_terminal(told, depth):
    chain = [f"aaaaaaaa-1111-4111-8111-{number:012}" for number in range(depth + 1)]
    branch = [f"bbbbbbbb-2222-4222-8222-{number:012}" for number in range(2)]
    asked = chain[depth // 2]
    bases = {**dict(zip(chain, [None, *chain], strict=False)), branch[0]: asked}
    bases[branch[1]] = branch[0]
    told(*(declaring(image, base) for image, base in bases.items()))
    lines = on_a_terminal("image", "lineage", asked)
    assert max(map(len, lines)) <= 80
    for image in bases:
        [line] = [line for line in lines if re.search(rf"\* {image}(?!\S)", line)]
        assert len(line) - len(line.lstrip("│├└─ ")) <= 4


@pytest.mark.usefixtures("scenario")
def test_the_instance_of_a_snapshot_is_whole_on_a_line_of_a_terminal():
    lines = on_a_terminal("image", "lineage", C, columns=60)
    assert max(map(len, lines)) <= 60
    assert f"{INSTANCE})" in lines[-1]

import json
import signal

import pytest

from .samples import SCENARIO, SCENARIO_IMAGE, file_of, registered, updated

HOSTILE = "\x1b[2J\x9b\u202e[red]"


def test_a_ledger_that_is_not_there_is_said_so(metaledger, home):
    result = metaledger("events")
    assert result.status == 2
    assert "there is no log at" in result.err
    assert list(home.iterdir()) == []


def test_events_are_those_of_one_image(metaledger, home):
    metaledger("emit", file_of(home / "f.jsonl", registered("a"), registered("b"), updated("a")))
    events = metaledger("--json", "events", "--image", "a").document
    assert [event["type"] for event in events] == ["ImageRegistered", "ImageUpdated"]
    none = metaledger("--json", "events", "--image", "c")
    assert (none.status, none.document) == (1, [])
    assert none.err == "metaledger: the log has no event of image:c\n"


def test_what_was_told_is_what_is_written(metaledger):
    metaledger("emit", SCENARIO)
    told = [json.loads(line) for line in SCENARIO.read_text().splitlines()]
    for event, line in zip(metaledger("--json", "events").document, told, strict=True):
        assert event["type"] == line["type"]
        assert (
            event["data"].items()
            >= {k: v for k, v in line["data"].items() if k != "change"}.items()
        )
        assert event["meta"]["request_id"] == line["meta"]["request_id"]
        assert event["log"]["partition"] == 0


def test_people_see_a_line_an_event_and_nothing_drives_their_terminal(metaledger, home):
    metaledger("emit", file_of(home / "f.jsonl", registered(properties={HOSTILE: HOSTILE})))
    result = metaledger("events")
    assert result.out.count("\n") == 1
    assert result.out.rstrip("\n").isprintable()
    assert "[red]" in result.out
    [event] = metaledger("--json", "events").document
    assert event["data"]["properties"] == {HOSTILE: HOSTILE}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_following_goes_on_and_ends_cleanly(metaledger, home, start, number):
    metaledger("emit", SCENARIO)
    process = start("--json", "events", "--follow", "--image", SCENARIO_IMAGE)
    first = [json.loads(process.stdout.readline()) for _ in range(2)]
    file = file_of(home / "f.jsonl", registered("other"), updated(SCENARIO_IMAGE, set={"k": "v"}))
    metaledger("emit", file)
    third = json.loads(process.stdout.readline())
    assert [event["meta"]["stream_seq"] for event in (*first, third)] == [1, 2, 3]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")

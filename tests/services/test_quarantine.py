import json

import pytest

from .samples import file_of, registered, updated

STREAM = {"stream_id": "glance-1", "epoch": 1}


def numbered(number, **change):
    return updated(second=number, meta={**STREAM, "stream_seq": number}, **change)


@pytest.fixture
def gap(metaledger, home):
    """Number 2 never came, and 3 waits."""
    first = registered()
    first["meta"] |= {**STREAM, "stream_seq": 1}
    metaledger("emit", file_of(home / "f.jsonl", first, numbered(3, set={"k": "v"})))
    metaledger("project")


def waiting(metaledger):
    document = metaledger("--json", "quarantine", "list").document
    return [one["aggregate"] for one in document["parked"]]


def test_nothing_waits_where_all_came(metaledger, home):
    metaledger("emit", file_of(home / "f.jsonl", registered()))
    metaledger("project")
    assert metaledger("--json", "quarantine", "list").document == {"quarantine": [], "parked": []}
    assert metaledger("quarantine", "list").out == "Nothing waits.\n"


@pytest.mark.usefixtures("gap")
def test_a_gap_is_shown_and_accepted(metaledger):
    assert waiting(metaledger) == ["image:i-1"]
    assert "image:i-1" in metaledger("quarantine", "list").out
    assert "metaledger quarantine accept-gap" in metaledger("quarantine", "list").out
    assert metaledger("--json", "image", "show", "i-1").document["properties"] == []
    result = metaledger("--json", "quarantine", "accept-gap", "image:i-1", "--reason", "lost")
    assert result.document == {"decided": "GapAccepted", "aggregate": "image:i-1"}
    assert metaledger("project").status == 0
    assert waiting(metaledger) == []
    [live] = metaledger("--json", "image", "show", "i-1").document["properties"]
    assert (live["key"], live["value"]) == ("k", "v")
    decision = metaledger("--json", "events").document[-1]
    assert decision["type"] == "GapAccepted"
    assert decision["data"]["reason"] == "lost"


@pytest.mark.usefixtures("gap")
def test_what_comes_late_fills_the_gap(metaledger, home):
    metaledger("emit", file_of(home / "g.jsonl", numbered(2, set={"late": "1"})))
    metaledger("project")
    assert waiting(metaledger) == []


@pytest.fixture
def poison(metaledger, home):
    """A record with other bytes under a known number: it is put aside."""
    first = registered()
    first["meta"] |= {**STREAM, "stream_seq": 1}
    other = numbered(1, set={"\x1b[2J": "v"})
    metaledger("emit", file_of(home / "f.jsonl", first, other))
    metaledger("project")


@pytest.mark.usefixtures("poison")
def test_a_record_in_quarantine_is_shown_with_its_bytes(metaledger):
    document = metaledger("--json", "quarantine", "list").document
    [record] = document["quarantine"]
    assert (record["place"], record["reason"]) == ("0:1", "sequence_conflict")
    shown = metaledger("--json", "quarantine", "show", "0:1").document
    assert shown["event"]["type"] == "ImageUpdated"
    assert shown["decodes"] == "yes"
    told = metaledger("quarantine", "show", "0:1").out
    assert all(line.isprintable() for line in told.splitlines())


@pytest.mark.usefixtures("poison")
def test_a_record_is_skipped_by_a_decision_in_the_ledger(metaledger):
    assert metaledger("quarantine", "skip", "0:1", "--reason", "a restore").status == 0
    assert metaledger("project").status == 0
    [record] = metaledger("--json", "quarantine", "list").document["quarantine"]
    decision = metaledger("--json", "events").document[-1]
    assert decision["type"] == "RecordSkipped"
    assert record["skipped_by_event"] == decision["meta"]["event_id"]
    told = metaledger("quarantine", "list").out
    assert ("nothing waits" in told, "metaledger quarantine skip" in told) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["show", "0:7"], 1),
        (["show", "here"], 2),
        (["skip", "0:7", "--reason", "x"], 2),
        (["skip", "0:1", "--reason", " "], 2),
        (["skip", "0:1"], 2),
        (["accept-gap", "image:i-1", "--reason", "x"], 2),
        (["release", "image:i-1"], 2),
    ],
)
@pytest.mark.usefixtures("poison")
def test_what_is_not_there_is_one_line(metaledger, arguments, status):
    result = metaledger("quarantine", *arguments)
    assert result.status == status
    assert result.err.count("\n") == 1
    assert len(metaledger("--json", "events").document) == 2


@pytest.mark.usefixtures("gap")
def test_a_decision_names_who_made_it(metaledger, monkeypatch):
    monkeypatch.setenv("USER", "alice")
    metaledger("quarantine", "accept-gap", "image:i-1", "--reason", "lost")
    assert json.loads(metaledger("--json", "events").out)[-1]["meta"]["user_id"] == "alice"


@pytest.mark.usefixtures("gap")
def test_a_release_that_frees_nothing_names_what_may(metaledger):
    result = metaledger("quarantine", "release", "image:i-1")
    assert result.status == 1
    assert "image:i-1 still waits." in result.out
    for helps in (
        "metaledger quarantine show PARTITION:OFFSET",
        "metaledger quarantine skip PARTITION:OFFSET --reason …",
        "metaledger quarantine accept-gap image:i-1 --reason …",
    ):
        assert helps in result.out


@pytest.mark.usefixtures("gap")
@pytest.mark.parametrize("bare", ["i-1", "image:", ":i-1"])
@pytest.mark.parametrize("decision", [("release",), ("accept-gap", "--reason", "gone")])
def test_an_aggregate_without_its_kind_is_asked_for_it(metaledger, bare, decision):
    result = metaledger("quarantine", *decision, bare)
    assert result.status == 2
    assert result.err == (
        f"metaledger: {bare} is no aggregate: give KIND:ID, such as image:ID; `metaledger "
        "quarantine list` has those that wait\n"
    )

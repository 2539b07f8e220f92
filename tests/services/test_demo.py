import json
import shlex
from importlib.resources import files

import pytest

from metaledger.services.commands.incidents import INCIDENTS

from .samples import SCENARIO, SCENARIO_IMAGE

SCENARIOS = sorted(SCENARIO.parent.glob("*.jsonl"))


def test_the_demo_tells_what_each_incident_lost_and_what_is_known(metaledger, home):
    result = metaledger("demo")
    assert (result.status, result.err) == (0, "")
    for told in (
        *("901534", "purged", "properties_lost_to_purge", "key1", "value1", "req-2"),
        *("1460079", "virtio", "scsi", "ide", "boot_metadata_overwritten"),
        *("* cccccccc", "windows", "base_image_ref_dropped"),
        *("1419785", "renamed", "DENY", "ALLOW", "hypervisor_host_changed"),
        *("qcow2", "no space left", "disk_layout_mismatch"),
    ):
        assert told in result.out, told
    assert list(home.iterdir()) == []


def test_the_demo_is_data_too(metaledger):
    document = metaledger("--json", "demo").document
    assert [one["name"] for one in document["incidents"]] == [one.name for one in INCIDENTS]
    purge, *_, renamed, _ = document["incidents"]
    gone = [one for one in purge["answers"][1]["answer"]["keys"] if one["state"] == "gone"]
    assert len(gone) == 7
    assert {one["ended"]["how"] for one in gone} == {"purged"}
    verdicts = renamed["answers"][1]["answer"]["verdicts"]
    assert [one["verdict"] for one in verdicts] == ["DENY", "ALLOW"]


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_one_incident_can_be_kept_and_asked_as_the_demo_did(
    metaledger, home, monkeypatch, incident
):
    document = metaledger("--json", "demo", incident.name, "--folder", "d").document
    [told] = document["incidents"]
    again = metaledger("demo", "--folder", "d")
    assert (again.status, again.out) == (2, "")
    monkeypatch.chdir(home / "d")
    for answer in told["answers"]:
        words = shlex.split(answer["command"])[1:]
        assert json.loads(metaledger(*words, "--json").out) == answer["answer"]


def test_an_incident_that_nobody_tells_of_is_wrong(metaledger):
    result = metaledger("demo", "nope")
    assert (result.status, result.out) == (2, "")
    assert "renamed-host" in result.err


def test_the_demo_shows_the_scenarios_themselves():
    assert [one.file for one in INCIDENTS] == [file.name for file in SCENARIOS]
    for file in SCENARIOS:
        shipped = files("metaledger.services").joinpath("demo", file.name)
        assert shipped.read_text() == file.read_text()
    assert SCENARIO_IMAGE in SCENARIO.read_text()

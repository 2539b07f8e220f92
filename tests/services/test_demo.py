from importlib.resources import files

from .samples import SCENARIO, SCENARIO_IMAGE


def test_the_demo_tells_what_was_lost_and_what_is_known(metaledger, home):
    result = metaledger("demo")
    assert (result.status, result.err) == (0, "")
    for told in ("901534", "purged", "properties_lost_to_purge", "key1", "value1", "req-2"):
        assert told in result.out
    assert list(home.iterdir()) == []


def test_the_demo_is_data_too(metaledger):
    document = metaledger("--json", "demo").document
    assert document["image_id"] == SCENARIO_IMAGE
    registered, uploaded, as_of = (
        {one["key"] for one in document[name]["properties"]}
        for name in ("registered", "uploaded", "as_of")
    )
    assert registered == as_of
    assert registered & uploaded == set()
    gone = {one["key"] for one in document["explained"] if one["ended"]}
    assert gone == registered
    assert {one["ended"]["how"] for one in document["explained"] if one["ended"]} == {"purged"}
    assert [one["kind"] for one in document["anomalies"]] == ["properties_lost_to_purge"]


def test_the_demo_can_be_kept_and_asked(metaledger, home, monkeypatch):
    assert metaledger("demo", "--folder", "d").status == 0
    again = metaledger("demo", "--folder", "d")
    assert (again.status, again.out) == (2, "")
    monkeypatch.chdir(home / "d")
    assert metaledger("image", "show", SCENARIO_IMAGE).status == 0


def test_the_demo_shows_the_scenario_itself():
    shipped = files("metaledger.services").joinpath("demo", SCENARIO.name)
    assert shipped.read_text() == SCENARIO.read_text()

import pytest

from .samples import (
    HOSTNAME_CHANGE,
    SCENARIO,
    SCENARIO_HYPERVISOR,
    file_of,
    hypervisor_events,
    line,
)

HOSTILE = "\x1b]0;pwned\x07\u202e[bold]"
BEFORE = "2015-02-27T17:24:35.999999+01:00"
CHANGE = "2015-02-27T16:24:36Z"


@pytest.fixture
def scenario(metaledger, home):
    assert metaledger("emit", file_of(home / "f.jsonl", *hypervisor_events())).status == 0
    assert metaledger("project").status == 0


def history_of(hypervisor_id, metaledger, *options):
    return metaledger("--json", "hypervisor", "history", hypervisor_id, *options).document


@pytest.mark.usefixtures("scenario")
def test_a_hypervisor_is_shown_as_it_is(metaledger):
    document = metaledger("--json", "hypervisor", "show", SCENARIO_HYPERVISOR).document
    [endpoint] = document["endpoints"]
    assert (endpoint["host"], endpoint["since"]) == ("renamed", "2015-02-27T16:24:36.000000Z")
    last = document["attributes"].pop("last_event_id")
    assert endpoint["set_by_event"] == last
    assert document["attributes"] == {
        "host": "renamed",
        "id_source": "FILE",
        "hypervisor_hostname": "compute-a.example.org",
        "hypervisor_type": "QEMU",
        "registered_at": "2015-02-27T08:00:00.000000Z",
        "registration_told_at": "2015-02-27T08:00:00.000000Z",
        "removed_at": None,
    }
    told = metaledger("hypervisor", "show", SCENARIO_HYPERVISOR)
    assert (told.status, told.err) == (0, "")
    assert "compute-a.example.org" in told.out
    assert "renamed" in told.out


@pytest.mark.usefixtures("scenario")
def test_a_hypervisor_is_shown_as_it_was(metaledger):
    shown = ("hypervisor", "show", SCENARIO_HYPERVISOR, "--as-of", BEFORE)
    document = metaledger("--json", *shown).document
    assert document["as_of"] == "2015-02-27T16:24:35.999999Z"
    assert [one["host"] for one in document["endpoints"]] == ["compute-a"]
    assert document["attributes"] == {
        "registered_at": "2015-02-27T08:00:00.000000Z",
        "registration_told_at": "2015-02-27T08:00:00.000000Z",
    }
    assert "compute-a" in metaledger(*shown).out
    then = ("hypervisor", "show", SCENARIO_HYPERVISOR, "--as-of", CHANGE)
    assert [one["host"] for one in metaledger("--json", *then).document["endpoints"]] == ["renamed"]


@pytest.mark.usefixtures("scenario")
def test_the_history_has_every_host_with_its_reason(metaledger):
    intervals = history_of(SCENARIO_HYPERVISOR, metaledger)["intervals"]
    assert [(one["host"], one["set_via"], one["end_reason"]) for one in intervals] == [
        ("compute-a", "registered", "changed"),
        ("renamed", "changed", None),
    ]
    assert intervals[0]["valid_to"] == intervals[1]["valid_from"]
    assert intervals[0]["ended_by_event"] == intervals[1]["set_by_event"]
    [then] = history_of(SCENARIO_HYPERVISOR, metaledger, "--as-of", BEFORE)["intervals"]
    assert (then["host"], then["valid_to"], then["end_reason"]) == ("compute-a", None, None)
    assert then["ended_by_event"] is None
    assert "changed" in metaledger("hypervisor", "history", SCENARIO_HYPERVISOR).out


@pytest.mark.usefixtures("scenario")
@pytest.mark.parametrize(
    ("time", "status"),
    [("2015-02-27T07:59:59Z", 1), ("2015-02-27T08:00:00Z", 0), ("yesterday", 2), ("2015-02-27", 2)],
)
@pytest.mark.parametrize("command", ["show", "history"])
def test_a_time_is_before_it_or_wrong(metaledger, command, time, status):
    result = metaledger("hypervisor", command, SCENARIO_HYPERVISOR, "--as-of", time)
    assert result.status == status
    assert result.err.count("\n") == (status > 0)


@pytest.mark.parametrize("command", ["show", "history"])
@pytest.mark.usefixtures("scenario")
def test_an_unknown_hypervisor_is_no(metaledger, command):
    result = metaledger("--json", "hypervisor", command, "nope")
    assert (result.status, result.document) == (1, None)
    assert result.err == "metaledger: the read model knows no hypervisor nope\n"


def test_one_that_never_had_a_host_is_known_since_its_removal(metaledger, home):
    removed = line("HypervisorRemoved", 5, hypervisor_id="h")
    metaledger("emit", file_of(home / "f.jsonl", removed))
    metaledger("project")
    shown = metaledger("--json", "hypervisor", "show", "h").document
    assert shown["attributes"]["removed_at"] == "2026-01-01T00:00:05.000000Z"
    assert shown["endpoints"] == history_of("h", metaledger)["intervals"] == []
    assert "No host." in metaledger("hypervisor", "show", "h").out
    assert "It never had a host." in metaledger("hypervisor", "history", "h").out
    for time, status in (("2026-01-01T00:00:04Z", 1), ("2026-01-01T00:00:05Z", 0)):
        for command in ("show", "history"):
            assert metaledger("hypervisor", command, "h", "--as-of", time).status == status


def test_hostile_names_are_exact_in_json_and_harmless_on_a_terminal(metaledger, home):
    names = {"host": HOSTILE, "hypervisor_hostname": HOSTILE}
    registered = line("HypervisorRegistered", 0, hypervisor_id=HOSTILE, id_source="NATIVE", **names)
    metaledger("emit", file_of(home / "f.jsonl", registered))
    metaledger("project")
    document = metaledger("--json", "hypervisor", "show", HOSTILE).document
    assert document["attributes"].items() >= names.items()
    for command in ("show", "history"):
        told = metaledger("hypervisor", command, HOSTILE).out
        assert all(one.isprintable() for one in told.splitlines())
        assert "[bold]" in told


@pytest.mark.usefixtures("scenario")
def test_events_are_those_of_the_aggregates_that_are_named(metaledger):
    metaledger("emit", SCENARIO)
    events = metaledger("--json", "events").document
    image = next(
        event["data"]["image_id"] for event in events if event["type"] == "ImageRegistered"
    )
    one = ("--hypervisor", SCENARIO_HYPERVISOR)
    told = metaledger("--json", "events", *one).document
    assert [event["type"] for event in told] == ["HypervisorRegistered", "HypervisorHostChanged"]
    both = metaledger("--json", "events", *one, "--image", image).document
    assert both == [event for event in events if event in told or "image_id" in event["data"]]
    shown = metaledger("events", *one).out.splitlines()[1]
    assert shown.count(SCENARIO_HYPERVISOR) == 1
    assert '{"from_host":"compute-a","to_host":"renamed"}' in shown.replace(" ", "")


def booted(uuid, second, **place):
    return line("InstanceBooted", second, instance_uuid=uuid, **place)


def named(hypervisor_id, second, host, **told):
    told = {"id_source": "FILE", "host": host, **told}
    return line("HypervisorRegistered", second, hypervisor_id=hypervisor_id, **told)


def running(metaledger, hypervisor_id, *options):
    shown = metaledger("--json", "hypervisor", "show", hypervisor_id, *options).document
    return {one["instance_uuid"]: one["resolved_by"] for one in shown["instances"]}


def unmapped(metaledger):
    found = metaledger("--json", "hypervisor", "unmapped").document
    return {one["instance_uuid"]: (one["resolved_by"], one["candidates"]) for one in found}


def test_what_runs_there_is_shown_now_and_as_it_was(metaledger, home):
    metaledger("emit", HOSTNAME_CHANGE)
    metaledger("project")
    stays, moves = (f"e1000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
    assert running(metaledger, SCENARIO_HYPERVISOR) == {stays: "id"}
    then = ("--as-of", "2015-02-27T09:30:00Z")
    assert running(metaledger, SCENARIO_HYPERVISOR, *then) == {stays: "id", moves: "id"}
    assert stays in metaledger("hypervisor", "show", SCENARIO_HYPERVISOR).out
    metaledger("emit", file_of(home / "f.jsonl", named("empty", 0, "e")))
    metaledger("project")
    assert "No instance." in metaledger("hypervisor", "show", "empty").out


def test_what_was_told_by_host_name_alone_is_mapped_when_the_hypervisor_is_known(metaledger, home):
    metaledger("emit", file_of(home / "f.jsonl", booted("i-1", 1, host="a")))
    metaledger("project")
    assert unmapped(metaledger) == {"i-1": ("unknown", [])}
    assert "i-1  2026-01-01T00:00:01Z  a: nobody" in metaledger("hypervisor", "unmapped").out
    metaledger("emit", file_of(home / "f.jsonl", named("hv-1", 2, "a")))
    metaledger("project")
    assert running(metaledger, "hv-1") == {"i-1": "host"}
    assert metaledger("--json", "hypervisor", "unmapped").document == []
    assert "is known" in metaledger("hypervisor", "unmapped").out
    # Another one with the name: nobody guesses, and both are named.
    metaledger("emit", file_of(home / "f.jsonl", named("hv-2", 3, "a")))
    metaledger("project")
    assert running(metaledger, "hv-1") == {}
    assert unmapped(metaledger) == {"i-1": ("ambiguous", ["hv-1", "hv-2"])}
    assert "a: hv-1, hv-2" in metaledger("hypervisor", "unmapped").out
    assert metaledger("instance", "show", "i-1").status == 0


def test_a_host_of_ironic_has_many_hypervisors_and_maps_nothing(metaledger, home):
    ironic = named("node-1", 0, "a", hypervisor_type="ironic")
    metaledger("emit", file_of(home / "f.jsonl", ironic, booted("i-1", 1, host="a")))
    metaledger("project")
    assert unmapped(metaledger) == {"i-1": ("ambiguous", ["node-1"])}
    assert running(metaledger, "node-1") == {}


def test_only_who_had_the_name_in_the_time_of_the_stay_counts(metaledger, home):
    changed = {"hypervisor_id": "old", "from_host": "a", "to_host": "z"}
    metaledger(
        "emit",
        file_of(
            home / "f.jsonl",
            named("old", 0, "a"),
            line("HypervisorHostChanged", 1, **changed),
            named("new", 2, "a"),
            booted("i-1", 3, host="a"),
        ),
    )
    metaledger("project")
    assert running(metaledger, "new") == {"i-1": "host"}
    assert running(metaledger, "new", "--as-of", "2026-01-01T00:00:02Z") == {}

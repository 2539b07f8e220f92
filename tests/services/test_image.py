import pytest

from .samples import SCENARIO, SCENARIO_IMAGE, TIME, file_of, line, registered, updated

HOSTILE = "\x1b]0;pwned\x07\u202e\u2066\x9b31m\U0001f40d\U000e0041[bold]"

MERGE = {"mode": "MERGE"}


@pytest.fixture
def scenario(metaledger):
    assert metaledger("emit", SCENARIO).status == 0
    assert metaledger("project").status == 0


def keys(document):
    return [one["key"] for one in document["properties"]]


@pytest.mark.usefixtures("scenario")
def test_an_image_is_shown_as_it_is(metaledger):
    document = metaledger("--json", "image", "show", SCENARIO_IMAGE).document
    assert document["attributes"]["status"] == "active"
    assert keys(document) == [
        "image_location",
        "image_state",
        "kernel_id",
        "owner_id",
        "ramdisk_id",
    ]
    told = metaledger("image", "show", SCENARIO_IMAGE)
    assert (told.status, told.err) == (0, "")
    assert "image_location" in told.out


@pytest.mark.usefixtures("scenario")
def test_an_image_is_shown_as_it_was(metaledger):
    at = "2011-12-08T18:00:30+01:00"
    document = metaledger("image", "show", SCENARIO_IMAGE, "--as-of", at, "--json").document
    assert document["as_of"] == "2011-12-08T17:00:30.000000Z"
    assert document["attributes"]["status"] == "queued"
    assert document["attributes"]["data_uploaded_at"] is None
    assert keys(document)[-3:] == ["key1", "key2", "user_id"]


def test_as_of_a_time_an_image_has_the_names_and_types_that_it_has_now(metaledger, home):
    life = (
        registered(name="n"),
        line(
            "ImageDataUploaded",
            1,
            image_id="i-1",
            size=2048,
            status="active",
            change=MERGE,
        ),
        line("ImageDeleted", 2, image_id="i-1", deleted_at=TIME.format(2)),
    )
    metaledger("emit", file_of(home / "f.jsonl", *life))
    metaledger("project")

    def attributes(*at):
        return metaledger("--json", "image", "show", "i-1", *at).document["attributes"]

    now, then = attributes(), attributes("--as-of", TIME.format(1))
    assert now.keys() <= then.keys()
    assert (then["size"], then["deleted_at"], then["checksum"]) == (2048, None, None)
    late = attributes("--as-of", "2099-01-01T00:00:00Z")
    assert {name: late[name] for name in now} == now


def test_a_size_that_is_no_number_is_not_known(metaledger, home):
    hostile = line("ImageUpdated", 1, image_id="i-1", attributes={"size": "\u0664x"}, change=MERGE)
    metaledger("emit", file_of(home / "f.jsonl", registered(), hostile))
    metaledger("project")
    for at in ((), ("--as-of", TIME.format(1))):
        shown = metaledger("--json", "image", "show", "i-1", *at)
        assert shown.document["attributes"]["size"] is None


@pytest.mark.usefixtures("scenario")
@pytest.mark.parametrize(
    ("time", "status"),
    [("2011-12-08T16:59:59Z", 1), ("2011-12-08T17:00:00Z", 0), ("yesterday", 2), ("2011-12-08", 2)],
)
@pytest.mark.parametrize("command", ["show", "history", "explain"])
def test_a_time_is_before_it_or_wrong(metaledger, command, time, status):
    result = metaledger("image", command, SCENARIO_IMAGE, "--as-of", time)
    assert result.status == status
    assert result.err.count("\n") == (status > 0)


@pytest.mark.parametrize("command", ["show", "history", "explain"])
@pytest.mark.usefixtures("scenario")
def test_an_unknown_image_is_no(metaledger, command):
    result = metaledger("--json", "image", command, "nope")
    assert (result.status, result.document) == (1, None)
    assert result.err == "metaledger: the read model knows no image nope\n"


@pytest.mark.usefixtures("scenario")
def test_the_history_has_every_interval_with_its_reason(metaledger):
    intervals = metaledger("--json", "image", "history", SCENARIO_IMAGE).document["intervals"]
    ended = {one["key"]: one["end_reason"] for one in intervals if one["what"] == "property"}
    assert ended["key1"] == "purged"
    assert ended["kernel_id"] is None
    assert all((one["valid_to"] is None) == (one["end_reason"] is None) for one in intervals)
    then = metaledger(
        "--json", "image", "history", SCENARIO_IMAGE, "--as-of", "2011-12-08T17:00:30Z"
    ).document["intervals"]
    assert {one["end_reason"] for one in then} == {None}


@pytest.mark.usefixtures("scenario")
def test_each_key_is_explained_by_its_event_and_request(metaledger):
    explained = metaledger("--json", "image", "explain", SCENARIO_IMAGE).document["keys"]
    by_key = {one["key"]: one for one in explained}
    assert len(by_key) == 12
    assert by_key["key1"]["state"] == "gone"
    assert by_key["key1"]["value"] == "value1"
    assert (
        by_key["key1"]["ended"].items()
        >= {
            "how": "purged",
            "event_type": "SnapshotUploaded",
            "request_id": "req-2",
        }.items()
    )
    assert by_key["kernel_id"]["state"] == "live"
    assert by_key["kernel_id"]["ended"] is None
    told = metaledger("image", "explain", SCENARIO_IMAGE).out
    assert "SnapshotUploaded, request req-2" in told


def test_each_reason_has_its_own_words(metaledger, home):
    user = {"user_id": "alice", "request_id": "req-9"}
    events = [
        registered(properties={"a": "1", "b": "1", "c": "1", "d": "1"}),
        updated(second=1, mode="PURGE", set={"a": "2", "d": "1"}, removed=["b"], meta=user),
        line("ImageDeleted", 2, image_id="i-1", deleted_at="2026-01-01T00:00:02Z"),
        registered("i-2", properties={"a": "1"}),
        updated("i-2", second=1, set={"a": "2"}),
    ]
    metaledger("emit", file_of(home / "f.jsonl", *events))
    metaledger("project")
    lines = {
        words[0]: line
        for line in metaledger("image", "explain", "i-1").out.splitlines()
        if (words := line.split())
    }
    assert "removed on purpose" in lines["b"]
    assert "ImageUpdated, request req-9, user alice" in lines["b"]
    assert "purged" in lines["c"]
    assert "ended with the image" in lines["d"]
    assert " set  " in metaledger("image", "explain", "i-2").out
    then = ("--as-of", "2026-01-01T00:00:00Z")
    assert "set at registration" in metaledger("image", "explain", "i-2", *then).out


def test_hostile_properties_are_exact_in_json_and_harmless_on_a_terminal(metaledger, home):
    megabyte = "é" * 300_000
    values = {HOSTILE: HOSTILE, "big": megabyte, "null": None, "empty": ""}
    metaledger("emit", file_of(home / "f.jsonl", registered(properties=values)))
    metaledger("project")
    shown = metaledger("--json", "image", "show", "i-1").document["properties"]
    assert {one["key"]: one["value"] for one in shown} == values
    for command in ("show", "history", "explain"):
        told = metaledger("image", command, "i-1").out
        assert all(line.isprintable() for line in told.splitlines())
        assert "[bold]" in told
        assert "(300,000 characters; --json shows all)" in told


@pytest.mark.usefixtures("scenario")
def test_anomalies_are_found_by_kind_and_time(metaledger):
    [anomaly] = metaledger("--json", "anomalies").document
    assert anomaly["kind"] == "properties_lost_to_purge"
    assert anomaly["aggregate_id"] == SCENARIO_IMAGE
    assert anomaly["details"]["properties"]["key1"] == "value1"
    kind = ("--kind", "properties_lost_to_purge")
    assert len(metaledger("--json", "anomalies", *kind).document) == 1
    assert metaledger("--json", "anomalies", "--kind", "history_gap").document == []
    mistyped = metaledger("anomalies", "--kind", "properties-lost").out
    assert "There are some of kind properties_lost_to_purge." in mistyped
    since = ("--since", "2011-12-08T17:01:00Z")
    assert len(metaledger("--json", "anomalies", *since).document) == 1
    assert metaledger("--json", "anomalies", "--since", "2012-01-01T00:00:00Z").document == []
    assert "key1=value1" in metaledger("anomalies").out


@pytest.mark.usefixtures("scenario")
def test_another_folder_is_reached_by_its_urls(metaledger, home, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    urls = (
        "--ledger",
        f"sqlite:///{home}/metaledger.db",
        "--read-model",
        f"sqlite:///{home}/metaledger-read.db",
    )
    assert metaledger(*urls, "image", "show", SCENARIO_IMAGE).status == 0
    assert metaledger(*urls, "project").status == 0
    monkeypatch.setenv("METALEDGER_LEDGER_URL", urls[1])
    monkeypatch.setenv("METALEDGER_READ_MODEL_URL", urls[3])
    assert metaledger("image", "show", SCENARIO_IMAGE).status == 0
    assert list(elsewhere.iterdir()) == []

import pytest

from .samples import SCENARIO, file_of, line, registered

METADATA = SCENARIO.with_name("2-boot-metadata-overwritten.jsonl")
DISKS = SCENARIO.with_name("5-disk-layout.jsonl")
RESCUED = "0b7a4f2e-6d1c-4c3e-9a51-3f0f6f1d2c11"
WITH_DISKS = "f5000000-0000-4000-8000-000000000001"
BASE = "155d900f-4e14-4e4c-a73d-069cbf4541e6"
HOSTILE = "\x1b]0;pwned\x07\u202e[bold]"


def of(event_type, second, **data):
    return line(event_type, second, instance_uuid="u-1", **data)


@pytest.fixture
def scenario(metaledger):
    metaledger("emit", METADATA)
    metaledger("emit", DISKS)
    assert metaledger("project").status == 0


def metadata_of(metaledger, *options):
    document = metaledger("--json", "instance", "metadata", RESCUED, *options).document
    return document, {one["key"]: one for one in document["metadata"]}


@pytest.mark.usefixtures("scenario")
def test_an_instance_is_shown_as_it_is(metaledger):
    shown = metaledger("--json", "instance", "show", RESCUED).document
    by_event = shown["attributes"].pop("authoritative_by_event")
    assert shown == {
        "instance_uuid": RESCUED,
        "as_of": None,
        "attributes": {
            "image_ref": BASE,
            "flavor": None,
            "hypervisor_id": None,
            "host": None,
            "booted_at": "2015-05-01T09:00:00.000000Z",
            "boot_told_at": "2015-05-01T09:00:00.000000Z",
            "rescue_image_ref": None,
            "deleted_at": None,
        },
    }
    [boot] = [
        event
        for event in metaledger("--json", "events", "--instance", RESCUED).document
        if event["type"] == "InstanceBooted"
    ]
    assert boot["meta"]["event_id"] == by_event
    assert BASE in metaledger("instance", "show", RESCUED).out


@pytest.mark.usefixtures("scenario")
def test_metadata_is_compared_with_what_the_service_stored(metaledger):
    document, rows = metadata_of(metaledger)
    assert rows["image_hw_disk_bus"] == {
        "key": "image_hw_disk_bus",
        "authoritative": "virtio",
        "stored": "scsi",
        "drifted": True,
        "in_use": "virtio",
    }
    assert [key for key, row in rows.items() if row["drifted"]] == ["image_hw_disk_bus"]
    assert document["rescue_image_ref"] is None
    stored = {one["key"]: one["value"] for one in document["system_metadata"]}
    assert stored["owner_user_name"] == "fake"
    assert stored["image_hw_disk_bus"] == "scsi"
    told = metaledger("instance", "metadata", RESCUED).out
    assert ["image_hw_disk_bus", "virtio", "scsi", "True", "virtio"] in [
        words.split() for words in told.splitlines()
    ]


@pytest.mark.usefixtures("scenario")
@pytest.mark.parametrize(
    ("at", "stored", "in_use"),
    [
        ("2015-05-02T12:00:00Z", "virtio", "virtio"),
        ("2015-05-03T12:00:00Z", "scsi", "virtio"),
        ("2015-05-04T09:30:00Z", "scsi", "ide"),
        ("2015-05-04T10:00:00Z", "scsi", "virtio"),
    ],
)
def test_metadata_is_shown_as_it_was_and_a_rescue_has_its_own(metaledger, at, stored, in_use):
    document, rows = metadata_of(metaledger, "--as-of", at)
    bus = rows["image_hw_disk_bus"]
    assert (bus["authoritative"], bus["stored"], bus["in_use"]) == ("virtio", stored, in_use)
    assert bus["drifted"] == (stored != "virtio")
    rescued = in_use == "ide"
    assert (document["rescue_image_ref"] is not None) == rescued
    told = metaledger("instance", "metadata", RESCUED, "--as-of", at).out
    assert ("Rescued with image" in told) == rescued
    shown = metaledger("--json", "instance", "show", RESCUED, "--as-of", at).document
    assert ("rescue_image_ref" in shown["attributes"]) == rescued


@pytest.mark.usefixtures("scenario")
def test_disks_are_shown_with_what_a_mapping_would_store(metaledger):
    shown = metaledger("--json", "instance", "disks", WITH_DISKS).document["disks"]
    assert [(one["disk"], one["state"], one["recorded_by"]) for one in shown] == [
        ("disk", "created", "intent"),
        ("disk.local", "created", "backfill"),
        ("disk.swap", "failed", "intent"),
    ]
    assert shown[0]["driver_info"] == {
        "libvirt_disk_metadata": {
            "version": "1.0",
            "backend": "qcow2",
            "format": "qcow2",
            "size": 21474836480,
        }
    }
    assert shown[2]["last_error"] == "no space left on device"
    told = metaledger("instance", "disks", WITH_DISKS).out
    assert '"libvirt_disk_metadata"' in told
    for each in ("a5000000-0000-4000-8000-000000000009", "mkfs.ext4", "no space left on device"):
        assert each in told
    assert "No disk is known." in metaledger("instance", "disks", RESCUED).out


@pytest.mark.usefixtures("scenario")
def test_disks_are_shown_as_they_were(metaledger):
    then = ("--as-of", "2016-01-10T09:00:05Z")
    shown = metaledger("--json", "instance", "disks", WITH_DISKS, *then).document["disks"]
    assert [(one["disk"], one["state"], one["backend"]) for one in shown] == [
        ("disk", "created", "qcow2"),
        ("disk.swap", "intended", "qcow2"),
    ]
    assert shown[1]["driver_info"]["libvirt_disk_metadata"]["format"] == "raw"
    assert [one["last_error"] for one in shown] == [None, None]
    late = metaledger("--json", "instance", "disks", WITH_DISKS, "--as-of", "2026-01-01T00:00:00Z")
    now = metaledger("--json", "instance", "disks", WITH_DISKS)
    assert late.document["disks"] == now.document["disks"]
    told = metaledger("instance", "disks", WITH_DISKS, *then).out
    assert "intended" in told
    assert "no space left on device" not in told


@pytest.mark.usefixtures("scenario")
@pytest.mark.parametrize("command", ["show", "metadata", "disks"])
def test_an_instance_that_is_not_known_is_no_error(metaledger, command):
    result = metaledger("--json", "instance", command, "nope")
    assert (result.status, result.document) == (1, None)
    assert "knows no instance nope" in result.err
    before = ("--as-of", "2015-05-01T08:59:59Z")
    result = metaledger("--json", "instance", command, RESCUED, *before)
    assert (result.status, result.document) == (1, None)
    assert "as of that time" in result.err
    assert metaledger("instance", command, RESCUED, "--as-of", "2015-05-01").status == 2


def test_a_judgement_makes_no_instance_known(metaledger, home):
    judged = of("DestroyJudged", 1, hypervisor_id="h", host="c", verdict="UNKNOWN", reason="r")
    metaledger("emit", file_of(home / "f.jsonl", judged))
    metaledger("project")
    assert metaledger("instance", "show", "u-1").status == 1
    assert [one["kind"] for one in metaledger("--json", "anomalies").document] == ["destroy_denied"]


def test_where_it_is_and_what_it_runs_is_shown_as_it_was(metaledger, home):
    events = [
        of("InstanceBooted", 1, image_ref="i-1", flavor="m1"),
        of("InstanceRelocated", 2, cause="SCHEDULED", to_hypervisor_id="h-1", to_host="a"),
        of("InstanceRebuilt", 3, image_ref="i-2"),
        of("InstanceRescued", 4, rescue_image_ref="i-9", rescue_metadata={"image_a": "1"}),
        of("InstanceDeleted", 5, deleted_at="2026-01-01T00:00:05Z"),
    ]
    metaledger("emit", file_of(home / "f.jsonl", *events))
    metaledger("project")

    def shown(*options):
        return metaledger("--json", "instance", "show", "u-1", *options).document["attributes"]

    def as_of(second):
        return shown("--as-of", f"2026-01-01T00:00:{second:02}Z")

    booted = dict.fromkeys(("booted_at", "boot_told_at"), "2026-01-01T00:00:01.000000Z")
    runs = {"image_ref": "i-1", "flavor": "m1", **booted}
    there = {"hypervisor_id": "h-1", "host": "a"}
    assert as_of(1) == runs
    assert as_of(2) == {**runs, **there}
    assert as_of(4) == {**runs, **there, "image_ref": "i-2", "rescue_image_ref": "i-9"}
    query = "SELECT count(*) FROM instance_rescue_metadata"
    assert metaledger("--json", "sql", query).document["rows"] == [[0]]
    assert as_of(5) == {**booted, "deleted_at": "2026-01-01T00:00:05.000000Z"}
    now = shown()
    assert (now["image_ref"], now["hypervisor_id"], now["host"]) == ("i-2", "h-1", None)
    assert now["rescue_image_ref"] is None


def test_what_operations_use_while_it_is_rescued_is_a_view(metaledger, home):
    rescued = of("InstanceRescued", 1, rescue_image_ref="i-9", rescue_metadata={"image_a": "1"})
    metaledger("emit", file_of(home / "f.jsonl", rescued))
    metaledger("project")
    query = "SELECT instance_uuid, key, value FROM instance_rescue_metadata"
    assert metaledger("--json", "sql", query).document["rows"] == [["u-1", "image_a", "1"]]


def test_what_nobody_saw_boot_has_not_drifted(metaledger, home):
    save = of("InstanceSystemMetadataSaved", 1, operation="o", after={"image_a": "1"})
    metaledger("emit", file_of(home / "f.jsonl", save))
    metaledger("project")
    query = "SELECT key, authoritative, stored, drifted FROM instance_image_metadata"
    [row] = metaledger("--json", "sql", query).document["rows"]
    assert row[:3] == ["image_a", None, "1"]
    assert not row[3]
    [one] = metaledger("--json", "instance", "metadata", "u-1").document["metadata"]
    assert one["drifted"] is False


def test_what_an_instance_from_before_stores_has_drifted_when_it_changes(metaledger, home):
    boot = line("InstanceBooted", 1, instance_uuid="u-1", meta={"origin": "IMPORTED"})
    save = of("InstanceSystemMetadataSaved", 3, operation="o", after={"image_a": "1"})
    metaledger("emit", file_of(home / "f.jsonl", boot, save))
    metaledger("project")
    shown = metaledger("--json", "instance", "show", "u-1").document["attributes"]
    assert (shown["booted_at"], shown["boot_told_at"]) == (None, "2026-01-01T00:00:01.000000Z")
    for as_of in ((), ("--as-of", "2026-01-01T00:00:03Z")):
        told = metaledger("--json", "instance", "metadata", "u-1", *as_of).document["metadata"]
        assert [(it["key"], it["drifted"]) for it in told] == [("image_a", True)]


def test_view_and_command_agree_whatever_drifted(metaledger, home):
    told = {"image_a": "1", "image_b": None, "image_c": "1", "image_d": "1", "IMAGE_x": "1"}
    stored = {"image_a": "1", "image_b": "2", "image_c": None, "image_e": None, "imagexy": "1"}
    events = [
        of("InstanceBooted", 1, system_metadata=told),
        of("InstanceSystemMetadataSaved", 2, operation="o", after=stored),
        line("InstanceBooted", 3, instance_uuid="u-2", system_metadata={"image_z": "1"}),
    ]
    metaledger("emit", file_of(home / "f.jsonl", *events))
    metaledger("project")
    query = (
        "SELECT key, authoritative, stored, drifted FROM instance_image_metadata"
        " WHERE instance_uuid = 'u-1' ORDER BY key"
    )
    rows = [[*row[:3], bool(row[3])] for row in metaledger("--json", "sql", query).document["rows"]]
    assert rows == [
        ["image_a", "1", "1", False],
        ["image_b", None, "2", True],
        ["image_c", "1", None, True],
        ["image_d", "1", None, True],
        ["image_e", None, None, True],
    ]
    shown = metaledger("--json", "instance", "metadata", "u-1").document["metadata"]
    assert rows == [
        [one["key"], one["authoritative"], one["stored"], one["drifted"]] for one in shown
    ]


@pytest.mark.parametrize(
    ("events", "drifted"),
    [
        # Back after a deletion, with nothing that it has by right.
        (
            [
                of("InstanceBooted", 1, image_ref="i", system_metadata={"image_a": "1"}),
                of("InstanceDeleted", 2, deleted_at="2026-01-01T00:00:02Z"),
            ],
            False,
        ),
        # Rebuilt, nobody saw it boot, with no image metadata at all.
        ([of("InstanceRebuilt", 1, image_ref="i", after={})], True),
    ],
)
def test_view_and_command_agree_where_nothing_is_authoritative(metaledger, home, events, drifted):
    save = of("InstanceSystemMetadataSaved", 3, operation="o", after={"image_a": "1"})
    metaledger("emit", file_of(home / "f.jsonl", *events, save))
    metaledger("project")
    query = "SELECT key, authoritative, stored, drifted FROM instance_image_metadata"
    [row] = metaledger("--json", "sql", query).document["rows"]
    assert [*row[:3], bool(row[3])] == ["image_a", None, "1", drifted]
    [one] = metadata_rows(metaledger)
    assert (one["authoritative"], one["stored"], one["drifted"]) == (None, "1", drifted)


def test_events_are_those_of_one_instance(metaledger, home):
    boot = of("InstanceBooted", 1, image_ref="i-1")
    metaledger("emit", file_of(home / "f.jsonl", registered("i-1"), boot))
    [event] = metaledger("--json", "events", "--instance", "u-1").document
    assert event["type"] == "InstanceBooted"
    both = metaledger("--json", "events", "--instance", "u-1", "--image", "i-1").document
    assert len(both) == 2


def test_hostile_values_are_exact_in_json_and_harmless_on_a_terminal(metaledger, home):
    layout = {
        "version": HOSTILE,
        "backend": HOSTILE,
        "format": HOSTILE,
        "size_bytes": 1,
        "source": {"kind": "IMAGE", "image_id": HOSTILE},
    }
    events = [
        of("InstanceBooted", 1, image_ref=HOSTILE, system_metadata={f"image_{HOSTILE}": HOSTILE}),
        of("InstanceRescued", 2, rescue_image_ref=HOSTILE, rescue_metadata={HOSTILE: HOSTILE}),
        of("DiskCreationStarted", 3, disk=HOSTILE, layout=layout),
    ]
    metaledger("emit", file_of(home / "f.jsonl", *events))
    metaledger("project")
    shown = metaledger("--json", "instance", "show", "u-1").document["attributes"]
    assert shown["image_ref"] == shown["rescue_image_ref"] == HOSTILE
    [disk] = metaledger("--json", "instance", "disks", "u-1").document["disks"]
    assert disk["driver_info"]["libvirt_disk_metadata"]["backend"] == HOSTILE
    assert {one["key"] for one in metadata_rows(metaledger)} == {f"image_{HOSTILE}", HOSTILE}
    for command in (("instance", "show"), ("instance", "metadata"), ("instance", "disks")):
        told = metaledger(*command, "u-1").out
        assert all(line.isprintable() for line in told.splitlines())
        assert "[bold]" in told
    assert all(line.isprintable() for line in metaledger("events").out.splitlines())


def metadata_rows(metaledger):
    return metaledger("--json", "instance", "metadata", "u-1").document["metadata"]

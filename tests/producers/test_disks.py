"""A disk's intent is durable before the disk is there, and an outcome never fails one that is."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from metaledger.producers.disks import Disks, NewDisk
from metaledger.producers.scrubbing import CHARS_MAX, scrubbed
from metaledger.producers.spool import Spool
from metaledger.producers.tables import outbox
from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskEvent,
    DiskLayout,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
    DiskSource,
    SourceKind,
)
from metaledger.schemas.errors import Unrecorded
from metaledger.schemas.events import Event

from .kit import CODEC, SETTINGS

UUID = "f5000000-0000-4000-8000-000000000001"
LAYOUT = DiskLayout(
    version="1.0",
    backend="qcow2",
    format="qcow2",
    size_bytes=1024,
    source=DiskSource(kind=SourceKind.IMAGE, image_id="an image"),
)
ROOT, SWAP, LOCAL = (
    NewDisk(instance_uuid=UUID, disk=name, layout=LAYOUT)
    for name in ("disk", "disk.swap", "disk.local")
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def disks(path: Path) -> Disks:
    return new_disks(path)


def new_disks(path: Path, **changed: object) -> Disks:
    """As another process has them."""
    settings = replace(SETTINGS, **changed)
    return Disks(Spool(path, settings, wait_s=0), settings.context)


def events(path: Path) -> list[Event]:
    columns = (outbox.c.value, outbox.c.sha256)
    with Spool(path, SETTINGS).engine.connect() as connection:
        rows = connection.execute(select(*columns).order_by(outbox.c.id)).all()
    return [CODEC.decode(bytes(value), bytes(sha256)) for value, sha256 in rows]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else writes into the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


def told(path: Path) -> list[tuple[type[DiskEvent], str]]:
    return [(type(event.data), event.data.disk) for event in events(path)]


def test_an_intent_is_durable_before_the_disk_is_made(path: Path, disks: Disks) -> None:
    with disks.creating(ROOT):
        assert told(path) == [(DiskCreationStarted, "disk")]
        assert events(path)[0].data.layout == LAYOUT
    assert told(path)[1:] == [(DiskCreated, "disk")]
    assert events(path)[1].data.layout is None


def test_several_disks_are_one_transaction(path: Path, disks: Disks) -> None:
    with disks.creating(ROOT, SWAP, LOCAL):
        assert told(path) == [(DiskCreationStarted, it.disk) for it in (ROOT, SWAP, LOCAL)]
    assert told(path)[3:] == [(DiskCreated, it.disk) for it in (ROOT, SWAP, LOCAL)]
    assert [event.meta.stream_seq for event in events(path)] == [1, 2, 3, 4, 5, 6]


def test_what_one_process_told_the_next_one_knows(path: Path) -> None:
    with new_disks(path).creating(ROOT):
        pass
    new_disks(path).met(ROOT)
    assert told(path) == [(DiskCreationStarted, "disk"), (DiskCreated, "disk")]


def test_an_error_is_told_and_goes_on_its_way(path: Path, disks: Disks) -> None:
    def make_one_of_two() -> None:
        with disks.creating(ROOT, SWAP) as creation:
            creation.made(ROOT)
            raise OSError("no space left on device, password=hidden")

    with pytest.raises(OSError, match="no space"):
        make_one_of_two()
    assert told(path)[2:] == [(DiskCreated, "disk"), (DiskCreationFailed, "disk.swap")]
    assert events(path)[3].data.error == "OSError: no space left on device, password=***"


def test_what_was_made_otherwise_is_the_fact(path: Path, disks: Disks) -> None:
    raw = replace(LAYOUT, format="raw")
    with disks.creating(ROOT, SWAP) as creation:
        creation.made(ROOT, raw)
        creation.made(SWAP, LAYOUT)
    assert [event.data.layout for event in events(path)[2:]] == [raw, None]


@pytest.mark.parametrize("cause", ["locked", "full", "no folder", "no spool"])
def test_a_disk_without_a_durable_intent_never_comes_into_being(cause: str, path: Path) -> None:
    disks, made = new_disks(path, outbox_rows_max=2), []
    with ExitStack() as stack:
        if cause == "full":
            with disks.creating(SWAP):
                pass
        elif cause == "no folder":
            (path.parent / "file").touch()
            disks = new_disks(path.parent / "file" / "spool.db")
        elif cause == "no spool":
            path.write_text("no database at all, but more than a hundred bytes of text " * 5)
        else:
            Spool(path, SETTINGS).install()
            stack.enter_context(locked(path))
        message = "disk of instance f5.* the spool .* `metaledger relay --spool`"
        with pytest.raises(Unrecorded, match=message), disks.creating(ROOT):
            made.append(ROOT)
    assert made == []


def test_an_outcome_that_is_lost_is_counted_and_mended_at_the_next_touch(path: Path) -> None:
    disks = new_disks(path)
    with ExitStack() as stack, disks.creating(ROOT):
        stack.enter_context(locked(path))
    assert disks.failures == 1
    assert told(path) == [(DiskCreationStarted, "disk")]
    disks.met(ROOT)
    assert told(path)[1:] == [(DiskCreated, "disk")]
    assert [event.meta.missed for event in events(path)] == [0, 1]


def test_a_disk_that_was_met_unrecorded_is_told_once(path: Path, disks: Disks) -> None:
    disks.met(ROOT, SWAP)
    disks.met(ROOT, SWAP)
    assert told(path) == [(DiskLayoutBackfilled, "disk"), (DiskLayoutBackfilled, "disk.swap")]
    assert events(path)[0].data.layout == LAYOUT


def test_a_disk_that_grew_has_changed_and_nothing_else_of_it(path: Path, disks: Disks) -> None:
    with disks.creating(ROOT):
        pass
    other = replace(LAYOUT.source, image_id="another image")
    larger = replace(ROOT, layout=replace(LAYOUT, size_bytes=2048, source=other))
    for met in (larger, larger, ROOT):
        disks.met(met)
    assert told(path)[2:] == [(DiskLayoutChanged, "disk")]
    assert events(path)[2].data.layout == replace(LAYOUT, size_bytes=2048)


def test_a_disk_that_was_resized_is_told_anew_wherever_it_was(path: Path, disks: Disks) -> None:
    with disks.creating(ROOT):
        pass
    larger = replace(ROOT, layout=replace(LAYOUT, size_bytes=2048))
    # Of that one another machine has told.
    new = replace(SWAP, layout=replace(LAYOUT, location="here"))
    for _ in range(2):
        disks.resized(larger, new)
    assert told(path)[2:] == [(DiskLayoutChanged, "disk"), (DiskLayoutChanged, "disk.swap")]
    assert [event.data.layout for event in events(path)[2:]] == [larger.layout, new.layout]


def test_a_disk_that_failed_and_is_there_is_told(path: Path, disks: Disks) -> None:
    with pytest.raises(OSError), disks.creating(ROOT):  # noqa: PT011
        raise OSError
    disks.met(ROOT)
    assert told(path)[2:] == [(DiskLayoutBackfilled, "disk")]


def test_who_makes_a_disk_says_that_the_one_before_it_is_gone(path: Path, disks: Disks) -> None:
    for _ in range(2):
        with disks.creating(ROOT):
            pass
    assert [kind for kind, _ in told(path)[2:]] == [DiskDeleted, DiskCreationStarted, DiskCreated]


def test_disks_that_are_gone_are_told_once(path: Path, disks: Disks) -> None:
    with disks.creating(ROOT, SWAP):
        pass
    with pytest.raises(OSError), disks.creating(LOCAL):  # noqa: PT011
        raise OSError
    disks.gone(UUID, lambda name: name == "disk.swap")
    disks.gone(UUID)
    disks.gone(UUID)
    assert told(path)[6:] == [(DiskDeleted, "disk.swap"), (DiskDeleted, "disk")]


def test_disks_that_went_elsewhere_are_met_again_as_unknown(path: Path, disks: Disks) -> None:
    with disks.creating(ROOT):
        pass
    disks.left(UUID)
    disks.met(ROOT)
    assert told(path)[2:] == [(DiskLayoutBackfilled, "disk")]


def test_a_crash_leaves_an_intent_and_never_an_unknown_disk(path: Path, tmp_path: Path) -> None:
    disks, file = new_disks(path), tmp_path / "disk"
    child = os.fork()
    if child == 0:
        with disks.creating(ROOT):
            file.write_bytes(b"a disk")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert file.exists()
    assert told(path) == [(DiskCreationStarted, "disk")]
    disks.met(ROOT)
    assert told(path)[1:] == [(DiskCreated, "disk")]


def test_an_intent_that_came_to_nothing_has_failed_when_the_next_one_is_told(path: Path) -> None:
    disks = new_disks(path)
    child = os.fork()
    if child == 0:
        with disks.creating(ROOT):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with disks.creating(ROOT):
        pass
    kinds = [DiskCreationStarted, DiskCreationFailed, DiskCreationStarted, DiskCreated]
    assert [kind for kind, _ in told(path)] == kinds


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://user:secret@host/x?X-Auth=1 failed", "GET https://***@host/x?*** failed"),
        ("rbd:pool/x:id=nova:key=AQBx== not found", "rbd:pool/x:id=nova:key=*** not found"),
        ("https://user:a/b@host/x failed", "https://***@host/x failed"),
        ("'mysql://user:a@b@host/nova' and x@y", "'mysql://***@host/nova' and x@y"),
        ("{'admin_password': 'abc', 'size': 1}", "{'admin_password': ***, 'size': 1}"),
        ('{"password": "a b c", "size": 1}', '{"password": ***, "size": 1}'),
        (r'{"secret": "a \" b", "size": 1}', '{"secret": ***, "size": 1}'),
        ('password="my secret pass" next', "password=*** next"),
        ('password="never closed', "password=***"),
        ("Command: x --password hunter2 --size 3", "Command: x --password *** --size 3"),
        ("Command: x --secret 'a b' y", "Command: x --secret *** y"),
        ("x --ask-pass --size 3", "x --ask-pass --size 3"),
        ("X-Auth-Token: gAAAAAB", "X-Auth-Token: ***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("token " + "A" * 200 + " refused", "token *** refused"),
        ("qemu-img:\n  No space\x00left", "qemu-img: No space\ufffdleft"),
        ("/var/lib/nova/instances/_base/" + "a" * 40, "/var/lib/nova/instances/_base/" + "a" * 40),
        ("x " * 1000, ("x " * 1000)[: CHARS_MAX - 1] + "…"),
    ],
)
def test_free_text_is_capped_and_scrubbed(text: str, shown: str) -> None:
    assert scrubbed(text) == shown


def test_no_text_holds_up_who_scrubs_it() -> None:
    for text in (
        "a:" * 10**6,
        "://" * 10**6,
        "key" * 10**6,
        "=" * 10**6,
        "\ud800" * 10**6,
        "--key " * 10**6,
        'key="\\' * 10**6,
    ):
        assert len(scrubbed(text)) <= CHARS_MAX

"""A rebuild is two transactions of Nova's; the ledger makes one fact of what is left of them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from metaledger.producers import counters
from metaledger.producers.nova.source import KINDS
from metaledger.producers.nova.tables import INSTANCES
from metaledger.projector.database import connect
from metaledger.schemas.identity import system_clock
from metaledger.schemas.instance import InstanceRebuilt
from metaledger.schemas.meta import Origin

from ..importing.kit import Cloud
from .cell import IMAGE, NEXT_IMAGE, UUID, Cell, cell, replace_metadata, save, with_plugin

INSTANCE = KINDS[1]
BOOTED = {"image_base_image_ref": IMAGE, "image_min_disk": "1"}
REBUILT = {"image_base_image_ref": NEXT_IMAGE, "image_min_disk": "2"}
OPEN = ("rebuild", "open")


@pytest.fixture
def nova(cell_url: str) -> Iterator[Cell]:
    """A cell with an instance that runs."""
    with cell(cell_url) as made:
        made.boot()
        made.spawned()
        yield made


@pytest.fixture
def ledger(nova: Cell, tmp_path: Path) -> Iterator[Cloud]:
    """What it feeds."""
    made = Cloud(nova.url, tmp_path, tables=INSTANCES.metadata)
    made.project()
    yield made
    made.close()


def rebuild_until_killed(url: str) -> None:
    """`API.rebuild`, whose process is killed just before its second commit."""
    engine = create_engine(with_plugin(url))
    with Session(engine) as session, session.begin():
        save(session.connection(), UUID, image_ref=NEXT_IMAGE, task_state="rebuilding")
    # Behind the plugin's own listener: all is written, and nothing is committed.
    event.listen(engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with Session(engine) as session, session.begin():
        save(session.connection(), UUID)
        replace_metadata(session, UUID, REBUILT)


@pytest.fixture
def killed(nova: Cell, ledger: Cloud) -> Cloud:
    """The ledger of a cell in which an API was killed within a rebuild."""
    child = multiprocessing.get_context("fork").Process(
        target=rebuild_until_killed, args=(nova.url,)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert nova.metadata() == BOOTED
    ledger.project()
    return ledger


def asked(ledger: Cloud, sql: str) -> list[Any]:
    engine = connect(ledger.read_model_url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(sql))]
    engine.dispose()
    return found


def known(ledger: Cloud) -> tuple[str, dict[str, str]]:
    """The image that the ledger says it runs, and the metadata that it has by right."""
    ((image,),) = asked(ledger, "SELECT image_ref FROM instances")
    by_right = (
        "SELECT key, value FROM instance_attribute_history"
        " WHERE kind = 'authoritative' AND valid_to IS NULL"
    )
    return image, dict(asked(ledger, by_right))


def differing(ledger: Cloud, *, mend: bool = False) -> list[tuple[str, object]]:
    return [(it.what, it.ledger) for it in ledger.compare(INSTANCE, mend=mend)[0]]


def test_what_a_killed_rebuild_left_is_told_when_nova_is_done_with_it(
    nova: Cell, killed: Cloud
) -> None:
    assert known(killed) == (NEXT_IMAGE, BOOTED)
    # Until somebody resets its state, a rebuild is going on, and may save its metadata yet.
    assert differing(killed, mend=True) == []
    nova.save(task_state=None)
    assert differing(killed, mend=True) == [OPEN]
    told = killed_events(killed)[-1]
    assert told.data == InstanceRebuilt(instance_uuid=UUID, image_ref=NEXT_IMAGE, after=BOOTED)
    assert told.meta.origin is Origin.RECONCILED
    killed.project()
    assert known(killed) == (NEXT_IMAGE, BOOTED)
    assert differing(killed) == []


def test_a_rebuild_that_is_tried_again_is_complete(nova: Cell, killed: Cloud) -> None:
    nova.save(task_state=None)
    with nova.hooked.begin() as connection:
        # Of another image: from the same one Nova's own call would say so.
        save(connection, UUID, image_ref="image-c", task_state="rebuilding")
    nova.save(metadata={**REBUILT, "image_base_image_ref": "image-c"})
    nova.save(vm_state="active", task_state=None)
    killed.project()
    assert known(killed) == ("image-c", {**REBUILT, "image_base_image_ref": "image-c"})
    assert differing(killed) == []


def begin(nova: Cell) -> None:
    nova.save(image_ref=NEXT_IMAGE, task_state="rebuilding")


def lose_the_save(nova: Cell) -> None:
    """The second transaction is committed, and could not be recorded."""
    with Session(nova.stock) as session, session.begin():
        replace_metadata(session, UUID, REBUILT)
        counters.mark(session.connection(), [f"instance:{UUID}"], system_clock())


def mended_by_a_hook(nova: Cell, _ledger: Cloud) -> None:
    nova.save(vm_state="active", task_state=None)
    nova.place("host-2")


def mended_by_an_operator(nova: Cell, ledger: Cloud) -> None:
    nova.save(vm_state="active", task_state=None)
    ledger.project()
    assert OPEN in differing(ledger, mend=True)


@pytest.mark.parametrize("mend", [mended_by_a_hook, mended_by_an_operator])
def test_a_rebuild_whose_save_went_unrecorded_is_completed_by_what_mends_that(
    nova: Cell, ledger: Cloud, mend: Callable[[Cell, Cloud], None]
) -> None:
    begin(nova)
    lose_the_save(nova)
    mend(nova, ledger)
    ledger.project()
    assert known(ledger) == (NEXT_IMAGE, REBUILT)
    assert differing(ledger) == []
    # What was believed of it meanwhile is withdrawn. Its hypervisor nobody registers here: that
    # takes a nova-compute.
    standing = asked(ledger, "SELECT DISTINCT kind FROM anomalies WHERE withdrawn_by_event IS NULL")
    assert standing == [("instance_hypervisor_unknown",)]


def test_a_base_that_a_resize_stored_completes_no_rebuild(nova: Cell, killed: Cloud) -> None:
    """It is set to whatever the row names; all else is the image's that it booted from."""
    nova.save(task_state=None)
    nova.save(task_state="resize_prep", metadata={**BOOTED, "image_base_image_ref": NEXT_IMAGE})
    killed.project()
    assert known(killed) == (NEXT_IMAGE, BOOTED)


def killed_events(ledger: Cloud) -> list[Any]:
    ledger.relay()
    return [it for it in ledger.events() if it.meta.aggregate == f"instance:{UUID}"]

"""Each event type has one owner, and the documents say which."""

import re
from pathlib import Path

from metaledger.producers.owners import OWNERS, Owner, owned_by
from metaledger.schemas.events import EVENTS

CONTRACT = Path(__file__).parents[2] / "docs" / "EVENTS.md"


def test_every_event_type_has_an_owner() -> None:
    assert set(OWNERS) == set(EVENTS)
    assert set(OWNERS.values()) == set(Owner)


def test_the_contract_names_the_same_owners() -> None:
    text = CONTRACT.read_text(encoding="utf-8").partition("## Who writes what")[2]
    rows = re.findall(
        r"^\| ([a-z ]+) \| [^|]+ \| (.+) \|$", text.partition("\n## ")[0], re.MULTILINE
    )
    named = {owner: set(re.findall(r"`(\w+)`", types)) for owner, types in rows if owner != "owner"}
    # "all of images", "all of disks"
    folders = {Owner.ENGINE_PLUGIN: "image", Owner.DISK_HOOK: "disk"}
    for owner in Owner:
        told = {
            event.__name__
            for event in owned_by(owner)
            if not event.__module__.endswith(f".{folders.get(owner)}")
        }
        assert named[owner.value] == told

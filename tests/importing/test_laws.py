"""The laws of cold start: whatever a database holds, wherever an import is broken off, and whatever
the hooked service does meanwhile, the read model is what the database holds, and nothing is twice.
"""

import contextlib
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import Phase, given, settings
from sqlalchemy import Connection, insert, update

from metaledger.producers.glance.tables import IMAGES, LOCATIONS, PROPERTIES
from metaledger.schemas.image import ImageRegistered

from .kit import SETTINGS, Cloud, Halted, halting, put_image, put_property, put_tag

DELETED_AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
EARLIER = datetime(2026, 1, 1, tzinfo=UTC)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
keys = st.sampled_from(["a", "b", "image_type", "instance_uuid", "os_hash", "Ä "])
images = st.fixed_dictionaries(
    {
        "columns": st.fixed_dictionaries(
            {
                "name": st.none() | texts,
                "status": st.sampled_from(["queued", "active", "deactivated", "killed"]),
                "owner": st.none() | texts,
                "min_disk": st.integers(0, 2),
                "protected": st.booleans(),
                "os_hidden": st.booleans(),
                "size": st.none() | st.integers(0, 2**40),
                "checksum": st.none() | st.just("c" * 32),
            }
        ),
        "properties": st.dictionaries(keys, st.tuples(st.none() | texts, st.booleans())),
        "tags": st.dictionaries(st.sampled_from(["t", "u", "v"]), st.booleans()),
        "locations": st.lists(st.booleans(), max_size=2),
        "gone": st.sampled_from(["", "", "deleted", "undated", "half"]),
    }
)
# What the service does between two batches of the import: to which image, and what.
touches = st.tuples(st.integers(0, 7), st.sampled_from(["rename", "property", "delete"]))
breaks = st.lists(st.integers(0, 4), max_size=3)


def put(connection: Connection, image_id: str, image: dict[str, Any]) -> None:
    gone, columns = image["gone"], dict(image["columns"])
    if gone:
        columns |= {"status": "deleted", "deleted": gone != "half"}
        columns["deleted_at"] = DELETED_AT if gone == "deleted" else None
    put_image(connection, image_id, **columns)
    for name, (value, removed) in image["properties"].items():
        put_property(connection, image_id, name, value, deleted=removed or bool(gone))
    for tag, removed in image["tags"].items():
        put_tag(connection, image_id, tag, EARLIER if removed else None)
    for removed in image["locations"]:
        connection.execute(insert(LOCATIONS).values(image_id=image_id, deleted=removed))


def touch(cloud: Cloud, image_id: str, what: str) -> None:
    """As Glance does it; an image that is deleted is left alone."""
    with cloud.hooked.begin() as connection:
        live = (IMAGES.c.id == image_id) & (IMAGES.c.status != "deleted")
        match what:
            case "rename":
                connection.execute(update(IMAGES).where(live).values(name="renamed"))
            case "property":
                mine = PROPERTIES.c.image_id == image_id
                changed = update(PROPERTIES).where(mine, PROPERTIES.c.deleted.is_(False))
                connection.execute(changed.values(value="changed"))
            case _:
                connection.execute(update(IMAGES).where(live).values(status="deleted"))
                purged = update(PROPERTIES).where(PROPERTIES.c.image_id == image_id)
                connection.execute(purged.values(deleted=True))


def states(images: dict[str, Any], seen: set[str]) -> dict[str, Any]:
    """Of a deleted image that the service touched only that: the ledger knows better than the
    database which properties it had lost before."""
    return {
        image_id: "deleted" if state[0] == "deleted" and image_id in seen else state
        for image_id, state in images.items()
    }


# To shrink a failure takes minutes, for each example is a database and a ledger of its own.
@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(images, max_size=8),
    breaks,
    st.lists(touches, max_size=6),
    st.lists(touches, max_size=3),
)
def test_the_read_model_is_what_the_database_holds(
    held: list[dict[str, Any]],
    broken_off: list[int],
    meanwhile: list[tuple[int, str]],
    afterwards: list[tuple[int, str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "service.sqlite"
        path.touch()
        cloud = Cloud(f"sqlite:///{path}", Path(folder))
        try:
            # Three images at once, and room for thirty events.
            cloud.settings = replace(SETTINGS, outbox_rows_max=60)
            with cloud.stock.begin() as connection:
                for number, image in enumerate(held):
                    put(connection, f"image-{number}", image)
            cloud.relay()
            left = list(meanwhile)
            for commits in broken_off:
                with contextlib.suppress(Halted), halting(cloud.operator, commits):
                    cloud.bring()
                if left:
                    number, what = left.pop()
                    touch(cloud, f"image-{number}", what)
            done = cloud.bring()
            assert (done.done, done.lacking) == (len(held), 0)
            for number, what in left + afterwards:
                touch(cloud, f"image-{number}", what)
            seen = {f"image-{number}" for number, what in meanwhile + afterwards}
            cloud.project()
            assert states(cloud.told(), seen) == states(cloud.holds(), seen)
            told = Counter(
                it.data.image_id for it in cloud.events() if isinstance(it.data, ImageRegistered)
            )
            assert told == Counter(f"image-{number}" for number in range(len(held)))
            assert cloud.bring().events == 0
        finally:
            cloud.close()

"""`image lineage` and `snapshot show`: where an image comes from, and what came of it.

Lineage is no matter of time: an image has one origin, and what is said of it is the best that is
known now.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.text import Text

from metaledger.schemas.times import time_text
from metaledger.services import queries
from metaledger.services.graph import Graph
from metaledger.services.output import Document, Views
from metaledger.services.queries import Row
from metaledger.services.reading import reading
from metaledger.services.shell import DONE, Shell, add_group, answer_unknown
from metaledger.services.terminal import cell, harmless, seconds_only, table

ImageId = Annotated[str, typer.Argument(metavar="ID", help="the image's id")]
_NODE = (
    "image_id",
    "name",
    "image_type",
    "instance_uuid",
    "purpose",
    "registered_at",
    "registration_told_at",
    "taken_at",
    "deleted_at",
)


def register(app: typer.Typer) -> None:
    """Adds the group `snapshot`; `lineage` is a command of the group `image`."""
    add_group(app, "snapshot", "One snapshot: its instance and its parent.", show=show)


def lineage(shell: Shell, image_id: ImageId) -> int:
    """Where it comes from and what came of it: what is derived beside what is declared."""
    with reading(shell.settings.read_model) as connection:
        said = queries.lineage.of_image(connection, image_id)
        found = queries.lineage.tree(connection, image_id)
        descendants = queries.lineage.descendants(connection, image_id)
    if said is None and descendants == 0:
        return answer_unknown(shell, f"image {image_id}", None)
    # An image that is only named by others has no origin that anybody told.
    said = said or {"image_id": image_id, "root_image_id": image_id, "evidence": "none"}
    shown = min(descendants, queries.lineage.DESCENDANTS_MAX)
    document = {
        **said,
        "nodes": [{name: row[name] for name in _NODE} for row in found],
        "edges": [_edge(row) for row in found if row["edge_image_id"] is not None],
        "descendants": descendants,
        "descendants_left_out": descendants - shown,
    }

    def view() -> Views:
        rows = [(name, value) for name, value in said.items() if name != "image_id"]
        yield table(("lineage", "value"), rows)
        yield ""
        yield _drawn(found, said["root_image_id"], image_id)
        if descendants > shown:
            yield f"… and {descendants - shown:,} more descendants: see image_ancestors"

    shell.output.answer(document, view)
    return DONE


def show(shell: Shell, image_id: ImageId) -> int:
    """What it is a snapshot of, when it was taken, and what its instance ran then."""
    with reading(shell.settings.read_model) as connection:
        taken = queries.lineage.snapshot(connection, image_id)
        image = queries.image.as_it_is(connection, image_id)
        said = queries.lineage.of_image(connection, image_id)
        instance = taken and queries.instance.as_it_is(connection, taken["instance_uuid"])
    if taken is None:
        return answer_unknown(shell, f"snapshot {image_id}", None)

    def view() -> Views:
        yield table(("snapshot", "value"), taken.items())
        for name, row in (("image", image), ("lineage", said), ("instance", instance)):
            yield ""
            if row is None:
                yield f"Nobody told of the {name} itself."
            else:
                yield table((name, "value"), list(row.items())[1:])

    document = {**taken, "image": image, "lineage": said, "instance": instance}
    shell.output.answer(document, view)
    return DONE


def _edge(row: Row) -> Document:
    return {
        "image_id": row["image_id"],
        "to_image_id": row["edge_image_id"],
        "evidence": "derived" if row["parent_image_id"] == row["edge_image_id"] else "declared",
    }


def _drawn(found: Sequence[Row], root: str, asked: str) -> Graph:
    """What stands below the root. A cycle has no root: it is cut where the paths were."""
    by_id = {row["image_id"]: row for row in found}
    children: Mapping[str, list[str]] = defaultdict(list)
    for row in found:
        if row["edge_image_id"] in by_id and row["image_id"] != root:
            children[row["edge_image_id"]].append(row["image_id"])
    return Graph(root, children, {it: _label(row, asked) for it, row in by_id.items()})


def _label(row: Row, asked: str) -> Text:
    text = Text(harmless(row["image_id"]), style="bold" if row["image_id"] == asked else "")
    if row["name"] is not None:
        text.append("  ").append(cell(row["name"]))
    words = []
    if row["instance_uuid"] is not None:
        words.append(
            f"{(row['purpose'] or 'snapshot').lower()} of {harmless(row['instance_uuid'])}"
        )
    if row["edge_image_id"] is not None and row["parent_image_id"] != row["edge_image_id"]:
        words.append("declared")
    if row["deleted_at"] is not None:
        words.append("deleted")
    if row["registered_at"] is None:
        words.append("nobody saw it registered")
        if (since := row["registration_told_at"]) is not None:
            words.append(f"known since {seconds_only(time_text(since))}")
    if words:
        text.append(f"  ({', '.join(words)})", style="dim")
    return text

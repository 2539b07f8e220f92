"""What is asked about lineage: what is said of an image, and the tree that it stands in."""

from sqlalchemy import Connection, bindparam

from metaledger.services.queries.form import Row, query, rows

# More of them are for SQL.
DESCENDANTS_MAX = 1_000

_LINEAGE = query("""
    SELECT image_id, instance_uuid, parent_image_id, declared_base_image_ref, declared_lost,
           base_image_ref, root_image_id, evidence
      FROM image_lineage WHERE image_id = :image_id""")

_RELATED = query(f"""
    WITH descendants AS (
        SELECT image_id FROM image_ancestors WHERE ancestor_image_id = :image_id
         ORDER BY depth, image_id LIMIT {DESCENDANTS_MAX}
    )
    SELECT :image_id AS image_id
     UNION SELECT ancestor_image_id FROM image_ancestors WHERE image_id = :image_id
     UNION SELECT image_id FROM descendants""")

# By their ids, once those are known: of a join PostgreSQL expects so many rows that it goes through
# whole tables.
_TOLD = tuple(
    query(f"SELECT image_id, {said} AND image_id IN :image_ids").bindparams(
        bindparam("image_ids", expanding=True)
    )
    for said in (
        "name, image_type, registered_at, registration_told_at, deleted_at FROM images WHERE true",
        "instance_uuid, purpose, taken_at, parent_image_id FROM snapshots WHERE true",
        "ancestor_image_id AS edge_image_id FROM image_ancestors WHERE depth = 1",
    )
)
_NODE = (
    *("name", "image_type", "registered_at", "registration_told_at", "deleted_at"),
    *("instance_uuid", "purpose", "taken_at", "parent_image_id", "edge_image_id"),
)

_DESCENDANTS = query(
    "SELECT count(*) AS images FROM image_ancestors WHERE ancestor_image_id = :image_id"
)

_SNAPSHOT = query("""
    SELECT image_id, instance_uuid, parent_image_id, purpose, taken_at
      FROM snapshots WHERE image_id = :image_id""")


def of_image(connection: Connection, image_id: str) -> Row | None:
    """What is derived and declared of the image's origin."""
    return next(iter(rows(connection, _LINEAGE, image_id=image_id)), None)


def tree(connection: Connection, image_id: str) -> list[Row]:
    """The image, its ancestors and the nearest DESCENDANTS_MAX of its descendants; each with where
    its edge goes. What is null in one that is only named elsewhere, nobody told.
    """
    ids = sorted(row["image_id"] for row in rows(connection, _RELATED, image_id=image_id))
    found: dict[str, Row] = {it: {"image_id": it, **dict.fromkeys(_NODE)} for it in ids}
    for asked in _TOLD:
        for row in rows(connection, asked, image_ids=ids):
            found[row["image_id"]] |= row
    return list(found.values())


def descendants(connection: Connection, image_id: str) -> int:
    """How many images descend from it."""
    [row] = rows(connection, _DESCENDANTS, image_id=image_id)
    return int(row["images"])


def snapshot(connection: Connection, image_id: str) -> Row | None:
    """The snapshot that the image is."""
    return next(iter(rows(connection, _SNAPSHOT, image_id=image_id)), None)

"""What is asked about lineage: what is said of an image, and the tree that it stands in."""

from sqlalchemy import Connection

from metaledger.services.queries.form import Row, query, rows

# More of them are for SQL.
DESCENDANTS_MAX = 1_000

_LINEAGE = query("""
    SELECT image_id, instance_uuid, parent_image_id, declared_base_image_ref, declared_lost,
           base_image_ref, root_image_id, evidence
      FROM image_lineage WHERE image_id = :image_id""")

# Of each image only by its keys: a view over all images would be gone through as a whole.
_TREE = query(f"""
    WITH descendants AS (
        SELECT image_id FROM image_ancestors WHERE ancestor_image_id = :image_id
         ORDER BY depth, image_id LIMIT {DESCENDANTS_MAX}
    ), related AS (
        SELECT :image_id AS image_id
         UNION SELECT ancestor_image_id FROM image_ancestors WHERE image_id = :image_id
         UNION SELECT image_id FROM descendants
    )
    SELECT related.image_id, i.name, i.image_type, i.registered_at, i.deleted_at,
           s.instance_uuid, s.purpose, s.taken_at, s.parent_image_id,
           a.ancestor_image_id AS edge_image_id
      FROM related
      LEFT JOIN images i ON i.image_id = related.image_id
      LEFT JOIN snapshots s ON s.image_id = related.image_id
      LEFT JOIN image_ancestors a ON a.image_id = related.image_id AND a.depth = 1
     ORDER BY related.image_id""")

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
    return rows(connection, _TREE, image_id=image_id)


def descendants(connection: Connection, image_id: str) -> int:
    """How many images descend from it."""
    [row] = rows(connection, _DESCENDANTS, image_id=image_id)
    return int(row["images"])


def snapshot(connection: Connection, image_id: str) -> Row | None:
    """The snapshot that the image is."""
    return next(iter(rows(connection, _SNAPSHOT, image_id=image_id)), None)

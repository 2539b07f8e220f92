"""How aggregates stand in the read model, in the form in which a service's database is compared."""

import json
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, TextualSelect, bindparam

from metaledger.producers.source import Standing
from metaledger.services.queries.form import query, rows

Standings = dict[str, Standing]


def _of_keys(sql: str) -> TextualSelect:
    return query(sql).bindparams(bindparam("keys", expanding=True))


_IMAGES = _of_keys("SELECT image_id, deleted_at FROM images WHERE image_id IN :keys")
_IMAGE_VALUES = _of_keys(
    "SELECT image_id, 'attribute' AS what, key, value FROM image_attribute_history"
    " WHERE valid_to IS NULL AND image_id IN :keys"
    " UNION ALL SELECT image_id, 'property', key, value FROM image_properties"
    " WHERE image_id IN :keys"
)
_LIVE_IMAGES = query(
    "SELECT image_id AS key FROM images WHERE deleted_at IS NULL AND image_id > :after"
    " ORDER BY image_id LIMIT :keys_max"
)

# A number that was quarantined and waits for nobody is settled too: no state will ever have it.
_SEEN = _of_keys("""
    SELECT aggregate_id, epoch, max(stream_seq) AS seq
      FROM (SELECT aggregate_id, epoch, stream_seq FROM ledger_events
             WHERE aggregate_kind = :kind AND aggregate_id IN :keys AND stream_id = :stream_id
            UNION ALL
            SELECT aggregate_id, epoch, stream_seq FROM quarantine
             WHERE aggregate_kind = :kind AND aggregate_id IN :keys AND stream_id = :stream_id
               AND (skipped_by_event IS NOT NULL OR NOT parks)) seen
     GROUP BY aggregate_id, epoch""")
_PARKED = _of_keys("SELECT aggregate FROM parked_aggregates WHERE aggregate IN :keys")


def images(connection: Connection, image_ids: Sequence[str]) -> Standings:
    """The images that the ledger knows."""
    found = rows(connection, _IMAGES, keys=image_ids)
    live = {row["image_id"] for row in found if row["deleted_at"] is None}
    values: dict[str, dict[tuple[str, str], str | None]] = {image_id: {} for image_id in live}
    for row in rows(connection, _IMAGE_VALUES, keys=image_ids):
        if row["image_id"] not in live:
            continue
        held = values[row["image_id"]]
        if (row["what"], row["key"]) == ("attribute", "tags"):
            held |= {("tag", tag): tag for tag in json.loads(row["value"] or "[]")}
        else:
            held[row["what"], row["key"]] = row["value"]
    return {
        row["image_id"]: Standing(values=values[row["image_id"]])
        if row["image_id"] in live
        else Standing(deleted=True)
        for row in found
    }


# By kind: how some stand, and the first live ones behind a key.
STANDINGS: Mapping[str, Callable[[Connection, Sequence[str]], Standings]] = {"image": images}
_LIVE = {"image": _LIVE_IMAGES}


def live(connection: Connection, kind: str, *, after: str, keys_max: int) -> list[str]:
    """The keys of those that are not deleted, in order, behind a key."""
    return [row["key"] for row in rows(connection, _LIVE[kind], after=after, keys_max=keys_max)]


def seen(
    connection: Connection, kind: str, keys: Sequence[str], *, stream_id: str
) -> dict[str, dict[int, int]]:
    """The last number of each epoch that the read model has of a stream, by key."""
    last: dict[str, dict[int, int]] = {}
    for row in rows(connection, _SEEN, kind=kind, keys=keys, stream_id=stream_id):
        last.setdefault(row["aggregate_id"], {})[row["epoch"]] = row["seq"]
    return last


def parked(connection: Connection, aggregates: Sequence[str]) -> set[str]:
    """Those of the aggregates that wait for a missing number or an operator."""
    return {row["aggregate"] for row in rows(connection, _PARKED, keys=aggregates)}

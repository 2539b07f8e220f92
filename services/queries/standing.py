"""How aggregates stand in the read model, in the form in which a service's database is compared."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, TextualSelect, bindparam

from metaledger.producers.nova.source import REBUILD
from metaledger.producers.owners import Owner, owned_by
from metaledger.producers.source import Standing, What
from metaledger.schemas.hypervisor import HYPERVISOR_EVENTS
from metaledger.schemas.instance import INSTANCE_EVENTS
from metaledger.services.queries.form import Row, query, rows

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

_HYPERVISORS = _of_keys("""
    SELECT hypervisor_id, host, hypervisor_hostname, hypervisor_type, removed_at
      FROM hypervisors WHERE hypervisor_id IN :keys""")
_INSTANCES = _of_keys("""
    SELECT i.instance_uuid, i.image_ref, i.hypervisor_id, l.host, i.deleted_at
      FROM instances i
      LEFT JOIN instance_locations l ON l.instance_uuid = i.instance_uuid AND l.valid_to IS NULL
     WHERE i.instance_uuid IN :keys""")
# The image that it runs is a rebuild's, and what it has by right is older than that.
_OPEN_REBUILDS = _of_keys("""
    SELECT i.instance_uuid
      FROM instances i
      JOIN instance_attribute_history h
        ON h.instance_uuid = i.instance_uuid AND h.kind = 'attribute' AND h.key = 'image_ref'
       AND h.valid_to IS NULL AND h.set_via = 'rebuilt'
      JOIN ledger_events rebuilt ON rebuilt.event_id = h.set_by_event
      LEFT JOIN ledger_events known ON known.event_id = i.authoritative_by_event
     WHERE i.instance_uuid IN :keys
       AND (known.log_offset IS NULL OR known.log_offset < rebuilt.log_offset)""")
_METADATA = _of_keys(
    "SELECT instance_uuid, key, value FROM instance_metadata_history"
    " WHERE valid_to IS NULL AND instance_uuid IN :keys"
)
_LIVE = {
    "image": _LIVE_IMAGES,
    "hypervisor": query(
        "SELECT hypervisor_id AS key FROM hypervisors"
        " WHERE removed_at IS NULL AND hypervisor_id > :after"
        " ORDER BY hypervisor_id LIMIT :keys_max"
    ),
    "instance": query(
        "SELECT instance_uuid AS key FROM instances"
        " WHERE deleted_at IS NULL AND instance_uuid > :after"
        " ORDER BY instance_uuid LIMIT :keys_max"
    ),
}

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
# What is told beside a service's database says nothing of which one holds what it is told of; an
# import or a reconciliation tells from a database, whatever it tells.
_BESIDE = sorted(
    it.__name__
    for it in (*INSTANCE_EVENTS, *HYPERVISOR_EVENTS)
    if it not in owned_by(Owner.ENGINE_PLUGIN)
)
_LAST_STREAMS = _of_keys("""
    SELECT e.aggregate_id, e.stream_id
      FROM ledger_events e
      JOIN (SELECT aggregate_id, log_partition, max(log_offset) AS log_offset
              FROM ledger_events
             WHERE aggregate_kind = :kind AND aggregate_id IN :keys
               AND (event_type NOT IN :beside OR origin <> 'OBSERVED')
             GROUP BY aggregate_id, log_partition) told
        ON told.log_partition = e.log_partition AND told.log_offset = e.log_offset""").bindparams(
    bindparam("beside", value=_BESIDE, expanding=True)
)
_PARKED = _of_keys("SELECT aggregate FROM parked_aggregates WHERE aggregate IN :keys")


def images(connection: Connection, image_ids: Sequence[str]) -> Standings:
    """The images that the ledger knows."""
    found = rows(connection, _IMAGES, keys=image_ids)
    live = {row["image_id"] for row in found if row["deleted_at"] is None}
    values: dict[str, dict[What, str | None]] = {image_id: {} for image_id in live}
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


def hypervisors(connection: Connection, hypervisor_ids: Sequence[str]) -> Standings:
    """The hypervisors that the ledger knows."""
    return {
        row["hypervisor_id"]: Standing(deleted=True)
        if row["removed_at"] is not None
        else _attributes(row, "host", "hypervisor_hostname", "hypervisor_type")
        for row in rows(connection, _HYPERVISORS, keys=hypervisor_ids)
    }


def instances(connection: Connection, instance_uuids: Sequence[str]) -> Standings:
    """The instances that the ledger knows."""
    metadata: defaultdict[str, dict[What, str | None]] = defaultdict(dict)
    for row in rows(connection, _METADATA, keys=instance_uuids):
        metadata[row["instance_uuid"]]["metadata", row["key"]] = row["value"]
    for row in rows(connection, _OPEN_REBUILDS, keys=instance_uuids):
        metadata[row["instance_uuid"]][REBUILD] = "open"
    found: Standings = {}
    for row in rows(connection, _INSTANCES, keys=instance_uuids):
        uuid = row["instance_uuid"]
        told = _attributes(row, "image_ref", "hypervisor_id", "host")
        found[uuid] = (
            Standing(values={**told.values, **metadata[uuid]})
            if row["deleted_at"] is None
            else Standing(deleted=True)
        )
    return found


def _attributes(row: Row, *names: str) -> Standing:
    return Standing(values={("attribute", name): row[name] for name in names})


# By kind: how some stand.
STANDINGS: Mapping[str, Callable[[Connection, Sequence[str]], Standings]] = {
    "image": images,
    "hypervisor": hypervisors,
    "instance": instances,
}


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


def last_streams(connection: Connection, kind: str, keys: Sequence[str]) -> dict[str, str]:
    """The stream through which each was told of last by a database or an operator, by key."""
    found = rows(connection, _LAST_STREAMS, kind=kind, keys=keys)
    return {row["aggregate_id"]: row["stream_id"] for row in found}


def parked(connection: Connection, aggregates: Sequence[str]) -> set[str]:
    """Those of the aggregates that wait for a missing number or an operator."""
    return {row["aggregate"] for row in rows(connection, _PARKED, keys=aggregates)}

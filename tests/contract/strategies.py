"""Any event that the contract allows, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

from metaledger.schemas.events import Event
from metaledger.schemas.hypervisor import (
    HypervisorHostChanged,
    HypervisorRegistered,
    HypervisorRemoved,
    IdSource,
)
from metaledger.schemas.image import (
    ImageDataUploaded,
    ImageDeleted,
    ImageRegistered,
    ImageUpdated,
    Mode,
    PropertyChange,
    SnapshotUploaded,
)
from metaledger.schemas.ledger import GapAccepted, RecordSkipped, SourceProgressed
from metaledger.schemas.meta import Meta, Origin

from . import instance_strategies
from .values import lists, longs, maps, maybe_long, maybe_text, names, texts, times

changes = st.builds(
    PropertyChange,
    mode=st.sampled_from([Mode.MERGE, Mode.PURGE]),
    set=maps,
    removed=st.none() | lists,
    seen=st.none() | lists,
    exempt=lists,
    before=st.none() | maps,
    after=st.none() | maps,
    before_digest=maybe_text,
    after_digest=maybe_text,
    altered=lists,
)
_uploaded: dict[str, st.SearchStrategy[Any]] = {
    "image_id": names,
    "size": longs,
    "checksum": maybe_text,
    "os_hash_algo": maybe_text,
    "os_hash_value": maybe_text,
    "status": texts,
    "change": changes,
}
data = st.one_of(
    st.builds(
        ImageRegistered,
        image_id=names,
        name=maybe_text,
        status=texts,
        owner=maybe_text,
        visibility=maybe_text,
        disk_format=maybe_text,
        container_format=maybe_text,
        min_disk=maybe_long,
        min_ram=maybe_long,
        protected=st.none() | st.booleans(),
        tags=lists,
        properties=maps,
        altered=lists,
        attributes=maps,
    ),
    st.builds(SnapshotUploaded, instance_uuid=maybe_text, **_uploaded),
    st.builds(ImageDataUploaded, **_uploaded),
    st.builds(
        ImageUpdated, image_id=names, attributes=maps, tags=st.none() | lists, change=changes
    ),
    st.builds(ImageDeleted, image_id=names, deleted_at=times),
    st.builds(
        SourceProgressed,
        oldest_unsent_at=st.none() | times,
        rows_waiting=longs,
        rows_max=longs,
        unrecorded_aggregates=longs,
        last_error=maybe_text,
    ),
    st.builds(
        GapAccepted,
        gap_stream_id=texts,
        gap_epoch=st.integers(-(2**31), 2**31 - 1),
        from_seq=longs,
        to_seq=longs,
        reason=texts,
    ),
    st.builds(RecordSkipped, topic_id=texts, log_partition=longs, log_offset=longs, reason=texts),
    st.builds(
        HypervisorRegistered,
        hypervisor_id=names,
        id_source=st.sampled_from([IdSource.NATIVE, IdSource.FILE, IdSource.DERIVED]),
        host=texts,
        hypervisor_hostname=maybe_text,
        hypervisor_type=maybe_text,
    ),
    st.builds(HypervisorHostChanged, hypervisor_id=names, from_host=texts, to_host=texts),
    st.builds(HypervisorRemoved, hypervisor_id=names),
    instance_strategies.data,
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    told = draw(data)
    meta = st.builds(
        Meta,
        event_id=st.uuids().map(str),
        deployment_id=texts,
        aggregate=st.just(told.aggregate) if told.aggregate else names.map("image:{}".format),
        stream_id=names,
        epoch=st.integers(1, 2**31 - 1),
        stream_seq=st.integers(1, 2**63 - 1),
        occurred_at=times,
        service=texts,
        host=texts,
        origin=st.sampled_from([Origin.OBSERVED, Origin.IMPORTED, Origin.RECONCILED]),
        missed=longs,
        request_id=maybe_text,
        global_request_id=maybe_text,
        user_id=maybe_text,
        project_id=maybe_text,
        causation_id=maybe_text,
    )
    return Event(draw(meta), told)

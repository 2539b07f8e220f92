"""Any event of an instance that the contract allows; `strategies` has those of all aggregates."""

from enum import StrEnum

from hypothesis import strategies as st

from metaledger.schemas.disk import (
    DiskCreated,
    DiskCreationFailed,
    DiskCreationStarted,
    DiskDeleted,
    DiskLayout,
    DiskLayoutBackfilled,
    DiskLayoutChanged,
    DiskSource,
    SourceKind,
)
from metaledger.schemas.instance import (
    DestroyJudged,
    InstanceBooted,
    InstanceDeleted,
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceRelocated,
    InstanceRescued,
    InstanceSystemMetadataSaved,
    InstanceUnrescued,
    RelocationCause,
    SnapshotPurpose,
    SnapshotTaken,
    Verdict,
)

from .values import lists, longs, maps, maybe_text, names, texts, times


def _said(enum: type[StrEnum]) -> st.SearchStrategy[StrEnum]:
    return st.sampled_from([each for each in enum if str(each) != "UNKNOWN"])


layouts = st.builds(
    DiskLayout,
    version=texts,
    backend=texts,
    format=texts,
    size_bytes=longs,
    source=st.builds(DiskSource, kind=_said(SourceKind), image_id=maybe_text, function=maybe_text),
    location=maybe_text,
    extra=maps,
)
_this = {"instance_uuid": names}
_disk = {"instance_uuid": names, "disk": texts}
data = st.one_of(
    st.builds(
        InstanceBooted,
        image_ref=maybe_text,
        system_metadata=maps,
        flavor=maybe_text,
        hypervisor_id=maybe_text,
        host=maybe_text,
        altered=lists,
        **_this,
    ),
    st.builds(
        InstanceSystemMetadataSaved,
        operation=texts,
        before=st.none() | maps,
        after=maps,
        altered=lists,
        **_this,
    ),
    st.builds(
        SnapshotTaken,
        snapshot_image_id=texts,
        image_ref=maybe_text,
        purpose=_said(SnapshotPurpose),
        properties=maps,
        altered=lists,
        **_this,
    ),
    st.builds(
        InstanceRebuilt,
        previous_image_ref=maybe_text,
        image_ref=texts,
        before=st.none() | maps,
        after=st.none() | maps,
        altered=lists,
        **_this,
    ),
    st.builds(
        InstanceRebuildRolledBack,
        image_ref=maybe_text,
        after=st.none() | maps,
        altered=lists,
        **_this,
    ),
    st.builds(
        InstanceRescued, rescue_image_ref=texts, rescue_metadata=maps, altered=lists, **_this
    ),
    st.builds(InstanceUnrescued, **_this),
    st.builds(
        InstanceRelocated,
        cause=_said(RelocationCause),
        from_hypervisor_id=maybe_text,
        to_hypervisor_id=maybe_text,
        from_host=maybe_text,
        to_host=maybe_text,
        **_this,
    ),
    st.builds(InstanceDeleted, deleted_at=times, **_this),
    st.builds(
        DestroyJudged,
        hypervisor_id=texts,
        host=texts,
        # Here UNKNOWN is an answer.
        verdict=st.sampled_from(Verdict),
        reason=texts,
        **_this,
    ),
    st.builds(DiskCreationStarted, layout=layouts, **_disk),
    st.builds(DiskCreated, layout=st.none() | layouts, **_disk),
    st.builds(DiskCreationFailed, error=texts, **_disk),
    st.builds(DiskLayoutBackfilled, layout=layouts, **_disk),
    st.builds(DiskLayoutChanged, layout=layouts, reason=texts, **_disk),
    st.builds(DiskDeleted, **_disk),
)

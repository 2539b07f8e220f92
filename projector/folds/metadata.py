"""An instance's metadata: what it has by right, and what its service stored (EVENTS.md, "Folding
instances"). Pure.

The stored metadata follows each event that tells it. The authoritative image metadata follows a
boot and a rebuild that is complete; what any other save does to it is an anomaly. `instance` says
what was decided beyond the contract.
"""

from msgspec.structs import replace

from metaledger.projector.folds.instance_turn import BASE, InstanceState, Rebuild, Turn, shown
from metaledger.projector.folds.intervals import SetVia, Values
from metaledger.projector.folds.properties import Difference, difference
from metaledger.projector.folds.step import Step
from metaledger.schemas.instance import (
    InstanceRebuildRolledBack,
    InstanceRebuilt,
    InstanceSystemMetadataSaved,
)

# These set it to the image that the instance runs, whatever it was.
_SETS_BASE = frozenset({"resize", "shelve"})


def image_keys(metadata: Values) -> Values:
    """What of the metadata is an image's."""
    return {key: value for key, value in metadata.items() if key.startswith("image_")}


def saved(turn: Turn, data: InstanceSystemMetadataSaved) -> Step[InstanceState]:
    """A save: it completes a rebuild, or changes nothing but what is stored."""
    was = turn.was
    reasons = turn.revived()
    turn.missed(reasons, _catch_up(turn, data.before, reasons))
    rebuild = was.rebuild
    if rebuild is not None and _completes(rebuild, turn, data):
        _rebuild_metadata(turn, data.after, was.image_ref)
        turn.altered(data.altered)
        return turn.step(
            metadata_known=True,
            authoritative_by=turn.event_id,
            rebuild=replace(rebuild, is_open=False),
            deleted_at=None,
        )
    held = turn.metadata.values
    turn.become(turn.metadata, data.after, via="saved")
    if turn.was_seen:
        _find_overwritten(turn, data, held)
    turn.altered(data.altered)
    return turn.step(metadata_known=True, deleted_at=None)


def rebuilt(turn: Turn, data: InstanceRebuilt) -> Step[InstanceState]:
    """A rebuild: another image, and its metadata where it is told already."""
    was = turn.was
    reasons = turn.revived()
    gap = _catch_up(turn, data.before, reasons)
    previous = _catch_up_image(turn, data.previous_image_ref, reasons)
    turn.missed(reasons, _together(gap, previous))
    rebuild = Rebuild(
        image_ref=turn.attributes.values.get("image_ref"),
        authoritative=dict(turn.authoritative.values),
        authoritative_by=was.authoritative_by,
        request_id=turn.fact.event.meta.request_id,
        is_open=data.after is None,
    )
    _set_image(turn, data.image_ref, via="rebuilt")
    known = was.metadata_known or data.before is not None or data.after is not None
    authoritative_by = was.authoritative_by
    if data.after is not None:
        _rebuild_metadata(turn, data.after, data.image_ref)
        authoritative_by = turn.event_id
    turn.altered(data.altered)
    return turn.step(
        image_ref=data.image_ref,
        authoritative_by=authoritative_by,
        metadata_known=known,
        rebuild=rebuild,
        deleted_at=None,
    )


def rolled_back(turn: Turn, data: InstanceRebuildRolledBack) -> Step[InstanceState]:
    """A rebuild that was none: image and authoritative metadata are as before it."""
    was = turn.was
    reasons = turn.revived()
    before = _rebuild_of(turn)
    image_ref = data.image_ref
    authoritative_by = was.authoritative_by
    if before is not None:
        authoritative_by = before.authoritative_by
        turn.become(turn.authoritative, before.authoritative, via="rolled_back")
        _find_divergence(turn, before.image_ref, image_ref)
        image_ref = before.image_ref if image_ref is None else image_ref
    elif was.boot_told_at is not None:
        reasons.append("never_rebuilt")
    turn.missed(reasons, None)
    if image_ref is not None or before is not None:
        _set_image(turn, image_ref, via="rolled_back")
    else:
        image_ref = was.image_ref
    if data.after is not None:
        turn.become(turn.metadata, data.after, via="saved")
    turn.altered(data.altered)
    return turn.step(
        image_ref=image_ref,
        authoritative_by=authoritative_by,
        metadata_known=was.metadata_known or data.after is not None,
        rebuild=None,
        deleted_at=None,
    )


def _catch_up(turn: Turn, before: Values | None, reasons: list[str]) -> Difference | None:
    """Brings the stored metadata to what its service held; the difference, if any was expected."""
    if before is None:
        return None
    gap = difference(turn.metadata.values, before)
    turn.metadata.become(before, via="unseen", replaced="unseen")
    if gap is None or not turn.was.metadata_known:
        return None
    reasons.append("before_differs")
    return gap


def _catch_up_image(turn: Turn, previous: str | None, reasons: list[str]) -> Difference | None:
    """As `_catch_up`, for the image that the instance ran."""
    known = turn.attributes.values.get("image_ref")
    if previous is None or previous == known:
        return None
    turn.attributes.overlay({"image_ref": previous}, via="unseen", replaced="unseen")
    if known is None and turn.was.boot_told_at is None:
        return None
    reasons.append("image_ref_differs")
    return Difference({"image_ref": known}, {"image_ref": previous})


def _together(gap: Difference | None, image: Difference | None) -> Difference | None:
    if gap is None or image is None:
        return gap or image
    return Difference({**gap.expected, **image.expected}, {**gap.found, **image.found})


def _completes(rebuild: Rebuild, turn: Turn, data: InstanceSystemMetadataSaved) -> bool:
    """Whether the save is the second half of the rebuild, or tells one that went unrecorded."""
    same_request = rebuild.request_id == turn.fact.event.meta.request_id
    is_its_own = data.operation == "rebuild" and same_request
    return rebuild.is_open and (is_its_own or _tells_lost_save(turn, data))


def _tells_lost_save(turn: Turn, data: InstanceSystemMetadataSaved) -> bool:
    """Whether it mends, and the base is the image of the rebuild, which it was not before."""
    base = data.after.get(BASE)
    held = turn.metadata.values.get(BASE)
    return not turn.was_seen and base == turn.was.image_ref and base != held


def _rebuild_of(turn: Turn) -> Rebuild | None:
    """The rebuild that the event rolls back; None where it was another, which nobody saw."""
    rebuild = turn.was.rebuild
    request_id = turn.fact.event.meta.request_id
    if rebuild is None or None in (rebuild.request_id, request_id):
        return rebuild
    return rebuild if rebuild.request_id == request_id else None


def _rebuild_metadata(turn: Turn, after: Values, image_ref: str | None) -> None:
    """The metadata is that of the rebuild; raises base_image_ref_dropped."""
    had = turn.metadata.values
    turn.become(turn.metadata, after, via="rebuilt")
    turn.become(turn.authoritative, image_keys(after), via="rebuilt")
    if turn.was_seen and BASE in had and BASE not in after:
        details = {"base_image_ref": had[BASE], "image_ref": image_ref}
        turn.found("base_image_ref_dropped", "error", details)


def _find_overwritten(turn: Turn, data: InstanceSystemMetadataSaved, held: Values) -> None:
    """Raises boot_metadata_overwritten; `held` is what was stored before the save."""
    kept = turn.authoritative.values
    after = data.after
    missing = object()
    keys = [
        key
        for key in sorted(kept)
        if after.get(key, missing) != kept[key]
        and after.get(key, missing) != held.get(key, missing)
    ]
    sets_base = BASE in after and after[BASE] == turn.was.image_ref
    if BASE in keys and data.operation in _SETS_BASE and sets_base:
        keys.remove(BASE)
    if keys:
        expected = {key: kept[key] for key in keys}
        gap = Difference(expected, {key: after[key] for key in keys if key in after})
        details = {"operation": data.operation, **shown(gap)}
        turn.found("boot_metadata_overwritten", "error", details)


def _find_divergence(turn: Turn, expected: str | None, found: str | None) -> None:
    """Raises semantics_divergence where a rollback put back another image."""
    if found is not None and expected is not None and found != expected:
        gap = Difference({"image_ref": expected}, {"image_ref": found})
        turn.found("semantics_divergence", "warning", shown(gap))


def _set_image(turn: Turn, image_ref: str | None, *, via: SetVia) -> None:
    """The image that the instance runs; None: it runs from a volume."""
    values = {key: value for key, value in turn.attributes.values.items() if key != "image_ref"}
    if image_ref is not None:
        values["image_ref"] = image_ref
    turn.become(turn.attributes, values, via=via)

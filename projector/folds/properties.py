"""What a change of properties means (EVENTS.md, "Folding properties"). Pure.

One decision a function: what the properties become, why a key is gone, where ledger and service
disagree. The order is the contract's: the ledger is first brought to `before`, then P' is settled
(`after` wins over the computed one), and only then intervals end.
"""

from collections.abc import Collection
from typing import assert_never

from msgspec import Struct

from metaledger.projector.folds.intervals import Edit, EndReason, SetVia, Values
from metaledger.schemas.digest import properties_digest, text_digest
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.image import Mode, PropertyChange
from metaledger.schemas.meta import Origin


class Difference(Struct, frozen=True):
    """What was expected and what the service held: the keys that differ, or two digests."""

    expected: Values
    found: Values


class Outcome(Struct, frozen=True, kw_only=True):
    """What a change showed.

    `gap`: the ledger's properties against `before`. `divergence`: the computed P' against `after`.
    `lost`: what ended as purged, with its values; `proven`: the caller did not mean it.
    """

    gap: Difference | None = None
    divergence: Difference | None = None
    lost: Values = {}
    proven: bool = False


def change_properties(
    edit: Edit, change: PropertyChange, origin: Origin, altered: Collection[str]
) -> Outcome:
    """Applies the change; `altered` names live keys whose recorded value is not the service's.

    What a RECONCILED change does, nobody saw: it is set and ends as `unseen`. Raises Unfoldable.
    """
    inexact = bool(altered or change.altered)
    gap = _missed(edit.values, change, altered, inexact=inexact)
    if gap is not None and change.before is not None:
        before = as_recorded(change.before, edit.values, altered)
        edit.become(before, via="unseen", replaced="unseen")
    held = edit.values
    meant = as_recorded(after_change(held, change), held, altered)
    divergence = _diverged(meant, change, altered, inexact=inexact or gap is not None)
    if divergence is not None and change.after is not None:
        meant = as_recorded(change.after, held, altered)
    if origin is Origin.RECONCILED:
        edit.become(meant, via="unseen", replaced="unseen")
        return Outcome(gap=gap, divergence=divergence)
    why = _Reasons(change)
    via: SetVia = "merge" if change.mode is Mode.MERGE else "purge"
    edit.become(meant, via=via, replaced="overwritten", left_out=why)
    return Outcome(
        gap=gap,
        divergence=divergence,
        lost={key: held[key] for key in sorted(why.purged)},
        proven=change.removed is not None or change.seen is not None,
    )


def after_change(held: Values, change: PropertyChange) -> Values:
    """P': what the change makes of the properties by its own meaning. Raises Unfoldable."""
    match change.mode:
        case Mode.MERGE:
            merged = {**held, **change.set}
            for key in change.removed or ():
                merged.pop(key, None)
            return merged
        case Mode.PURGE:
            spared = {key: held[key] for key in change.exempt if key in held}
            return {**spared, **change.set}
        case Mode.UNKNOWN:
            raise Unfoldable("the change's mode is a symbol that this build does not know")
        case _:  # pragma: no cover (the type check proves it)
            assert_never(change.mode)


def as_recorded(found: Values, known: Values, altered: Collection[str]) -> Values:
    """The service's properties, with the ledger's digest for each value that was altered to it."""
    if not altered:
        return found
    same = {
        key: known[key]
        for key in altered
        if key in known
        and (value := found.get(key)) is not None
        and known[key] == text_digest(value)
    }
    return {**found, **same}


class _Reasons:
    """Why a key that the change left out is gone; remembers those that were purged."""

    __slots__ = ("_change", "purged")

    def __init__(self, change: PropertyChange) -> None:
        self._change = change
        self.purged: list[str] = []

    def __call__(self, key: str) -> EndReason:
        change = self._change
        left_out = key not in change.set
        if change.removed is not None:
            decided = key in change.removed
        else:
            decided = left_out and key in (change.seen or ())
        if decided:
            return "removed"
        if change.mode is Mode.PURGE and left_out and key not in change.exempt:
            self.purged.append(key)
            return "purged"
        # Only `after` says that it is gone: nothing in this change would have ended it.
        return "unseen"


def _missed(
    known: Values, change: PropertyChange, altered: Collection[str], *, inexact: bool
) -> Difference | None:
    """How the ledger's properties differ from those that the service held before the change."""
    if change.before is not None:
        return difference(known, as_recorded(change.before, known, altered))
    return None if inexact else _digest_difference(known, change.before_digest)


def _diverged(
    meant: Values, change: PropertyChange, altered: Collection[str], *, inexact: bool
) -> Difference | None:
    """How P' differs from what the service held after the change."""
    if change.after is not None:
        return difference(meant, as_recorded(change.after, meant, altered))
    return None if inexact else _digest_difference(meant, change.after_digest)


def difference(expected: Values, found: Values) -> Difference | None:
    """Where the two differ, or None."""
    if expected == found:
        return None
    missing = object()
    keys = [
        key
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key, missing) != found.get(key, missing)
    ]
    return Difference(
        {key: expected[key] for key in keys if key in expected},
        {key: found[key] for key in keys if key in found},
    )


def _digest_difference(expected: Values, found: str | None) -> Difference | None:
    if found is None:
        return None
    digest = properties_digest(expected)
    return None if digest == found else Difference({"digest": digest}, {"digest": found})

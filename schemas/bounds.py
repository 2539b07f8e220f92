"""What a hook does with values that cannot be represented, and with events that are too large.

A hook cannot reject what its service has committed (EVENTS.md, "What is never recorded"):

- NUL (which PostgreSQL refuses) and lone surrogates (which UTF-8 refuses) become U+FFFD, and the
  key is named in `altered`.
- An event above `event_bytes_max` carries only the keys that change, and digests in place of
  `before` and `after`; if that is not enough, its largest values become their digests, named in
  `altered`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from metaledger.schemas.codec import Codec, Encoded
from metaledger.schemas.digest import properties_digest, text_digest
from metaledger.schemas.errors import EventTooLarge
from metaledger.schemas.events import Event, EventData
from metaledger.schemas.image import (
    ChangeEvent,
    ImageRegistered,
    ImageUpdated,
    Mode,
    Properties,
    PropertyChange,
)

_UNREPRESENTABLE = re.compile("[\x00\ud800-\udfff]")


def representable(text: str) -> str:
    """The text with U+FFFD for each NUL and lone surrogate; the same object where there is none."""
    return _UNREPRESENTABLE.sub("\ufffd", text) if _UNREPRESENTABLE.search(text) else text


def representable_map(values: Properties) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """The map with representable keys and values, and the keys (as they now are) that changed."""
    result: dict[str, str | None] = {}
    altered: list[str] = []
    for key, value in values.items():
        good_key = representable(key)
        good_value = None if value is None else representable(value)
        result[good_key] = good_value
        if good_key != key or good_value != value:
            altered.append(good_key)
    return result, tuple(altered)


def encode_within(codec: Codec, event: Event) -> tuple[Event, Encoded]:
    """The event, made as small as the codec's cap asks for, and its bytes.

    Raises EventTooLarge where even that is not enough (some ten thousand keys).
    """
    try:
        return event, codec.encode(event)
    except EventTooLarge:
        event = Event(event.meta, _without_images(event.data))
    while True:
        try:
            return event, codec.encode(event)
        except EventTooLarge:
            smaller = _without_largest_value(event.data)
            if smaller is None:
                raise
            event = Event(event.meta, smaller)


def _without_images(data: EventData) -> EventData:
    if not isinstance(data, ChangeEvent):
        return data
    return replace(data, change=_changed_keys_only(data.change))


def _changed_keys_only(change: PropertyChange) -> PropertyChange:
    """Digests for before and after; what a purge sets as it was becomes exempt from the purge."""
    before, after = change.before, change.after
    kept = {
        key
        for key, value in change.set.items()
        if before is not None and key in before and before[key] == value
    }
    exempt = (*change.exempt, *sorted(kept)) if change.mode is Mode.PURGE else change.exempt
    return replace(
        change,
        set={key: value for key, value in change.set.items() if key not in kept},
        exempt=exempt,
        before=None,
        after=None,
        before_digest=change.before_digest if before is None else properties_digest(before),
        after_digest=change.after_digest if after is None else properties_digest(after),
    )


def _without_largest_value(data: EventData) -> EventData | None:
    """The data with its largest value replaced by the value's digest; None where none is left."""
    if isinstance(data, ImageRegistered):
        key = _largest(data.properties)
        if key is None:
            return None
        smaller = _digested(data.properties, key)
        return replace(data, properties=smaller, altered=(*data.altered, key))
    if not isinstance(data, ChangeEvent):
        return None
    change = data.change
    key = _largest(change.set)
    if key is not None:
        smaller = _digested(change.set, key)
        return replace(data, change=replace(change, set=smaller, altered=(*change.altered, key)))
    if isinstance(data, ImageUpdated) and (key := _largest(data.attributes)) is not None:
        change = replace(change, altered=(*change.altered, key))
        return replace(data, attributes=_digested(data.attributes, key), change=change)
    return None


def _largest(values: Mapping[str, str | None]) -> str | None:
    # A value no longer than a digest gains nothing by becoming one.
    sizes = {key: len(value.encode()) for key, value in values.items() if value}
    key = max(sizes, key=sizes.__getitem__, default=None)
    return key if key is not None and sizes[key] > _DIGEST_BYTES else None


def _digested(values: Properties, key: str) -> dict[str, str | None]:
    return {**values, key: text_digest(values[key] or "")}


_DIGEST_BYTES = len(text_digest(""))

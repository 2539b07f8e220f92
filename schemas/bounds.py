"""What a hook does with an event that is too large, since it cannot reject what was committed.

Above `event_bytes_max` (EVENTS.md, "What is never recorded") an event carries only the keys that
change, and digests in place of `before` and `after`; if that is not enough, its largest values
become their digests, named in `altered`.
"""

import sys
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


def encode_within(codec: Codec, event: Event) -> tuple[Event, Encoded]:
    """The event, made as small as the codec's cap asks for, and its bytes.

    Raises EventTooLarge where even that is not enough (some ten thousand keys).
    """
    try:
        return event, codec.encode(event)
    except EventTooLarge:
        event = Event(event.meta, _without_images(event.data))
    uncapped = replace(codec, event_bytes_max=sys.maxsize)
    while (excess := len(uncapped.encode(event).value) - codec.event_bytes_max) > 0:
        smaller = _smaller(event.data, excess)
        if smaller is None:
            break
        event = Event(event.meta, smaller)
    return event, codec.encode(event)


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


def _smaller(data: EventData, excess: int) -> EventData | None:
    """The data with its largest values replaced by their digests, as many as take `excess` bytes
    away; None where no digest makes it smaller. A round trip for all of them at once: a user's
    thousand values must not cost a service's thread a thousand encodings.
    """
    if isinstance(data, ImageRegistered):
        return _smaller_registration(data, excess)
    if not isinstance(data, ChangeEvent):
        return None
    change = data.change
    if keys := _largest(change.set, excess):
        smaller = _digested(change.set, keys)
        return replace(data, change=replace(change, set=smaller, altered=(*change.altered, *keys)))
    if isinstance(data, ImageUpdated) and (keys := _largest(data.attributes, excess)):
        change = replace(change, altered=(*change.altered, *keys))
        return replace(data, attributes=_digested(data.attributes, keys), change=change)
    return None


def _smaller_registration(data: ImageRegistered, excess: int) -> ImageRegistered | None:
    if keys := _largest(data.properties, excess):
        smaller = _digested(data.properties, keys)
        return replace(data, properties=smaller, altered=(*data.altered, *keys))
    if keys := _largest(data.attributes, excess):
        smaller = _digested(data.attributes, keys)
        return replace(data, attributes=smaller, altered=(*data.altered, *keys))
    return None


def _largest(values: Properties, excess: int) -> list[str]:
    """The keys whose values' digests save the most, until `excess` bytes are saved."""
    # The key is named once more, in `altered`.
    savings = {
        key: len(value.encode()) - _DIGEST_BYTES - len(key.encode()) - _LENGTH_BYTES
        for key, value in values.items()
        if value
    }
    keys: list[str] = []
    for key in sorted(savings, key=savings.__getitem__, reverse=True):
        if excess <= 0 or savings[key] <= 0:
            break
        keys.append(key)
        excess -= savings[key]
    return keys


def _digested(values: Properties, keys: list[str]) -> dict[str, str | None]:
    return {**values, **{key: text_digest(values[key] or "") for key in keys}}


_DIGEST_BYTES = len(text_digest(""))
# Before a text stands its length, three bytes of it at most below the cap.
_LENGTH_BYTES = 3

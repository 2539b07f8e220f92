"""What a hook cannot reject it makes fit: by name, by digest, and with its meaning kept."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from metaledger.schemas.bounds import encode_within
from metaledger.schemas.codec import EVENT_BYTES_MAX, Codec, Encoded
from metaledger.schemas.digest import properties_digest, text_digest
from metaledger.schemas.errors import EventTooLarge
from metaledger.schemas.events import Event
from metaledger.schemas.image import ImageRegistered, ImageUpdated, Mode, PropertyChange
from metaledger.schemas.representable import representable, representable_map

from .samples import EVENTS, event
from .strategies import changes, maybe_text, texts

Map = dict[str, str | None]
CODEC = Codec()
any_text = st.text(max_size=8) | st.text(st.sampled_from("\0\ud800\udfff\ufffda"), max_size=4)


def after(change: PropertyChange, properties: Map) -> Map:
    """EVENTS.md, "Folding properties": what the properties are after the change."""
    if change.mode is Mode.MERGE:
        removed = change.removed or ()
        merged = {**properties, **change.set}
        return {key: value for key, value in merged.items() if key not in removed}
    spared = {key: value for key, value in properties.items() if key in change.exempt}
    return {**spared, **change.set}


def change_of(told: Event) -> PropertyChange:
    assert isinstance(told.data, ImageUpdated)
    return told.data.change


@given(any_text)
def test_a_text_is_made_representable_and_otherwise_left_alone(text: str) -> None:
    good = representable(text)
    assert len(good) == len(text)
    for was, now in zip(text, good, strict=True):
        bad = was == "\0" or "\ud800" <= was <= "\udfff"
        assert now == ("\ufffd" if bad else was)


@given(st.dictionaries(any_text, st.none() | any_text, max_size=4))
def test_a_map_names_what_it_altered_and_can_be_written(values: Map) -> None:
    good, altered = representable_map(values)
    assert good == {
        representable(key): None if value is None else representable(value)
        for key, value in values.items()
    }
    assert set(altered) == {
        representable(key)
        for key, value in values.items()
        if representable(key) != key or (value is not None and representable(value) != value)
    }
    told = event(ImageUpdated(image_id="i", attributes=good, change=change_of(UPDATED)))
    encoded = CODEC.encode(told)
    assert CODEC.decode(encoded.value, encoded.sha256) == told


UPDATED = event(ImageUpdated(image_id="i", change=PropertyChange(mode=Mode.MERGE)))


@pytest.mark.parametrize("told", EVENTS, ids=lambda each: each.type)
def test_an_event_within_the_cap_is_not_touched(told: Event) -> None:
    same, encoded = encode_within(CODEC, told)
    assert same is told
    assert encoded == CODEC.encode(told)
    just_fitting = Codec(event_bytes_max=len(encoded.value))
    assert encode_within(just_fitting, told) == (told, encoded)


values = maybe_text | st.text(st.sampled_from("aé"), min_size=60, max_size=300)
properties = st.dictionaries(texts, values, max_size=5)


@st.composite
def updates(draw: st.DrawFn) -> tuple[Event, Map]:
    """An update whose before is what the image had, and that; its after is what it then has."""
    before = draw(properties)
    named = draw(st.dictionaries(texts | st.sampled_from([*before, "k"]), values, max_size=5))
    kept = draw(st.sets(st.sampled_from([*before, "k"])))
    change = replace(
        draw(changes),
        set={**named, **{key: before[key] for key in kept if key in before}},
        before=before,
        after=None,
        before_digest=None,
        after_digest=None,
        altered=(),
    )
    attributes = draw(st.dictionaries(texts, values, max_size=2))
    change = replace(change, after=after(change, before))
    return event(ImageUpdated(image_id="i", attributes=attributes, change=change)), before


@given(updates(), st.integers(250, 2500))
def test_an_event_above_the_cap_keeps_its_meaning(update: tuple[Event, Map], cap: int) -> None:
    told, before = update
    codec = Codec(event_bytes_max=cap)
    try:
        smaller, encoded = encode_within(codec, told)
    except EventTooLarge:
        assume(False)
    assert len(encoded.value) <= cap
    assert codec.decode(encoded.value, encoded.sha256) == smaller
    assert smaller.meta == told.meta
    was, now = change_of(told), change_of(smaller)
    if smaller == told:
        return
    assert (now.mode, now.removed, now.seen) == (was.mode, was.removed, was.seen)
    assert (now.before, now.after) == (None, None)
    assert now.before_digest == properties_digest(before)
    assert now.after_digest == properties_digest(was.after or {})
    assert_the_same_but_for_digests(after(was, before), after(now, before), now.altered)
    data: Any = smaller.data
    attributes: Any = told.data
    assert_the_same_but_for_digests(attributes.attributes, data.attributes, now.altered)


def assert_the_same_but_for_digests(was: Any, now: Any, altered: Any) -> None:
    assert set(now) == set(was)
    for key, value in now.items():
        assert value == was[key] or (value == text_digest(was[key]) and key in altered)


def update_of(set_: Map, **change: Any) -> Event:
    change = {"mode": Mode.MERGE, **change}
    return event(ImageUpdated(image_id="i", change=PropertyChange(set=set_, **change)))


def test_only_the_images_go_where_that_is_enough() -> None:
    before: Map = {f"k{n}": "x" * 1000 for n in range(500)}
    told = update_of({**before, "k0": "new"}, before=before, after={**before, "k0": "new"})
    smaller, encoded = encode_within(CODEC, told)
    assert len(encoded.value) < 1000
    assert change_of(smaller).set == {"k0": "new"}
    assert change_of(smaller).altered == ()


def test_what_a_purge_set_as_it_was_is_spared_by_it() -> None:
    before: Map = {"same": "x" * 500_000, "lost": "y" * 500_000}
    set_ = {"same": before["same"], "new": "z"}
    told = update_of(set_, mode=Mode.PURGE, exempt=("os_glance_x",), before=before, after=set_)
    change = change_of(encode_within(CODEC, told)[0])
    assert (change.set, change.exempt) == ({"new": "z"}, ("os_glance_x", "same"))


def test_the_largest_values_go_first_and_no_more_than_have_to() -> None:
    values: Map = {"small": "x" * 1000, "large": "x" * 800_000, "larger": "x" * 850_000}
    change = change_of(encode_within(CODEC, update_of(values))[0])
    assert change.altered == ("larger",)
    assert change.set == {**values, "larger": text_digest("x" * 850_000)}


def test_a_registration_and_attributes_shrink_too() -> None:
    values: Map = {"k": "x" * EVENT_BYTES_MAX}
    digests = {"k": text_digest("x" * EVENT_BYTES_MAX)}
    registered = event(ImageRegistered(image_id="i", status="queued", properties=values))
    smaller: Any = encode_within(CODEC, registered)[0].data
    assert (smaller.properties, smaller.altered) == (digests, ("k",))
    registered = event(ImageRegistered(image_id="i", status="queued", attributes=values))
    smaller = encode_within(CODEC, registered)[0].data
    assert (smaller.attributes, smaller.altered) == (digests, ("k",))
    merge = PropertyChange(mode=Mode.MERGE)
    updated = event(ImageUpdated(image_id="i", attributes=values, change=merge))
    smaller = encode_within(CODEC, updated)[0].data
    assert (smaller.attributes, smaller.change.altered) == (digests, ("k",))


class CountingCodec(Codec):
    """Counts its encodings."""

    encodings = 0

    def encode(self, told: Event) -> Encoded:
        type(self).encodings += 1
        return super().encode(told)


def test_a_thousand_values_shrink_in_a_few_encodings() -> None:
    told = update_of({f"k{n}": "x" * 4000 for n in range(2000)})
    _, encoded = encode_within(CountingCodec(), told)
    assert len(encoded.value) <= EVENT_BYTES_MAX
    assert CountingCodec.encodings <= 5


def test_what_cannot_be_made_small_enough_is_refused() -> None:
    with pytest.raises(EventTooLarge, match="more than 10000"):
        encode_within(CODEC, update_of({f"key {n}": "short" for n in range(100_000)}))
    with pytest.raises(EventTooLarge):
        encode_within(CODEC, update_of({}, removed=tuple(str(n) * 10 for n in range(50_000))))
    with pytest.raises(EventTooLarge):
        encode_within(Codec(event_bytes_max=100), UPDATED)


@pytest.mark.parametrize(
    ("values", "digest"),
    [
        ({}, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        (
            {"b": None, "a": "\u00e9", "\U0001f5dd": ""},
            "3eedd63134d94e6207512a63c3ee136734289769d3d9d7a68328343ddd9fef64",
        ),
    ],
)
def test_a_digest_is_the_same_for_ever(values: Map, digest: str) -> None:
    assert properties_digest(values) == "sha256:" + digest

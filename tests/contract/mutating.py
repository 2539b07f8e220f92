"""Makes hostile bytes of good ones: cut, doubled, spliced, with bits turned and claims inflated.

All chance comes from the `Random` that the caller brings, so that a seed repeats a record and
hypothesis can make one smaller.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

# What one chunk is repeated to, once in so many mutations: as large as an event may be.
_BYTES_MAX = 899_000
_HUGE_ONE_IN = 4000
_CHUNK_BYTES_MAX = 24
# A record that was mutated once comes in deepest.
_STEPS = (1, 1, 1, 2, 4)


@dataclass(frozen=True, slots=True)
class Material:
    """Good examples of one form, and the words that its reader trips over, if over any."""

    examples: Sequence[bytes]
    words: Sequence[bytes]


def number(value: int) -> bytes:
    """An int or long of Avro, of any size."""
    value = value << 1 if value >= 0 else (-value << 1) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def mutated(material: Material, random: Random) -> bytes:
    """One of the examples, mutated in a few ways."""
    value = bytearray(random.choice(material.examples))
    for _ in range(random.choice(_STEPS)):
        random.choice(_MUTATIONS)(value, material, random)
    if random.randrange(_HUGE_ONE_IN) == 1:
        _swell(value, random)
    return bytes(value)


def _place(value: bytearray, random: Random) -> int:
    return random.randrange(len(value) + 1)


def _chunk(value: bytes | bytearray, random: Random) -> bytes:
    at = random.randrange(len(value) + 1)
    return bytes(value[at : at + random.randrange(1, _CHUNK_BYTES_MAX)])


def _flip(value: bytearray, _: Material, random: Random) -> None:
    if value:
        value[random.randrange(len(value))] ^= 1 << random.randrange(8)


def _set(value: bytearray, _: Material, random: Random) -> None:
    if value:
        value[random.randrange(len(value))] = random.randrange(256)


def _insert(value: bytearray, material: Material, random: Random) -> None:
    at = _place(value, random)
    value[at:at] = random.choice(material.words)


def _replace(value: bytearray, material: Material, random: Random) -> None:
    at = _place(value, random)
    word = random.choice(material.words)
    value[at : at + random.randrange(1, len(word) + 2)] = word


def _cut(value: bytearray, _: Material, random: Random) -> None:
    at = _place(value, random)
    del value[at : at + random.randrange(1, _CHUNK_BYTES_MAX)]


def _truncate(value: bytearray, _: Material, random: Random) -> None:
    del value[_place(value, random) :]


def _double(value: bytearray, _: Material, random: Random) -> None:
    at = _place(value, random)
    value[at:at] = _chunk(value, random)


def _splice(value: bytearray, material: Material, random: Random) -> None:
    other = random.choice(material.examples)
    value[_place(value, random) :] = other[random.randrange(len(other) + 1) :]


def _swell(value: bytearray, random: Random) -> None:
    """A chunk as often as fits: many small parts cost a reader the most."""
    chunk = _chunk(value, random) or b"\0"
    at = _place(value, random)
    value[at:at] = chunk * max(0, (_BYTES_MAX - len(value)) // len(chunk))


# A flip keeps most of a record good: what comes in deep is worth being tried often.
_MUTATIONS: tuple[Callable[[bytearray, Material, Random], None], ...] = (
    _flip,
    _flip,
    _flip,
    _set,
    _set,
    _insert,
    _replace,
    _replace,
    _cut,
    _truncate,
    _double,
    _splice,
)

"""Typed values to Avro's binary form (Avro 1.12, "Binary encoding"): one writer a kind of node.

fastavro tries each value against each branch of its union, which is most of what its writing costs;
here the branch follows from None. What no store could hold is refused in the same pass: Unwritable
says what is wrong, and each record around it adds the field's name in front. A value of a wrong
type raises what Python raises.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any

Write = Callable[[Any], bytes]

# An element costs a fold a row and a reader up to 1 µs (in a block of its own). An event has up to
# nine arrays and maps: 90 ms.
ELEMENTS_MAX = 10_000

# Runs of values whose bytes are kept: a request's, or a batch's.
_KEPT_MAX = 64

NUL_FOUND = ": a NUL in a string"
NAIVE_TIME = ": a time without an offset"


class Unwritable(Exception):
    """What is wrong, after the path of the field below the value: `.set: a NUL in a string`."""


class TooMany(Unwritable):
    """An array or map has more elements than a reader takes in time."""

    def __init__(self, what: str = f": more than {ELEMENTS_MAX} elements") -> None:
        super().__init__(what)


def no_integer(bits: int) -> str:
    """What is said of a value that is none."""
    return f": no integer of {bits} bits"


def write_text(text: str) -> bytes:
    """Its length in bytes, then UTF-8."""
    if "\0" in text:
        raise Unwritable(NUL_FOUND)
    raw = text.encode()
    length = len(raw)
    return (_TEXT_HEADS[length] if length < _LENGTHS else _varint(2 * length)) + raw


def _write_optional_text(text: str | None) -> bytes:
    """As `optional_writer` of `write_text` would, which is most of what is written, in one call."""
    if text is None:
        return b"\0"
    if "\0" in text:
        raise Unwritable(NUL_FOUND)
    raw = text.encode()
    length = len(raw)
    return (_OPTIONAL_HEADS[length] if length < _LENGTHS else b"\2" + _varint(2 * length)) + raw


def write_boolean(value: bool) -> bytes:
    """One byte."""
    return _BOOLEANS[value]


def write_time(value: datetime) -> bytes:
    """Microseconds since 1970, exact."""
    # Two times of another zone may be equal to Python, and an hour apart (PEP 495).
    return _write_utc(value) if value.tzinfo is UTC else _write_time(value)


def _write_time(value: datetime) -> bytes:
    if value.tzinfo is None:
        raise Unwritable(NAIVE_TIME)
    since = value - _EPOCH
    return _long((since.days * _DAY_S + since.seconds) * _SECOND_US + since.microseconds)


# A batch has one time for all of it.
_write_utc = lru_cache(_KEPT_MAX)(_write_time)


def write_texts(texts: Sequence[str]) -> bytes:
    """An array: one block, then its end."""
    if not texts:
        return b"\0"
    if len(texts) > ELEMENTS_MAX:
        raise TooMany
    return b"".join([_long(len(texts)), *map(write_text, texts), b"\0"])


def write_map(members: Mapping[str, str | None]) -> bytes:
    """A map of texts or nulls: one block, then its end."""
    if not members:
        return b"\0"
    if len(members) > ELEMENTS_MAX:
        raise TooMany
    # ASCII without NUL is known by two searches in all of it, and its characters are its bytes.
    values = members.values()
    joined = "".join(members) + "".join([value for value in values if value is not None])
    if "\0" in joined:
        raise Unwritable(NUL_FOUND)
    if not joined.isascii() or len(joined) >= _LENGTHS:
        return _write_any_map(members)
    entries = [
        f"{_HEADS[len(key)]}{key}\0"
        if value is None
        else f"{_HEADS[len(key)]}{key}\2{_HEADS[len(value)]}{value}"
        for key, value in members.items()
    ]
    return _long(len(members)) + "".join(entries).encode("latin-1") + b"\0"


def _write_any_map(members: Mapping[str, str | None]) -> bytes:
    parts = [_long(len(members))]
    for key, value in members.items():
        parts.append(write_text(key))
        parts.append(b"\0" if value is None else b"\2" + write_text(value))
    parts.append(b"\0")
    return b"".join(parts)


def integer_writer(bits: int) -> Write:
    """Zigzag, then seven bits a byte."""
    limit = 1 << (bits - 1)

    def write(value: Any) -> bytes:  # noqa: ANN401 (a float would be cut off without a word)
        if not isinstance(value, int) or not -limit <= value < limit:
            raise Unwritable(no_integer(bits))
        return _long(value)

    return write


def enum_writer(symbols: Sequence[str]) -> Write:
    """The symbol's index."""
    indices = {symbol: _long(index) for index, symbol in enumerate(symbols)}
    return indices.__getitem__


def optional_writer(inner: Write) -> Write:
    """A union with null before it: the branch's index, then the value."""
    if inner is write_text:
        return _write_optional_text

    def write(value: Any) -> bytes:  # noqa: ANN401 (of any node)
        return b"\0" if value is None else b"\2" + inner(value)

    return write


def record_writer(writers: Mapping[str, Write]) -> Write:
    """The fields, one behind the other, taken from attributes of these names."""
    values_of = attrgetter(*writers)
    takes_one = len(writers) == 1
    functions = tuple(writers.values())

    def write(record: Any) -> bytes:  # noqa: ANN401 (a dataclass of the contract)
        values = (values_of(record),) if takes_one else values_of(record)
        try:
            return b"".join([function(it) for function, it in zip(functions, values, strict=True)])
        except Unwritable:
            raise _named(writers, values) from None

    return write


def repeating_writer(writers: Mapping[str, Write], *, always_new: Collection[str]) -> Write:
    """As `record_writer`, of a record most of whose fields are the same in one after another: the
    bytes of each run of those are kept.
    """
    values_of = attrgetter(*writers)
    names = list(writers)
    runs: list[tuple[slice, Callable[..., bytes]]] = []
    for is_new, run in groupby(range(len(names)), key=lambda at: names[at] in always_new):
        at = list(run)
        write_run = _run_writer([writers[names[it]] for it in at])
        # By type too: 1, 1.0 and True are equal, and one of them alone is an integer.
        kept = write_run if is_new else lru_cache(_KEPT_MAX, typed=True)(write_run)
        runs.append((slice(at[0], at[-1] + 1), kept))

    def write(record: Any) -> bytes:  # noqa: ANN401 (a dataclass of the contract)
        values = values_of(record)
        try:
            return b"".join([write_run(*values[run]) for run, write_run in runs])
        except Unwritable:
            raise _named(writers, values) from None

    return write


def _run_writer(functions: Sequence[Write]) -> Callable[..., bytes]:
    if len(functions) == 1:
        return functions[0]

    def write(*values: Any) -> bytes:  # noqa: ANN401 (of these fields)
        return b"".join([function(it) for function, it in zip(functions, values, strict=True)])

    return write


def _named(writers: Mapping[str, Write], values: Sequence[Any]) -> Unwritable:
    """Once more, field by field: which one it was."""
    for (name, write), value in zip(writers.items(), values, strict=True):
        try:
            write(value)
        except Unwritable as flaw:
            return type(flaw)(f".{name}{flaw}")
    raise AssertionError("what could not be written can be")


def _long(value: int) -> bytes:
    if 0 <= value < _LENGTHS:
        return _TEXT_HEADS[value]
    return _varint(value << 1 if value >= 0 else ~(value << 1))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that it goes on."""
    out = bytearray()
    while value & ~0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# What is shorter finds its length written already, as a small number does; a map with more text
# goes the general way.
_LENGTHS = 4_096
_TEXT_HEADS = [_varint(2 * length) for length in range(_LENGTHS)]
_OPTIONAL_HEADS = [b"\2" + head for head in _TEXT_HEADS]
# As characters that stand for one byte each.
_HEADS = [head.decode("latin-1") for head in _TEXT_HEADS]
_BOOLEANS = {True: b"\1", False: b"\0"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S, _SECOND_US = 86_400, 1_000_000

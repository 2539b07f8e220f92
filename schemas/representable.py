"""Text that the ledger can hold, made of any text. Pure.

A hook cannot reject what its service has committed (EVENTS.md, "What is never recorded"): NUL,
which PostgreSQL refuses, and lone surrogates, which UTF-8 refuses, become U+FFFD, and whoever calls
names the key in `altered`.
"""

import re

from metaledger.schemas.image import Properties

_UNREPRESENTABLE = re.compile("[\x00\ud800-\udfff]")


def _is_plain(text: str) -> bool:
    """Whether there is nothing to find; of ASCII, which it is mostly, without a look at each."""
    if text.isascii():
        return "\0" not in text
    return _UNREPRESENTABLE.search(text) is None


def representable(text: str) -> str:
    """The text with U+FFFD for each NUL and lone surrogate; the same object where there is none."""
    return text if _is_plain(text) else _UNREPRESENTABLE.sub("\ufffd", text)


def representable_map(values: Properties) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """The map with representable keys and values, and the keys (as they now are) that changed."""
    # Nearly always there is nothing to find, and one look at all of it says so.
    texts = [value for value in values.values() if value is not None]
    if _is_plain("".join([*values, *texts])):
        return dict(values), ()
    result: dict[str, str | None] = {}
    altered: list[str] = []
    for key, value in values.items():
        good_key = representable(key)
        good_value = None if value is None else representable(value)
        result[good_key] = good_value
        if good_key != key or good_value != value:
            altered.append(good_key)
    return result, tuple(altered)

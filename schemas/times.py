"""The two text forms of a time: RFC 3339 in the JSON form, one fixed and sorting form in SQLite."""

import re
from datetime import UTC, datetime

from metaledger.schemas.errors import InvalidEvent

# RFC 3339, section 5.6, to the microsecond. fromisoformat takes more: week dates, times without
# seconds, commas, offsets with seconds, 24:00; and it cuts a seventh digit off without a word.
_RFC_3339 = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]"
    "(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:[.][0-9]{1,6}0*)?"
    "(?P<offset>[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)


def parse_time(text: str, path: str) -> datetime:
    """An RFC 3339 time with an offset, as UTC. Raises InvalidEvent; a naive time is not guessed."""
    form = _RFC_3339.fullmatch(text)
    if form is None:
        expected = "an RFC 3339 time with an offset, to the microsecond"
        raise InvalidEvent(path, expected=expected, got=shown(text))
    if form["offset"] is None:
        raise InvalidEvent(path, expected="a time with an offset (Z or +00:00)", got=shown(text))
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    # There is no such day or second, or in UTC it is outside of the years 1 to 9999.
    except (ValueError, OverflowError) as error:
        raise InvalidEvent(path, expected="a time that exists", got=shown(text)) from error


def time_text(value: datetime) -> str:
    """The one form that sorts as text: `2026-11-21T13:43:32.516137Z`."""
    if value.tzinfo is None:
        raise ValueError("a naive time has no place in the ledger")
    # The offset, `+00:00`, makes way for a Z; strftime would take four times as long.
    return value.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def shown(value: object) -> str:
    """A value as it may stand in an error: short, on one line, harmless to a terminal."""
    match value:
        # Not their contents: they may be deeper than Python can follow.
        case dict():
            return "an object"
        case list() | tuple():
            return "an array"
        # One character may take ten in ASCII, never less than one.
        case str():
            text = ascii(value[:_SHOWN_CHARS_MAX])
        case _:
            text = ascii(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"


_SHOWN_CHARS_MAX = 60

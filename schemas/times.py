"""The two text forms of a time: RFC 3339 in the JSON form, one fixed and sorting form in SQLite."""

from datetime import UTC, datetime

from metaledger.schemas.errors import InvalidEvent


def parse_time(text: str, path: str) -> datetime:
    """An RFC 3339 time with an offset, as UTC. Raises InvalidEvent; a naive time is not guessed."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = None
    # fromisoformat takes a bare date and ISO week dates too, which RFC 3339 does not.
    if value is None or len(text) < len("2026-11-21T13:43:32Z") or text[10] not in "Tt ":
        raise InvalidEvent(path, expected="an RFC 3339 time with an offset", got=shown(text))
    if value.tzinfo is None:
        raise InvalidEvent(path, expected="a time with an offset (Z or +00:00)", got=shown(text))
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidEvent(path, expected="a time after year 1", got=shown(text)) from error


def time_text(value: datetime) -> str:
    """The one form that sorts as text: `2026-11-21T13:43:32.516137Z`."""
    if value.tzinfo is None:
        raise ValueError("a naive time has no place in the ledger")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def shown(value: object) -> str:
    """A value as it may stand in an error: short, on one line, harmless to a terminal."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"


_SHOWN_CHARS_MAX = 60

"""What makes text from the ledger harmless to a terminal, and tables of it readable. Pure.

A property's value is whatever a user of the cloud wrote: escape sequences that move the cursor,
right-to-left marks that hide what follows, markup of our own table library. Everything that comes
from data passes through `harmless` before it is shown; `--json` never does, and is exact. Nothing
is cut in silence: a value that is too long for a table says how long it is.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from metaledger.schemas.times import time_text

# A value of this length fills some ten lines of a terminal; what is longer is for --json.
VALUE_CHARS_MAX = 800

_SECONDS_MINUTE, _SECONDS_HOUR, _SECONDS_DAY = 60, 3600, 86400
# More than that many seconds are better read as the next larger unit.
_UNITS_MAX = 2


def harmless(text: str) -> str:
    r"""The text with everything that is not printable as its escape (`\x1b`, `\u202e`).

    Not printable are controls, formats (all bidirectional controls), surrogates, unassigned and
    private characters, and separators other than the space.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def cell(value: object) -> Text:
    """A value as a table shows it; no markup in it is interpreted."""
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, datetime):
        return Text(seconds_only(time_text(value)))
    # Bytes come as either, as the database has it.
    plain = bytes(value).hex(" ") if isinstance(value, bytes | memoryview) else str(value)
    text = harmless(plain)
    if len(text) > VALUE_CHARS_MAX:
        rest = f" … ({len(text):,} characters; --json shows all)"
        return Text(text[:VALUE_CHARS_MAX]).append(rest, style="dim")
    return Text(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> Table:
    """A table of values from the ledger; ids and values are folded, never cut."""
    result = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        result.add_column(Text(harmless(name)), overflow="fold", header_style="bold")
    for row in rows:
        result.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    return result


def table_of(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, title: str = ""
) -> Table:
    """A table of some columns of rows."""
    return table(columns, ([row[name] for name in columns] for row in rows), title=title)


def seconds_only(time: str) -> str:
    """A time of the ledger without its fraction where that is nothing."""
    return re.sub(r"\.0+Z$", "Z", time)


def age(seconds: float) -> str:
    """A span for people: `45 s`, `12 min`, `3 h`, `5 d`."""
    for unit, size in (("d", _SECONDS_DAY), ("h", _SECONDS_HOUR), ("min", _SECONDS_MINUTE)):
        if seconds >= _UNITS_MAX * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")

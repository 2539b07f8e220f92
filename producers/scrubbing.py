"""Free text, made fit to be recorded: on one line, capped, and without what looks secret. Pure.

A service's error quotes what it ran and what answered (EVENTS.md, "What is never recorded").
Nothing can know each secret: what is left is what no name and no form gives away.
"""

import re

from metaledger.schemas.representable import representable

CHARS_MAX = 500
_HIDDEN = "***"
# A text may be as long as a guest likes, and each pattern is tried at each of its places.
_READ_CHARS_MAX = 10_000
_NAMED = r"[\w.-]{0,50}(?:pass|secret|token|credential|auth|key)[\w.-]{0,50}"
# In quotes up to the one that closes them; where none does, up to the end.
_VALUE = (
    r"(?:\"(?:\\.|[^\"\\]){0,2000}\"?|'(?:\\.|[^'\\]){0,2000}'?"
    r"|(?:(?:bearer|basic)\s)?[^\s'\",;}]{1,2000})"
)
_SECRETS = (
    # Before the next ones, which would take the scheme for a name. A password may hold what it
    # should not, so up to the last @.
    (re.compile(r"(://)[^\s'\"]{1,500}@"), rf"\g<1>{_HIDDEN}@"),
    (re.compile(r"(\?)[^\s'\"]{1,2000}"), rf"\g<1>{_HIDDEN}"),
    (re.compile(rf"(?i)({_NAMED}['\"]?\s?(?:=|:)\s?){_VALUE}"), rf"\g<1>{_HIDDEN}"),
    # An option of a command line, without which comes the next one.
    (re.compile(rf"(?i)(--{_NAMED}\s)(?!-){_VALUE}"), rf"\g<1>{_HIDDEN}"),
    # Longer than any digest that names a file: a token.
    (re.compile(r"[\w=+-]{65,}"), _HIDDEN),
)


def scrubbed(text: str) -> str:
    """The text as it may be recorded, of at most CHARS_MAX characters."""
    line = " ".join(representable(text[:_READ_CHARS_MAX]).split())
    for pattern, shown in _SECRETS:
        line = pattern.sub(shown, line)
    return line if len(line) <= CHARS_MAX else line[: CHARS_MAX - 1] + "…"

"""Digests that stand for what is too large to travel (EVENTS.md, "What is never recorded"). Pure.

Hooks write them and folds compare them, so both take them from here; the forms never change.
"""

import hashlib
import json
from collections.abc import Mapping


def text_digest(text: str) -> str:
    """`sha256:` and the hash of the text as UTF-8: what a value beyond the cap is altered to."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def properties_digest(values: Mapping[str, str | None]) -> str:
    """The text_digest of the map as JSON with sorted keys, no spaces, UTF-8."""
    text = json.dumps(dict(values), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text_digest(text)

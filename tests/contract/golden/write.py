"""Writes the golden bytes and checksums that are missing; never changes one that is there.

A new version of an event type needs its sample `<Type>.v<N>.json` by hand first, with every field
filled. Run from the root: `python -m tests.contract.golden.write`, metaledger being installed.
"""

import hashlib
from pathlib import Path

from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event, recorded
from metaledger.schemas.jsonform import parse_line
from metaledger.schemas.meta import Context

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent
SUMS = GOLDEN / "SHA256SUMS"
_NOBODY = Context(service="", host="")


def sample(path: Path) -> Event:
    """The event of a `.json` sample, which names all that an event has."""
    draft = parse_line(path.read_text(encoding="utf-8"), _NOBODY)
    if not (draft.event_id and draft.number and draft.occurred_at):
        raise ValueError(f"{path} leaves out what a recorded event has")
    return recorded(
        draft, event_id=draft.event_id, number=draft.number, occurred_at=draft.occurred_at
    )


def released() -> dict[str, str]:
    """The recorded SHA-256 of every released file, by its path from the root."""
    lines = SUMS.read_text(encoding="ascii").splitlines() if SUMS.exists() else []
    return {path: digest for digest, path in (line.split("  ") for line in lines)}


def guarded() -> list[Path]:
    """The files that nobody may change once they are released."""
    schemas = (ROOT / "schemas" / "avro").rglob("*.avsc")
    return sorted([*schemas, *GOLDEN.glob("*.json"), *GOLDEN.glob("*.bin")])


def main() -> None:
    """Writes what is missing."""
    for path in GOLDEN.glob("*.json"):
        target = path.with_suffix(".bin")
        if not target.exists():
            target.write_bytes(Codec().encode(sample(path)).value)
    sums = released()
    for path in guarded():
        name = path.relative_to(ROOT).as_posix()
        sums.setdefault(name, hashlib.sha256(path.read_bytes()).hexdigest())
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    SUMS.write_text("".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()

"""The child process of `test_hostile_bytes`: bytes that want to kill, starve or cheat the decoder.

Checksums are made anew, so that each attack reaches the decoder itself. Prints one JSON object:
what each named attack came to, and how many mutated records were refused, unknown or decoded.
"""

import hashlib
import json
import resource
import sys
from collections import Counter
from random import Random

from metaledger.schemas.catalogue import SCHEMAS, latest
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import ContractError, UnknownSchema
from metaledger.schemas.events import Event
from metaledger.schemas.framing import SchemaIds
from metaledger.schemas.jsonform import to_json

from .mutating import Material, mutated, number
from .samples import EVENTS

IDS = SchemaIds({schema.fingerprint: 100 + n for n, schema in enumerate(SCHEMAS)})
CODEC = Codec(ids=IDS)
# More than 60 s of work or 512 MiB is an attack that succeeded: the process ends.
CPU_S_MAX = 60
MEMORY_BYTES_MAX = 512 << 20


def text(value: bytes) -> bytes:
    return number(len(value)) + value


EMPTY = number(0)
NULL = number(0)
PRESENT = number(1)
EVENT_ID = text(b"01932a5d-ac96-774b-bcce-b302099a8057")


def updated(
    *,
    event_id: bytes = EVENT_ID,
    epoch: bytes = PRESENT,
    at: bytes = EMPTY,
    origin: bytes = EMPTY,
    attributes: bytes = EMPTY,
    tags: bytes = NULL,
    mode: bytes = EMPTY,
    altered: bytes = EMPTY,
) -> bytes:
    """An ImageUpdated by hand, right but for what is given."""
    who = text(b"glance") + text(b"host") + origin + EMPTY + NULL * 5
    meta = event_id + text(b"default") + text(b"image:i") + text(b"s") + epoch + PRESENT + at + who
    change = mode + EMPTY + NULL * 2 + EMPTY + NULL * 4 + altered
    return (
        b"\xc3\x01"
        + latest("ImageUpdated").fingerprint
        + (meta + text(b"i") + attributes + tags + change)
    )


HUGE = 2**63 - 1
_CLAIMS = [number(claim) for claim in (-1, -2, 2**31, HUGE, -HUGE - 1, 10**6)]
ATTACKS = {
    "none": updated(),
    "empty": b"",
    "frame alone": updated()[:10],
    "half a frame": b"\xc3\x01\x00",
    "cut off": updated()[:-1],
    "one byte more": updated() + b"\0",
    "two events": updated() + updated(),
    "a megabyte": updated(altered=PRESENT + text(b"x" * 1_000_000) + EMPTY),
    "text longer than the record": updated(event_id=number(1 << 30)),
    "text of the largest length": updated(event_id=number(HUGE)),
    "text of negative length": updated(event_id=number(-1)),
    "text of the smallest length": updated(event_id=number(-HUGE - 1)),
    "last text of negative length": updated(altered=PRESENT + number(-5))[:-1],
    "text that is no UTF-8": updated(event_id=text(b"\xff\xfe")),
    "text with a surrogate": updated(tags=PRESENT + PRESENT + text(b"\xed\xa0\x80") + EMPTY),
    "over-long UTF-8": updated(tags=PRESENT + PRESENT + text(b"\xc0\x80") + EMPTY),
    "NUL in a tag": updated(tags=PRESENT + PRESENT + text(b"a\0") + EMPTY),
    "NUL in a key": updated(attributes=PRESENT + text(b"\0") + NULL + EMPTY),
    "NUL in a value": updated(attributes=PRESENT + text(b"k") + PRESENT + text(b"\0") + EMPTY),
    "int of 33 bits": updated(epoch=number(1 << 32)),
    "int of 65 bits": updated(epoch=number(1 << 64)),
    "int that never ends": updated(epoch=b"\x80" * 800_000),
    "time beyond year 9999": updated(at=number(HUGE)),
    "time before year 1": updated(at=number(-HUGE)),
    "enum beyond its symbols": updated(mode=number(3)),
    "enum far beyond": updated(mode=number(HUGE)),
    "enum far below": updated(mode=number(-HUGE)),
    "union beyond its branches": updated(tags=number(2)),
    "union far below": updated(tags=number(-9)),
    "block of 10^8": updated(tags=PRESENT + number(10**8)),
    "block of the largest count": updated(tags=PRESENT + number(HUGE)),
    "block of the smallest count": updated(tags=PRESENT + number(-HUGE - 1) + number(HUGE)),
    "map of the largest count": updated(attributes=number(HUGE)),
    "blocks without an end": updated(tags=PRESENT + (PRESENT + EMPTY) * 400_000),
    "map blocks without an end": updated(attributes=(PRESENT + EMPTY + NULL) * 250_000),
    "as many texts as fit": updated(tags=PRESENT + number(880_000) + EMPTY * 880_001),
    "as many short texts as fit": updated(
        tags=PRESENT + number(290_000) + text(b"ab") * 290_000 + EMPTY
    ),
    "as many characters as fit": updated(
        tags=PRESENT + number(170_000) + text("\U0001f600".encode()) * 170_000 + EMPTY
    ),
    "as many keys as fit": updated(
        attributes=number(120_000)
        + b"".join(text(b"%05x" % n) + NULL for n in range(120_000))
        + EMPTY
    ),
    "a UUID that is none": updated(event_id=text(b"x" * 36)),
    "enum of negative index": updated(origin=number(-2)),
    "union of negative index": updated(tags=number(-1) + EMPTY),
    "int of eleven bytes": updated(epoch=b"\x82" + b"\x80" * 9 + b"\0"),
    "a key twice": updated(attributes=number(2) + (text(b"k") + NULL) * 2 + EMPTY),
    "a key in two blocks": updated(attributes=(PRESENT + text(b"k") + NULL) * 2 + EMPTY),
    "a fingerprint of tomorrow": b"\xc3\x01" + b"\xff" * 8 + updated()[10:],
    "an id of another registry": b"\0\0\0\0\1" + updated()[10:],
    "the frame of another type": b"\xc3\x01" + latest("ImageDeleted").fingerprint + updated()[10:],
}


# Their sender made a checksum of them, and could have said the same in the usual way.
ODD = {
    "over-long int": updated(epoch=b"\x82" + b"\x80" * 8 + b"\0"),
    "a block with its size": updated(tags=PRESENT + number(-1) + number(2) + text(b"a") + EMPTY),
    "two blocks": updated(tags=PRESENT + (PRESENT + text(b"a")) * 2 + EMPTY),
    "a map of two blocks": updated(
        attributes=PRESENT + text(b"k") + NULL + PRESENT + text(b"l") + NULL + EMPTY
    ),
}


def outcome(value: bytes) -> str:
    """`refused`, `unknown` or `decoded`; anything else ends the process with its traceback."""
    try:
        told = CODEC.decode(value, hashlib.sha256(value).digest())
    except ContractError as error:
        if len(str(error)) > 300 or not str(error).isprintable():
            raise AssertionError("an error that a terminal would not like") from error
        return "refused"
    except UnknownSchema:
        return "unknown"
    storable(told)
    return "decoded"


def storable(told: Event) -> None:
    """What was decoded passes every check of the writing side, and reads back as itself."""
    again = CODEC.encode(told)
    if CODEC.decode(again.value, again.sha256) != told:
        raise AssertionError("decoded to what cannot be written")
    json.dumps(to_json(told)).encode()


def mutated_outcomes(seed: int, records: int) -> Counter[str]:
    rng = Random(seed)
    good = Material([CODEC.encode(told).value for told in EVENTS], _CLAIMS)
    return Counter(outcome(mutated(good, rng)) for _ in range(records))


def main(seed: int, records: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    named = {name: outcome(value) for name, value in ATTACKS.items()}
    odd = {name: outcome(value) for name, value in ODD.items()}
    print(json.dumps({"named": named, "odd": odd, "mutated": mutated_outcomes(seed, records)}))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

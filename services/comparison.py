"""What differs between a service's database and the ledger. Pure.

Rules: absent, null and what an attribute has unless somebody says otherwise are the same of an
attribute, for a registration does not tell them; of all else a null is a value. A value that was
too large for an event stands in the ledger as its digest, and is the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from metaledger.producers.source import STATE, Standing, What
from metaledger.schemas.digest import text_digest


class Absent(Enum):
    """Of a value that is not there, which null is not."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT
Value = str | None | Absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value of one aggregate; `what` is `state` where one of the two has nothing of it, or has
    it as deleted.
    """

    aggregate: str
    what: str
    key: str
    ledger: Value
    database: Value


def differences(
    aggregate: str, *, ledger: Standing | None, database: Standing | None
) -> Iterator[Difference]:
    """All that differs, in order; None: nothing is there of it."""
    if database is None and (ledger is None or ledger.deleted):
        # Services purge what was deleted long ago; that is no change of it.
        return
    if ledger is None or database is None or ledger.deleted or database.deleted:
        told, held = _state(ledger, absent="unknown"), _state(database, absent="purged")
        if told != held:
            what, key = STATE
            yield Difference(aggregate=aggregate, what=what, key=key, ledger=told, database=held)
        return
    both = (ledger.values.keys() | database.values.keys()) - {*ledger.unknown, *database.unknown}
    for what, key in sorted(both):
        tells, holds = _value(ledger.values, what, key), _value(database.values, what, key)
        if tells != holds and not (isinstance(holds, str) and tells == text_digest(holds)):
            yield Difference(aggregate=aggregate, what=what, key=key, ledger=tells, database=holds)


def _state(standing: Standing | None, *, absent: str) -> str:
    if standing is None:
        return absent
    return "deleted" if standing.deleted else "there"


def _value(values: Mapping[What, str | None], what: str, key: str) -> Value:
    value = values.get((what, key), ABSENT)
    return ABSENT if what == "attribute" and value in _NOTHING else value


_NOTHING = frozenset({None, "false", "0"})

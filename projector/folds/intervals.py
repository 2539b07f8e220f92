"""Interval histories: one row a key and version, from when to when, and why it ended. Pure.

The form is that of `image_property_history` (READ_MODEL.md), whatever the aggregate. Promises:
the versions of a key are 1, 2, 3 …; its intervals never overlap, and one begins where or after the
one before it ended; an interval ends once, with one reason; a key that keeps its value is not
touched. No meaning of events stands here: callers say what the values become, and why.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Literal

from msgspec import Struct, field

from metaledger.projector.folds.step import Fact, Put, Row

Values = Mapping[str, str | None]
SetVia = Literal[
    "registered",
    "merge",
    "purge",
    "booted",
    "saved",
    "rebuilt",
    "rolled_back",
    "rescued",
    "told",
    "unseen",
]
EndReason = Literal[
    "overwritten", "removed", "purged", "image_deleted", "instance_deleted", "unseen"
]


class Interval(Struct, frozen=True, array_like=True, gc=False):
    """A live interval: all that its row needs when it ends."""

    version: int
    value: str | None
    valid_from: datetime
    set_by_event: str
    set_via: SetVia


class History(Struct, frozen=True, array_like=True):
    """The live intervals by key, and the last version of each key that has none."""

    live: dict[str, Interval] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)


def unseen(_key: str) -> EndReason:
    """Why a key ended where nobody saw how."""
    return "unseen"


class Edit:
    """What one event does to one history; the history that it started from stays as it was.

    `history` and the live `values` are as of now, `rows` those that changed.
    """

    __slots__ = ("_at", "_event_id", "_owner", "_start", "_table", "_values", "history", "rows")

    def __init__(self, table: str, owner: tuple[str, str], history: History, fact: Fact) -> None:
        """`owner` is the column and the id that the rows begin with."""
        self._table = table
        self._owner = owner
        self._event_id = fact.event.meta.event_id
        self._at = fact.at
        self._start = history
        self.history = history
        self._values: Values | None = None
        self.rows: list[Put] = []

    @property
    def values(self) -> Values:
        """The live values; a caller must not change them."""
        if self._values is None:
            self._values = {key: live.value for key, live in self.history.live.items()}
        return self._values

    def become(
        self,
        values: Values,
        *,
        via: SetVia,
        replaced: EndReason,
        left_out: Callable[[str], EndReason] = unseen,
    ) -> None:
        """Makes these the live values: a value that another replaces ends as `replaced`, a key that
        is left out for the reason that `left_out` gives, and what is new was set `via`.
        """
        old = self.values
        if values == old:
            return
        self._begin()
        for key, value in old.items():
            if key not in values:
                self._end(key, left_out(key))
            elif values[key] != value:
                self._end(key, replaced)
                self._open(key, values[key], via)
        for key, value in values.items():
            if key not in old:
                self._open(key, value, via)
        self._values = values

    def overlay(self, values: Values, *, via: SetVia, replaced: EndReason) -> None:
        """Sets these and leaves all others as they are; `via` and `replaced` as in `become`. A null
        where nothing is live tells nothing.
        """
        live = self.history.live
        news = {
            key: value
            for key, value in values.items()
            if value != ((interval := live.get(key)) and interval.value)
        }
        if not news:
            return
        self._begin()
        for key, value in news.items():
            if key in live:
                self._end(key, replaced)
            self._open(key, value, via)
        self._values = None

    def end_all(self, reason: EndReason) -> None:
        """Ends everything."""
        self.become({}, via="unseen", replaced=reason, left_out=lambda _key: reason)

    def _begin(self) -> None:
        if self.history is self._start:
            self.history = History(dict(self._start.live), dict(self._start.ended))

    def _open(self, key: str, value: str | None, via: SetVia) -> None:
        history = self.history
        version = history.ended.pop(key, 0) + 1
        history.live[key] = Interval(version, value, self._at, self._event_id, via)
        owner_column, owner_id = self._owner
        row: Row = {
            owner_column: owner_id,
            "key": key,
            "version": version,
            "value": value,
            "valid_from": self._at,
            "valid_to": None,
            "set_by_event": self._event_id,
            "set_via": via,
            "ended_by_event": None,
            "end_reason": None,
        }
        self.rows.append(Put(self._table, row, is_new=True))

    def _end(self, key: str, reason: EndReason) -> None:
        interval = self.history.live.pop(key)
        self.history.ended[key] = interval.version
        owner_column, owner_id = self._owner
        row: Row = {
            owner_column: owner_id,
            "key": key,
            "version": interval.version,
            "value": interval.value,
            "valid_from": interval.valid_from,
            "valid_to": self._at,
            "set_by_event": interval.set_by_event,
            "set_via": interval.set_via,
            "ended_by_event": self._event_id,
            "end_reason": reason,
        }
        self.rows.append(Put(self._table, row, is_new=False))

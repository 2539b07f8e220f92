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

from metaledger.projector.folds.step import Fact, Put

Values = Mapping[str, str | None]
SetVia = Literal["registered", "merge", "purge", "unseen"]
EndReason = Literal["overwritten", "removed", "purged", "image_deleted", "unseen"]


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

    `values` are the live values, `rows` the rows that changed, both as of now.
    """

    __slots__ = ("_at", "_ended", "_event_id", "_live", "_owner", "_table", "rows", "values")

    def __init__(self, table: str, owner: tuple[str, str], history: History, fact: Fact) -> None:
        """`owner` is the column and the id that the rows begin with."""
        self._table = table
        self._owner = owner
        self._event_id = fact.event.meta.event_id
        self._at = fact.at
        self._live = dict(history.live)
        self._ended = dict(history.ended)
        self.values: Values = {key: interval.value for key, interval in history.live.items()}
        self.rows: list[Put] = []

    @property
    def history(self) -> History:
        """The history as of now."""
        return History(self._live, self._ended)

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
        """  # noqa: D205
        old = self.values
        if values == old:
            return
        for key, value in old.items():
            if key not in values:
                self._end(key, left_out(key))
            elif values[key] != value:
                self._end(key, replaced)
                self._open(key, values[key], via)
        for key, value in values.items():
            if key not in old:
                self._open(key, value, via)
        self.values = values

    def end_all(self, reason: EndReason) -> None:
        """Ends everything."""
        self.become({}, via="unseen", replaced=reason, left_out=lambda _key: reason)

    def _open(self, key: str, value: str | None, via: SetVia) -> None:
        version = self._ended.pop(key, 0) + 1
        interval = Interval(version, value, self._at, self._event_id, via)
        self._live[key] = interval
        self.rows.append(Put(self._table, self._row(key, interval), is_new=True))

    def _end(self, key: str, reason: EndReason) -> None:
        interval = self._live.pop(key)
        self._ended[key] = interval.version
        row = self._row(key, interval)
        row["valid_to"] = self._at
        row["ended_by_event"] = self._event_id
        row["end_reason"] = reason
        self.rows.append(Put(self._table, row, is_new=False))

    def _row(self, key: str, interval: Interval) -> dict[str, object]:
        column, owner_id = self._owner
        return {
            column: owner_id,
            "key": key,
            "version": interval.version,
            "value": interval.value,
            "valid_from": interval.valid_from,
            "valid_to": None,
            "set_by_event": interval.set_by_event,
            "set_via": interval.set_via,
            "ended_by_event": None,
            "end_reason": None,
        }

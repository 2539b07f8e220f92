"""The comparison with Nova knows every table; and what it takes a sound history for."""

from typing import Any

import pytest

from metaledger.schemas.tables.instance import instance_attribute_history

from .agreement import CHECKS, EMPTY, PUBLIC
from .histories import Row, broken

TIMES = {"one": 1, "two": 2, "three": 3}


def test_every_public_table_is_compared_or_has_to_be_empty() -> None:
    assert {*CHECKS, *EMPTY} == PUBLIC
    assert not CHECKS.keys() & EMPTY.keys()


def interval(number: int, **changes: Any) -> Row:
    """The versions of one key: two that followed one another, and one that is live."""
    events = ["one", "two", "three", None]
    begun, ended = events[number - 1 : number + 1]
    return {
        "instance_uuid": "i",
        "kind": "attribute",
        "key": "image_ref",
        "version": number,
        "set_by_event": begun,
        "valid_from": TIMES.get(begun or ""),
        "ended_by_event": ended,
        "valid_to": TIMES.get(ended or ""),
        "end_reason": ended and "overwritten",
        **changes,
    }


def found(*rows: Row) -> list[str]:
    return [*broken(instance_attribute_history, rows, TIMES)]


def test_a_sound_history_breaks_nothing() -> None:
    assert found(interval(3), interval(1), interval(2)) == []
    left = interval(1, ended_by_event="two", end_reason="removed")
    assert found(left, interval(2, set_by_event="three", valid_from=3, ended_by_event=None,
                                valid_to=None, end_reason=None)) == []  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 4}, "its versions are [2, 3, 4]"),
        ({"valid_to": None, "ended_by_event": None, "end_reason": None}, "[1] have not ended"),
        ({"valid_to": 0}, "1 ends before it begins"),
        ({"valid_to": 3}, "2 begins before 1 ends"),
        ({"valid_from": 0}, "1 did not begin when its event says"),
        ({"valid_to": 1}, "1 did not end when its event says"),
        ({"set_by_event": "another"}, "1 did not begin when its event says"),
        ({"end_reason": None}, "1 ended by halves"),
        ({"end_reason": "removed"}, "1 ended as removed, and replaced"),
        ({"ended_by_event": "three"}, "1 ended as overwritten, and not replaced"),
    ],
)
def test_what_a_history_breaks_is_said(changes: dict[str, Any], said: str) -> None:
    broken_ones = found(interval(1, **changes), interval(2), interval(3))
    assert any(said in it for it in broken_ones), broken_ones

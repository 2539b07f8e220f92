"""The race finds out a relay that is wrong: two that look right fail the check that ours passes."""

from pathlib import Path

import pytest

from .outbox_race import our_relay, race
from .race_relays import CursorRelay, HorizonRelay

pytestmark = pytest.mark.slow

COMMITS = 800


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgres_url", marks=pytest.mark.postgres),
        pytest.param("mariadb_url", marks=pytest.mark.mariadb),
    ],
)
def test_a_relay_with_a_cursor_on_ids_loses(
    request: pytest.FixtureRequest, tmp_path: Path, url: str
) -> None:
    found = request.getfixturevalue(url)
    outcome = race(found, CursorRelay, commits=COMMITS, seed="cursor", folder=tmp_path)
    assert outcome.lost > 0
    assert not outcome.is_right


def test_a_relay_with_a_cursor_below_the_oldest_transaction_inverts(
    postgres_url: str, tmp_path: Path
) -> None:
    # Seldom: some eight in a thousand changes.
    commits = 3 * COMMITS
    outcome = race(postgres_url, HorizonRelay, commits=commits, seed="horizon", folder=tmp_path)
    assert outcome.lost == 0
    assert outcome.inverted > 0
    assert not outcome.is_right


def test_ours_does_neither(postgres_url: str, tmp_path: Path) -> None:
    outcome = race(postgres_url, our_relay, commits=COMMITS, seed="ours", folder=tmp_path)
    assert outcome.is_right, outcome

"""The databases that a Nova cell may have."""

from pathlib import Path

import pytest


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def cell_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table, on each of them."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/nova.sqlite"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url

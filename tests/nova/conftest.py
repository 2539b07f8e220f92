"""The databases that a Nova cell may have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .cell import Cell, cell
from .racing import impatient


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


@pytest.fixture(
    params=[
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def raced(request: pytest.FixtureRequest) -> Iterator[Cell]:
    """A cell whose database lets several write at once."""
    with cell(impatient(request.getfixturevalue(f"{request.param}_url"))) as made:
        yield made

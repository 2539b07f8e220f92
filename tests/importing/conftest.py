from collections.abc import Iterator
from pathlib import Path

import pytest

from .kit import Cloud


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cloud]:
    """Glance's tables with an outbox on each database, and a ledger."""
    if request.param == "sqlite":
        path = tmp_path / "service.sqlite"
        path.touch()
        url = f"sqlite:///{path}"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    made = Cloud(url, tmp_path)
    yield made
    made.close()

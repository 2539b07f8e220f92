"""An outbox's numbering goes into one log; into another it goes in a new epoch alone."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from metaledger.producers.administration import bind, install, reseed
from metaledger.schemas.errors import LogRefused
from metaledger.schemas.log.embedded import create_embedded_log


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request, tmp_path: Path):
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path}/service.db"
    made = create_engine(url)
    install(made)
    yield made
    made.dispose()


@pytest.fixture
def logs(tmp_path: Path):
    made = [create_embedded_log(tmp_path / name) for name in ("one.db", "two.db")]
    yield made
    for log in made:
        log.close()


def test_another_log_is_refused_until_a_new_epoch_begins(engine, logs) -> None:
    one, two = logs
    bind(engine, one)
    bind(engine, one)
    with pytest.raises(LogRefused, match="outbox reseed"):
        bind(engine, two)
    bind(engine, one)
    reseed(engine)
    bind(engine, two)
    with pytest.raises(LogRefused):
        bind(engine, one)

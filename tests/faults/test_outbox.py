"""A table of the outbox that is missing: one line for every command, which says what to run."""

import pytest
from sqlalchemy import create_engine, text

from metaledger.producers.tables import METADATA


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, home):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    (home / "service.db").touch()
    return f"sqlite:///{home}/service.db"


@pytest.mark.parametrize("table", METADATA.tables)
def test_a_missing_table_is_named_with_the_command_that_makes_it(metaledger, home, url, table):
    assert metaledger("outbox", "install", url).status == 0
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {table}"))
    engine.dispose()
    for command in (("outbox", "status", url), ("outbox", "reseed", url), ("relay", url)):
        result = metaledger(*command)
        assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
        assert table in result.err
        assert "metaledger outbox install" in result.err
    (home / "c.toml").write_text(f'[relay]\noutbox = "{url}"\n')
    for command in ("status", "doctor"):
        result = metaledger("--config", "c.toml", "--json", command)
        assert (result.status, result.err) == (1, "")
        assert table in result.out

import sqlite3

import pytest
from sqlalchemy import create_engine, text

WRITES = [
    "INSERT INTO t VALUES (1, 2)",
    "DELETE FROM t RETURNING a",
    "UPDATE t SET a = 'y'",
    "DROP TABLE t",
    "CREATE TABLE z (a int)",
    "SELECT 1; DROP TABLE t",
    "SELECT 1; COMMIT; DROP TABLE t",
    "COMMIT",
    "",
]
SQLITE_WRITES = [
    "ATTACH 'y.db' AS y",
    "PRAGMA query_only = OFF",
    "VACUUM INTO 'y.db'",
    "CREATE TEMP TABLE z (a)",
    "UPDATE sqlite_master SET sql = 'x'",
    "WITH x AS (SELECT 1) DELETE FROM t",
]
POSTGRES_WRITES = [
    "WITH x AS (DELETE FROM t RETURNING a) SELECT * FROM x",
    "SELECT a INTO z FROM t",
    "SELECT 1) AS q; DROP TABLE t; --",
    "SET default_transaction_read_only = off",
    "SELECT nextval('s')",
    "COPY t TO '/tmp/x'",
]


@pytest.fixture
def sqlite_model(metaledger, home):
    path = home / "model.db"
    url = f"sqlite:///{path}"
    assert metaledger("--read-model", url, "migrate").status == 0
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a, b)")
    connection.execute("INSERT INTO t VALUES ('x', 1), ('\x1b[2J', 2.5), (NULL, x'00ff')")
    connection.commit()
    connection.close()
    return url


@pytest.fixture
def postgres_model(metaledger, postgres_url):
    assert metaledger("--read-model", postgres_url, "migrate").status == 0
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE public.t (a text, b int)"))
        connection.execute(text("CREATE SEQUENCE public.s"))
        connection.execute(text("INSERT INTO public.t VALUES ('x', 1), (NULL, 2)"))
    yield postgres_url
    engine.dispose()


def test_rows_are_a_table_for_people_and_exact_in_json(metaledger, sqlite_model):
    query = ("--read-model", sqlite_model, "sql", "SELECT a, b, b AS a FROM t")
    told = metaledger(*query)
    assert told.status == 0
    assert "\\x1b[2J" in told.out
    assert "\x1b" not in told.out
    assert metaledger("--json", *query).document == {
        "columns": ["a", "b", "a"],
        "rows": [["x", 1, 1], ["\x1b[2J", 2.5, 2.5], [None, "AP8=", "AP8="]],
    }


def test_json_functions_work(metaledger, sqlite_model):
    query = "SELECT value FROM json_each('[1, 2]')"
    assert metaledger("--json", "--read-model", sqlite_model, "sql", query).document["rows"] == [
        [1],
        [2],
    ]


@pytest.mark.parametrize("query", [*WRITES, *SQLITE_WRITES, "SELECT * FROM nope", "nonsense"])
def test_sqlite_is_only_read(metaledger, home, sqlite_model, query):
    before = (home / "model.db").read_bytes()
    result = metaledger("--read-model", sqlite_model, "sql", query)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("metaledger: the query ")
    assert result.err.count("\n") == 1
    assert (home / "model.db").read_bytes() == before
    assert not (home / "y.db").exists()


@pytest.mark.parametrize("query", [*WRITES, *POSTGRES_WRITES, "SELECT * FROM nope", "SELECT 1/0"])
def test_postgres_is_only_read(metaledger, postgres_model, query):
    result = metaledger("--read-model", postgres_model, "sql", query)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("metaledger: the query ")
    assert result.err.count("\n") == 1
    rows = metaledger("--read-model", postgres_model, "--json", "sql", "SELECT * FROM t").document
    assert rows == {"columns": ["a", "b"], "rows": [["x", 1], [None, 2]]}


def test_postgres_gives_more_rows_than_one_chunk(metaledger, postgres_model):
    query = "SELECT n FROM generate_series(1, 2500) n"
    result = metaledger("--json", "--read-model", postgres_model, "sql", query)
    assert result.document["rows"] == [[n] for n in range(1, 2501)]


def test_there_is_no_read_model_yet(metaledger, home):
    result = metaledger("sql", "SELECT 1")
    assert result.status == 2
    assert "there is no read model yet" in result.err
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"nonsense" * 600, b"SQLite format 3\0" + b"x" * 99])
def test_a_file_that_is_no_read_model_is_one_clear_line(metaledger, home, content):
    (home / "metaledger-read.db").write_bytes(content)
    result = metaledger("anomalies")
    assert result.status == 2
    assert result.err.count("\n") == 1


def test_a_database_that_is_not_there_is_status_3(metaledger):
    result = metaledger("--read-model", "postgresql://u:s3cret@127.0.0.1:1/d", "anomalies")
    assert result.status == 3
    assert result.err.count("\n") == 1
    assert "s3cret" not in result.err

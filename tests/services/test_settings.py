from pathlib import Path

import pytest

from metaledger.schemas.errors import UsageError
from metaledger.services.settings import (
    EmbeddedLedger,
    KafkaLedger,
    ledger_of,
    load_settings,
    redacted,
)

from .samples import SCENARIO


def load(environment=None, **options):
    given = {"ledger": None, "read_model": None, "config": None, **options}
    return load_settings(**given, environment=environment or {"HOME": "/nowhere"})


def written(folder: Path, text: str) -> Path:
    file = folder / "metaledger.toml"
    file.write_text(text)
    return file


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path):
    file = written(tmp_path, 'ledger = "sqlite:////file"')
    variable = {"METALEDGER_LEDGER_URL": "sqlite:////variable"}
    assert load(config=file).ledger == "sqlite:////file"
    assert load(variable, config=file).ledger == "sqlite:////variable"
    assert load(variable, config=file, ledger="sqlite:////o").ledger == "sqlite:////o"
    assert load().ledger == "sqlite:///metaledger.db"
    assert (load().named, load(variable).named) == (set(), {"ledger"})


def test_a_path_in_the_file_is_relative_to_the_file(tmp_path):
    file = written(tmp_path, 'ledger = "sqlite:///a.db"\n[registry]\nschema_ids = "ids.json"')
    settings = load(config=file)
    assert settings.ledger == f"sqlite:///{tmp_path}/a.db"
    assert settings.registry.schema_ids == tmp_path / "ids.json"


def test_the_usual_places_are_looked_at(tmp_path):
    folder = tmp_path / ".config" / "metaledger"
    folder.mkdir(parents=True)
    written(folder, 'deployment_id = "north"')
    assert load({"HOME": str(tmp_path)}).deployment_id == "north"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ledgr = 'x'", "ledgr is no setting"),
        ("[kafka]\nsasl_user = 'x'", "kafka.sasl_user is no setting"),
        ("[topic]\npartitions = '12'", "topic.partitions: expected an integer, got str"),
        ("[topic]\npartitions = true", "topic.partitions: expected an integer, got bool"),
        ("topic = 3", "topic: expected a table, got int"),
        ("file = 'x'", "file is no setting"),
        ("named = ['ledger']", "named is no setting"),
        ("ledger = ", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, named):
    with pytest.raises(UsageError, match=named) as caught:
        load(config=written(tmp_path, text))
    assert "metaledger.toml" in str(caught.value)


@pytest.mark.parametrize("text", ["[relay]\nlease_s = 30.0", "[kafka]\nsend_timeout_s = 60.0"])
def test_a_lease_shorter_than_a_send_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match="make the lease longer"):
        load(config=written(tmp_path, text))


@pytest.mark.parametrize(
    "words",
    [
        ["emit", str(SCENARIO)],
        ["project"],
        ["migrate"],
        ["guard", "--hypervisor", "h", "--host", "n", "--instance", "u", "--offline"],
        ["quarantine", "release", "image:a"],
        ["quarantine", "skip", "0/0", "--reason", "r"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize(
    ("ledger", "read_model"),
    [
        ("sqlite:///one.db", "sqlite:///one.db"),
        ("sqlite:///one.db", "sqlite:///./folder/../one.db"),
        ("sqlite:///one.db", "sqlite:///link.db"),
        ("sqlite:///one.db", "sqlite+pysqlite:///one.db"),
    ],
)
def test_who_writes_refuses_one_file_for_ledger_and_read_model(
    metaledger, home, words, ledger, read_model
):
    (home / "folder").mkdir()
    (home / "link.db").symlink_to("one.db")
    said = metaledger("--ledger", ledger, "--read-model", read_model, *words)
    assert said.status == 2
    assert said.err.startswith("metaledger: ledger and read model are one file, one.db: ")
    assert said.err.count("\n") == 1
    assert not (home / "one.db").exists()


def test_a_file_that_has_two_names_is_one(metaledger, home):
    assert metaledger("emit", SCENARIO).status == 0
    (home / "again.db").hardlink_to(home / "metaledger.db")
    said = metaledger("--read-model", "sqlite:///again.db", "migrate")
    assert (said.status, "are one file" in said.err) == (2, True)


def test_a_ledger_is_a_file_or_a_topic():
    assert ledger_of("sqlite:///a/b.db") == EmbeddedLedger(Path("a/b.db"))
    assert ledger_of("sqlite:////a.db") == EmbeddedLedger(Path("/a.db"))
    assert ledger_of("kafka://a:1,b:2/t") == KafkaLedger("a:1,b:2", "t")
    for wrong in ("", "sqlite://", "sqlite:///", "kafka://a:1", "kafka:///t", "kafka://a/b/c", "x"):
        with pytest.raises(UsageError):
            ledger_of(wrong)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@h/d",
        "postgresql://u:x@s3cret@h/d",
        "postgresql://u:x/s3cret@h/d",
        "postgresql://h/d?password=s3cret",
        "kafka://u:s3cret@h:1/t",
    ],
)
def test_no_secret_of_a_url_is_shown(url):
    assert "s3cret" not in redacted(url)
    with pytest.raises(UsageError) as caught:
        ledger_of(url.replace("kafka", "kafkas"))
    assert "s3cret" not in str(caught.value)


def test_no_secret_is_in_the_settings_text(tmp_path):
    file = written(tmp_path, '[kafka]\nsasl_password = "s3cret"\n[registry]\npassword = "s3cret"')
    settings = load(
        config=file, ledger="kafka://u:s3cret@h:1/t", read_model="postgresql://u:s3cret@h/d"
    )
    assert settings.kafka.sasl_password == "s3cret"
    assert "s3cret" not in repr(settings)

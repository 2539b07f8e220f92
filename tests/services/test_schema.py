import json

from metaledger.schemas.catalogue import SCHEMAS

from .samples import SCENARIO, SCENARIO_IMAGE


def test_the_shipped_schemas_are_compatible(metaledger):
    result = metaledger("--json", "schema", "check")
    assert result.status == 0
    assert result.document["incompatible"] == []
    assert result.document["schemas"] == len(SCHEMAS)


def test_a_registry_gives_ids_and_records_carry_them(metaledger, home, registry_url):
    config = home / "metaledger.toml"
    config.write_text(f'[registry]\nurl = "{registry_url}"\nschema_ids = "ids.json"\n')
    options = ("--config", config)
    assert metaledger(*options, "emit", SCENARIO).status == 2
    result = metaledger("--json", *options, "schema", "register")
    assert result.document == {"schemas": len(SCHEMAS), "file": str(home / "ids.json")}
    assert len(json.loads((home / "ids.json").read_text())) == len(SCHEMAS)
    assert metaledger(*options, "emit", SCENARIO).status == 0
    assert metaledger(*options, "project").status == 0
    assert metaledger("image", "show", SCENARIO_IMAGE).status == 0
    assert "registry" in metaledger("events").out


def test_a_registry_that_is_not_there_is_status_3(metaledger, home):
    config = home / "metaledger.toml"
    config.write_text('[registry]\nurl = "http://127.0.0.1:1/x"\nschema_ids = "ids.json"\n')
    result = metaledger("--config", config, "schema", "register")
    assert result.status == 3
    assert result.err.count("\n") == 1
    assert metaledger("schema", "register", "--file", "x").status == 2

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["schema", "nope"], ["schema", "list", "--nope"], ["sql"], ["--ledger"]],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_status_2(metaledger, arguments):
    result = metaledger(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("metaledger: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["emit", "/proc/self/mem"],
        ["events", "--ledger", "sqlite:///" + "x" * 5_000],
        ["image", "show", "i", "--read-model", "sqlite:///" + "x" * 5_000],
        ["image", "show", "i", "--read-model", "sqlite:///file.db?mode=ro"],
        ["schema", "list", "--config", "/proc/self/mem"],
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_what_the_system_refuses_to_open_is_one_line_and_status_2(metaledger, arguments):
    result = metaledger(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("metaledger: ")
    assert result.err.count("\n") == 1


def test_status_shows_no_control_of_a_terminal(metaledger):
    shown = metaledger("status", "--ledger", "\u202esqlite:///\x1b[2J").out
    assert "\\u202esqlite:///\\x1b[2J" in shown


def test_help_is_no_error(metaledger):
    result = metaledger("--help")
    assert result.status == 0
    assert "schema" in result.out


def test_global_options_stand_before_a_command_or_behind_it(metaledger):
    before = metaledger("--json", "schema", "list")
    behind = metaledger("schema", "list", "--json")
    assert before.document == behind.document
    assert before.document[0]["type"] == "DestroyJudged"
    assert "GapAccepted" in metaledger("schema", "list").out


def test_a_missing_configuration_is_one_line(metaledger):
    result = metaledger("--config", "nope.toml", "schema", "list")
    assert result.status == 2
    assert result.err == (
        "metaledger: the configuration file nope.toml cannot be read: No such file or directory\n"
    )


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "metaledger.services", "schema", "list"]
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


def test_completion_knows_the_commands():
    environment = {
        **os.environ,
        "_METALEDGER_COMPLETE": "complete_bash",
        "COMP_WORDS": "metaledger sch",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", "metaledger.services"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["schema"]


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        (["relay"], "[relay.outbox]"),
        (["relay"], "[relay.spool]"),
        (["outbox", "install"], "[relay.outbox]"),
        (["topic", "create"], "[topic.partitions]"),
        (["status"], "[METALEDGER_LEDGER_URL]"),
    ],
)
def test_help_names_the_setting_of_an_option(metaledger, command, setting):
    assert setting in metaledger(*command, "--help").out


def test_where_only_the_hook_is_installed_the_command_says_what_is_missing():
    program = (
        "import sys; sys.modules['typer'] = None\n"
        "from metaledger.services.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "metaledger[services]" in result.stderr

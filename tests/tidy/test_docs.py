"""What the documents say to type can be typed, and what they name is there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from metaledger.services import cli
from metaledger.services.settings import load_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *(f"docs/{name}.md" for name in ("EVENTS", "READ_MODEL", "RELIABILITY")),
)
# What the documents tell of, and say that it is not there yet.
PLANNED = {"replay", "diff", "promote"}
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
PARTS = ("schemas", "producers", "projector", "services", "tests", "deploy", ".ci")
# Behind an empty line; else it is a list that goes on.
INDENTED = re.compile(r"(?<=\n\n)(?: {4}\S.*\n)+")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def shell_blocks() -> list[str]:
    blocks = []
    for text in TEXTS.values():
        blocks += [block for language, block in FENCED.findall(text) if language in ("sh", "bash")]
        blocks += INDENTED.findall(FENCED.sub("", text))
    return blocks


def command_lines() -> list[str]:
    """Every `metaledger …` of the documents and of the units, without what the shell adds."""
    lines = [line for block in shell_blocks() for line in block.splitlines()]
    lines += [words for text in TEXTS.values() for words in INLINE.findall(FENCED.sub("", text))]
    for unit in (ROOT / "deploy").glob("*.service"):
        lines += re.findall(r"^ExecStart=\S*/(metaledger .*)$", unit.read_text(), re.MULTILINE)
    lines = [line.strip() for line in lines]
    return sorted({line for line in lines if re.match(r"metaledger [-a-z]", line)})


def words_of(line: str) -> list[str]:
    words = shlex.split(line.rstrip(" &"), comments=True)[1:]
    return [word.strip("[]") for word in words if word != "&"]


@pytest.mark.parametrize("block", shell_blocks(), ids=lambda block: block.split("\n")[0].strip())
def test_a_shell_understands_every_block(block: str) -> None:
    found = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    "line",
    [line for line in command_lines() if not re.search(r"completion|\{|\bCOMMAND\b", line)],
)
def test_every_command_that_is_named_exists(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    # With --help it is parsed, unknown commands and options are refused, and nothing is done.
    assert cli.run([*words_of(line), "--help"]) == 0, capfd.readouterr().err


def test_a_command_that_does_not_exist_would_be_found() -> None:
    assert cli.run(["nope", "--help"]) != 0
    assert cli.run(["image", "show", "ID", "--nope", "--help"]) != 0
    assert len(command_lines()) > 20


def promised_commands() -> dict[str, str]:
    """The commands in the table of READ_MODEL.md, without their arguments, and what each does."""
    _, _, section = TEXTS["docs/READ_MODEL.md"].partition("## The command line")
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section.partition("\n## ")[0], re.MULTILINE)
    promised = {}
    for commands, does in rows:
        for line in INLINE.findall(commands.replace(r"\|", "/")):
            found = re.match(r"[a-z]+(?: [a-z][a-z/-]*)?", line)
            if found:
                *group, names = found[0].split()
                promised |= {" ".join([*group, name]): does for name in names.split("/")}
    return promised


@pytest.mark.parametrize("command", promised_commands())
def test_a_command_of_the_table_exists_or_is_said_to_be_planned(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    is_there = cli.run([*command.split(), "--help"]) == 0
    said = capfd.readouterr().err
    assert is_there == (command not in PLANNED), said
    # And no likeness to one that is there: `replay` is not to become `relay` at night.
    assert (said == f"metaledger: {command} is planned, and not there yet\n") != is_there
    assert promised_commands()[command].startswith("planned: ") == (command in PLANNED)


def test_what_is_planned_is_in_the_table() -> None:
    assert promised_commands().keys() > PLANNED
    assert len(promised_commands()) > 30


@pytest.mark.parametrize("name", ["README.md", "deploy/metaledger.toml"])
def test_configuration_that_is_shown_is_accepted(name: str, tmp_path: Path) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        [text] = [block for language, block in FENCED.findall(text) if language == "toml"]
    file = tmp_path / "metaledger.toml"
    file.write_text(text)
    settings = load_settings(ledger=None, read_model=None, config=file, environment={})
    assert settings.ledger.startswith("kafka://")
    assert settings.relay.outbox


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_is_named_is_there(name: str) -> None:
    text = TEXTS[name]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = [
        words
        for words in INLINE.findall(FENCED.sub("", text))
        if re.fullmatch(r"[\w./-]+", words) and words.split("/")[0] in PARTS and "/" in words
    ]
    lacking = [path for path in named if not exists(path)]
    lacking += [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]
    assert lacking == []


def exists(path: str) -> bool:
    """A file, a folder, a module without its suffix, or a name in a module (`services/shell`)."""
    return (ROOT / path).exists() or (ROOT / f"{path}.py").exists()

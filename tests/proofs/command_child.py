"""A child of the proof `command-line`: `python -m tests.proofs.command_child SEED COUNT`.

Runs so many hostile command lines in this process and in its current folder, and prints one JSON
object of their exit statuses. Hypothesis draws them, by the seed. It ends at the first that breaks
the promise; which one, stands in the file `tried`.
"""

import io
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert, text

from metaledger.producers.administration import install
from metaledger.producers.glance.tables import IMAGES
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import NewRecord
from metaledger.schemas.log.embedded import create_embedded_log
from metaledger.schemas.representable import representable
from metaledger.services import cli
from tests.contract.mutating import Material, mutated
from tests.contract.samples import EVENTS, HYPERVISOR, IMAGE

from .fuzz_targets import TARGETS, Broken

SCENARIOS = sorted((Path(__file__).parents[1] / "scenarios").glob("*.jsonl"))
# One that is rescued, one with disks.
INSTANCES = ("0b7a4f2e-6d1c-4c3e-9a51-3f0f6f1d2c11", "f5000000-0000-4000-8000-000000000001")
# These run until they are stopped; `relay` ends where its ledger can never be opened.
_ENDLESS = {("demo",), "--follow"}
_RELAY = ("relay",)
_STATUSES = {0, 1, 2, 3}
_FAILED = 2
_LINES_OF_ERRORS_MAX = 21
# Of the processor, for one command; and what the process held at most, the engine's memory with it.
_CPU_S_MAX = 2.0
_MEMORY_BYTES_MAX = 256 << 20
# Of ten.
_OPTIONS, _STRAY_WORDS, _FITTING_ONES = 3, 1, 8
_POISON = 40
_AT_ONCE_MAX = 20
_LINES_MAX = 6
_HOSTILE = (
    "",
    "-",
    "--",
    "-x",
    "--reason",
    "nope",
    "\x1b]0;owned\x07\x1b[2J",
    "\u202eevil\u2066",
    "\udcff\udc80",
    "\U0010ffff\ufffe",
    "x" * 100_000,
    "[red]markup[/red] [/]",
    "%s %d {} {0} ${HOME} `id` $(id)",
    "'; DROP TABLE images; --",
    "../../../etc/passwd",
    "/dev/null",
    "/proc/self/mem",
    ".",
    "0",
    "-1",
    "99999999999999999999",
    "1e999",
    "NaN",
    "image:",
    ":",
    "0:99999999999999999999",
    "\u0663:\u0661",
    "2026-02-30T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "sqlite://",
    "sqlite:///",
    "sqlite:////dev/null",
    "sqlite:///nope/nope.db",
    "sqlite:///x?mode=ro&%00=1",
    "sqlite:///" + "y" * 5_000,
    "postgresql://[::1",
    "kafka://",
    "kafka://h:9092/../t",
    "http://127.0.0.1:1",
)
_URLS = (
    "postgresql://u:secret@127.0.0.1:1/x",
    "mysql+nope://u:secret@h/x",
    "kafka://u:secret@h:9092/t",
)
_OF_RELAY = {
    "ledger": (*_URLS, "kafka://", "http://127.0.0.1:1", "sqlite:////dev/null", "nope"),
    # A spool is made where there is none, with its folders.
    "spool": ("spool.db", "bytes", "lines.jsonl", "bytes/spool.db"),
}
_GOOD = ("sqlite:///good.db", "sqlite:///good.db", "sqlite:///poison.db")
_BAD = ("sqlite:///bytes", "sqlite:///torn.db")
_QUERIES = (
    "SELECT 1",
    "SELECT * FROM images",
    "SELECT * FROM instance_image_metadata",
    "SELECT x'00', 'a\x1b[31m', 1e999, NULL",
    "SELECT 1; SELECT 2",
    "DELETE FROM images",
    "PRAGMA query_only=OFF",
    "ATTACH 'x' AS y",
    "SELECT load_extension('x')",
    "SELECT randomblob(100000)",
    "",
    ";",
    "--",
    "SELECT",
    "WITH t AS (SELECT 1) INSERT INTO images SELECT * FROM t",
)
_FITTING: dict[str, Sequence[str]] = {
    "image_id": (IMAGE, "i"),
    "image": (IMAGE, "i"),
    "instance_uuid": (*INSTANCES, "u"),
    "instance": (*INSTANCES, "u"),
    "hypervisor_id": (HYPERVISOR, "h"),
    "hypervisor": (HYPERVISOR, "h"),
    "host": ("compute-a", "h"),
    "instances_from": ("lines.jsonl", "bytes"),
    "where": ("0:0", "0:3", "0/7", "0:999"),
    "aggregate": (
        f"image:{IMAGE}",
        "image:i",
        f"instance:{INSTANCES[0]}",
        f"hypervisor:{HYPERVISOR}",
        "stream:s",
    ),
    "as_of": ("2026-11-21T13:43:32Z", "0001-01-01T00:00:00Z"),
    "since": ("2026-11-21T13:43:32Z", "9999-12-31T23:59:59Z"),
    "query": _QUERIES,
    "file": ("lines.jsonl", "bytes"),
    "url": (
        *("sqlite:///good.db", "sqlite:///bytes", "sqlite:///outbox.db", "sqlite:///glance.db"),
        *_URLS,
    ),
    "service": ("glance", "glance", "nova"),
    "glance_conf": ("settings", "bytes"),
    "kind": ("history_gap",),
    "partitions": ("0", "12"),
    "ledger": (*_GOOD, *_GOOD, "sqlite:///poison.db", *_BAD, *_URLS),
    "read_model": (*["sqlite:///read.db"] * 6, "sqlite:///new.db", *_BAD, *_URLS),
    "config": ("settings", "bytes"),
}
_SETTINGS = b"""
ledger = "sqlite:///good.db"
read_model = "sqlite:///read.db"
event_bytes_max = 900000
guard_wait_s = 0.0
guard_streams = ["s"]
[kafka]
tls = true
sasl_mechanism = "PLAIN"
[projector]
clock_skew_max_s = 60.0
[relay]
outbox = "sqlite:///outbox.db"
[registry]
schema_ids = "bytes"
url = "http://127.0.0.1:1"
"""
_WORDS = [word.encode("utf-8", "surrogatepass") for word in _HOSTILE if len(word) < 100]
_SETTINGS_MATERIAL = Material(
    [_SETTINGS],
    [*_WORDS, b"\n[x]\n", b'"', b"=", b"\0", b"1979-05-27", b"[" * 2000, b"\\u0000", b"nan", b"-1"],
)


@dataclass(frozen=True, slots=True)
class Command:
    """One of the command line's commands, as it tells of itself."""

    name: tuple[str, ...]
    parameters: Sequence[Any]


def commands() -> list[Command]:
    found = _below(typer.main.get_command(cli.app), ())
    return [command for command in found if command.name not in _ENDLESS]


def _below(node: Any, name: tuple[str, ...]) -> Iterator[Command]:
    if not hasattr(node, "commands"):
        yield Command(name, node.params)
        return
    for word, child in node.commands.items():
        yield from _below(child, (*name, word))


# A NUL no argument can have, and no file is to be made outside of the folder.
_WORDS_OF_ANYBODY = st.sampled_from(_HOSTILE) | st.text(
    st.characters(exclude_characters="\0/"), max_size=30
)
_ONE_OF_TEN = st.integers(0, 9)


@st.composite
def command_lines(draw: st.DrawFn, command: Command) -> list[str]:
    """A command line: each parameter with what it wants, with what it does not, or left out."""
    words = list(command.name)
    for parameter in command.parameters:
        option = next((one for one in parameter.opts if one.startswith("--")), None)
        if option in _ENDLESS or option in {"--help", "--verbose"}:
            continue
        # Without a ledger and a read model of its own a command does little.
        wanted = parameter.required or parameter.name in {"ledger", "read_model"}
        if not wanted and draw(_ONE_OF_TEN) >= _OPTIONS:
            continue
        if option is not None:
            words.append(option)
        if not (option and parameter.is_flag):
            words.append(draw(_values(command, parameter.name)))
    # It could take the place of the relay's ledger.
    if command.name != _RELAY and draw(_ONE_OF_TEN) < _STRAY_WORDS:
        words.insert(draw(st.integers(0, len(words))), draw(_WORDS_OF_ANYBODY))
    return words


def _values(command: Command, name: str) -> st.SearchStrategy[str]:
    if command.name == _RELAY and name in _OF_RELAY:
        return st.sampled_from(_OF_RELAY[name])
    if name not in _FITTING:
        return _WORDS_OF_ANYBODY
    fitting = st.sampled_from(_FITTING[name])
    return _ONE_OF_TEN.flatmap(lambda at: fitting if at < _FITTING_ONES else _WORDS_OF_ANYBODY)


def lay_out(random: Random) -> None:
    """A ledger and one with poison, each with its read model, and a Glance's database."""
    for words in (
        *(["emit", str(file), "--ledger", "sqlite:///good.db"] for file in SCENARIOS),
        ["project", "--ledger", "sqlite:///good.db", "--read-model", "sqlite:///read.db"],
    ):
        status, _, err = outcome(words)
        assert status == 0, err
    glance = create_engine("sqlite:///glance.db")
    IMAGES.metadata.create_all(glance)
    install(glance)
    with glance.begin() as connection:
        for word in (IMAGE, *(word for word in _HOSTILE if representable(word) == word)):
            row = {"id": word[:40], "name": "\x1b[31m", "status": "queued", "deleted": "x" in word}
            connection.execute(insert(IMAGES), row)
        connection.execute(text("UPDATE images SET status = NULL WHERE id = '-'"))
        connection.execute(text("UPDATE images SET deleted_at = 'never' WHERE deleted"))
    glance.dispose()
    records = TARGETS[0].material
    with_poison = create_embedded_log(Path("poison.db"))
    for number in range(_POISON):
        value = mutated(records, random)
        meta = EVENTS[0].meta
        record = NewRecord(
            key=f"image:{number % 5}",
            value=value,
            sha256=random.randbytes(32),
            event_id=meta.event_id,
            number=StreamNumber(stream_id="s", epoch=1, stream_seq=number + 1),
        )
        with_poison.writer().append([record])
    with_poison.close()


def hostile_files(random: Random) -> None:
    """Each of the files that a command line names, made anew."""
    lines = next(target.material for target in TARGETS if target.name == "line")
    text = b"\n".join(mutated(lines, random) for _ in range(random.randrange(_LINES_MAX)))
    Path("lines.jsonl").write_bytes(text)
    Path("settings").write_bytes(mutated(_SETTINGS_MATERIAL, random))
    torn = Path(random.choice(["good.db", "read.db"])).read_bytes()
    Path("torn.db").write_bytes(mutated(Material([torn], [b"\0" * 100, b"\xff" * 100]), random))
    Path("bytes").write_bytes(random.randbytes(random.choice([0, 1, 100, 1_000])))
    for leftover in Path().glob("new.db*"):
        leftover.unlink()


def outcome(words: Sequence[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command line."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in range(2)
    )
    try:
        status = cli.run(words)
        written = []
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            written.append(stream.buffer.getvalue().decode())
    finally:
        sys.stdout, sys.stderr = out, err
    return status, written[0], written[1]


@contextmanager
def metered() -> Iterator[None]:
    """Raises Broken where what is done within took too much."""
    started_s = time.process_time()
    yield
    cpu_s = time.process_time() - started_s
    # Not `ru_maxrss`, which begins with what the parent held when it started this.
    [peak_kb] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    held_bytes = int(peak_kb) * 1024
    if cpu_s > _CPU_S_MAX or held_bytes > _MEMORY_BYTES_MAX:
        raise Broken(f"it took {cpu_s:.1f} s of the processor and {held_bytes >> 20} MB")


def check(words: Sequence[str]) -> int:
    """The exit status. Raises Broken where it is none, or what is written is not as promised."""
    try:
        status, out, err = outcome(words)
    except BaseException as error:
        raise Broken(f"it ended with {error!r}") from error
    if status not in _STATUSES:
        raise Broken(f"exit status {status}: {err[:2000]}")
    sentences = [line for line in err.splitlines() if line.startswith("metaledger: ")]
    most = _LINES_OF_ERRORS_MAX if "emit" in words else 1
    # `status` and `doctor` tell what they cannot reach in their answer.
    if len(sentences) > most or (status >= _FAILED and not (sentences or out)):
        raise Broken(f"exit status {status} and {len(sentences)} sentences: {err[:2000]}")
    # What stands where no URL belongs is shown back as it was typed.
    if "Traceback" in err or ("secret" in err + out and "unexpected extra" not in err):
        raise Broken(f"a traceback or a secret: {err[:2000]}")
    for line in [*err.splitlines(), *([] if "--json" in words else out.splitlines())]:
        if not line.isprintable():
            raise Broken(f"what no terminal should get: {line[:500]!a}")
    if status == 0 and "--json" in words:
        json.loads(out)
    return status


def main(chance: int, count: int) -> None:
    random = Random(chance)
    lay_out(random)
    known, statuses, left = commands(), Counter[str](), count
    # Hypothesis would draw some of them often, and others never.
    at_once = min(_AT_ONCE_MAX, max(1, count // len(known)))
    while left > 0:
        for command in random.sample(known, len(known)):
            some = min(at_once, left)
            if some:
                run_some(command, some, random.getrandbits(31), statuses)
            left -= some
    print(json.dumps(statuses))


def run_some(command: Command, count: int, chance: int, statuses: Counter[str]) -> None:
    """So many lines of one command; counts how they ended."""

    # What a command leaves is there for the next one: none can be made smaller by itself.
    @seed(chance)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines(command), st.randoms(use_true_random=False))
    def run(words: list[str], random: Random) -> None:
        hostile_files(random)
        Path("tried").write_text(json.dumps(words))
        with metered():
            status = check(words)
        statuses[f"{' '.join(command.name)}: {status}"] += 1

    run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

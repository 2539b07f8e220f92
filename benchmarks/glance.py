"""What the plugin costs a user of a real Glance: one PATCH with it, divided by one without it.

Two Glances on one database server take turns, PATCH by PATCH, each with a database of its own and
an active image of ten properties, two tags and a location; a PATCH replaces one value. The servers
do not sync their disks: that would add the same time to both and flatter the ratio.

With `--profile` the hooked Glance profiles its own requests, and what our side took is shown.
"""

import itertools
import pstats
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.glance.config import Extra
from tests.glance.conftest import PLUGIN
from tests.glance.environment import ensure_environment, install_product
from tests.glance.ledger import install_outbox
from tests.glance.service import Glance
from tests.proofs.proof import running
from tests.servers import choice

from .benchmark import Bench, Benchmark, Figure, Promise, Size

# The first requests of a worker load modules and compile statements.
WARM_UP = 30
ROUNDS = {Size.QUICK: 60, Size.FULL: 600}
PARTS = 10
PROPERTIES = {f"property_{number}": f"value {number}" for number in range(10)}
PROFILE = (("profiling", "profiling:filter_factory"),)
PROFILED_LINES = 45

# Gives the URLs of two empty databases on one server; None asks for Glance's own SQLite file.
Databases = Callable[[], "Iterator[tuple[str | None, str | None]]"]


def _measure(bench: Bench, databases: Databases) -> Figure:
    environment = ensure_environment()
    product = install_product(environment, bench.folder / "product")
    hooked_extra = Extra(
        database_options=PLUGIN, filters=PROFILE if bench.profile is not None else ()
    )
    with ExitStack() as stack:
        urls = stack.enter_context(contextmanager(databases)())
        patches = []
        for url, extra in zip(urls, (Extra(), hooked_extra), strict=True):
            folder = Path(tempfile.mkdtemp(prefix="glance-", dir=bench.folder))
            glance = Glance(
                *(environment, folder),
                product=product if extra is hooked_extra else None,
                database_url=url,
                extra=extra,
                processes=1,
            )
            stack.callback(glance.stop)
            patches.append(_started(glance))
        bare, ours = patches
        for _ in bench.pairs(bare, ours, rounds=WARM_UP):
            pass
        pairs = list(bench.pairs(bare, ours, rounds=ROUNDS[bench.size]))
    if bench.profile is not None:
        _show_profile(folder)
    return _figure(pairs)


def _started(glance: Glance) -> Callable[[], None]:
    """Starts it with an active image; returns a PATCH that changes a value of this image."""
    glance.sync_database()
    install_outbox(glance.database_url)
    glance.start()
    client = glance.client()
    image_id = client.create(name="image", tags=["a", "b"], **PROPERTIES).body["id"]
    assert client.upload(image_id, b"data").status == 204
    numbers = itertools.count()

    def patch() -> None:
        change = {"op": "replace", "path": "/property_3", "value": f"changed {next(numbers)}"}
        answer = client.patch(image_id, [change])
        assert answer.status == 200, answer

    return patch


def _figure(pairs: list[tuple[float, float]]) -> Figure:
    """The medians' ratio, with the lowest and the highest of the run's tenths."""
    size = len(pairs) // PARTS
    parts = [pairs[start : start + size] for start in range(0, size * PARTS, size)]
    bare_s, ours_s = _medians(pairs)
    ratios = [ours / bare for bare, ours in map(_medians, parts)]
    return Figure(
        value=ours_s / bare_s,
        lowest=min(ratios),
        highest=max(ratios),
        seen=f"{bare_s * 1000:.1f} ms without, {ours_s * 1000:.1f} ms with, median of {len(pairs)}",
    )


def _medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    bare_s, ours_s = zip(*pairs, strict=True)
    return statistics.median(bare_s), statistics.median(ours_s)


def _show_profile(folder: Path) -> None:
    stats = pstats.Stats(str(folder / "profile.prof"))
    stats.sort_stats("cumulative").print_stats("/metaledger/(producers|schemas)/", PROFILED_LINES)
    stats.sort_stats("tottime").print_stats(PROFILED_LINES)


def _postgres() -> Iterator[tuple[str | None, str | None]]:
    with running(choice.new_postgres) as server:
        yield server.create_database(), server.create_database()


def _mariadb() -> Iterator[tuple[str | None, str | None]]:
    with running(choice.new_mariadb) as server:
        yield server.create_database(), server.create_database()


def _sqlite() -> Iterator[tuple[str | None, str | None]]:
    yield None, None


def _benchmark(name: str, database: str, databases: Databases) -> Benchmark:
    return Benchmark(
        name=f"glance-{name}",
        measures=f"a real Glance's PATCH on {database} with the plugin, to one without: latency",
        promise=Promise.AT_MOST,
        bound=1.10,
        unit="",
        run=lambda bench: _measure(bench, databases),
    )


BENCHMARKS = (
    _benchmark("postgresql", "PostgreSQL", _postgres),
    _benchmark("mariadb", "MariaDB", _mariadb),
    _benchmark("sqlite", "SQLite", _sqlite),
)

"""`python -m benchmarks`: measures, and prints the table that the README shows.

./benchmarks.sh                    all, as the README reports them
./benchmarks.sh --list             their names, and what each divides by what
./benchmarks.sh NAME... --quick    these alone, small
./benchmarks.sh NAME --profile     with a profile of our side
"""

import argparse
import cProfile
import os
import platform
import sys
import tempfile
import traceback
from pathlib import Path

from . import (
    codec,
    disks,
    embedded,
    glance,
    guard,
    importing,
    projecting,
    projecting_embedded,
    projecting_eventsourcing,
    projecting_group,
    projecting_mixed,
    relay,
    scale,
)
from .benchmark import Bench, Benchmark, Figure, Size, report

BENCHMARKS: tuple[Benchmark, ...] = (
    *codec.BENCHMARKS,
    *disks.BENCHMARKS,
    *embedded.BENCHMARKS,
    *glance.BENCHMARKS,
    *guard.BENCHMARKS,
    *importing.BENCHMARKS,
    *projecting.BENCHMARKS,
    *projecting_mixed.BENCHMARKS,
    *projecting_group.BENCHMARKS,
    *projecting_eventsourcing.BENCHMARKS,
    *projecting_embedded.BENCHMARKS,
    *relay.BENCHMARKS,
    *scale.BENCHMARKS,
)


def main() -> int:
    named = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    parser = argparse.ArgumentParser(prog="./benchmarks.sh", description="Ratios to a bare loop.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all when none is named")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--profile", action="store_true", help="profile our side")
    options = parser.parse_args()
    if unknown := set(options.names) - set(named):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}: see --list")
    if options.list:
        for benchmark in BENCHMARKS:
            print(f"{benchmark.name}: {benchmark.measures} ({bound(benchmark)})")
        return 0
    chosen = [named[name] for name in options.names] or list(BENCHMARKS)
    size = Size.QUICK if options.quick else Size.FULL
    rows, failed = [], []
    for benchmark in chosen:
        print(f"==> {benchmark.name}", flush=True)
        try:
            measured = measure(benchmark, size, cProfile.Profile() if options.profile else None)
        except Exception:  # noqa: BLE001 # the next one is measured all the same
            traceback.print_exc()
            failed.append(benchmark.name)
            continue
        rows.append(row(benchmark, measured))
        say(rows[-1])
    print(f"\n{machine()}, {size.value} sizes\n")
    print("| benchmark | what is measured | promised | measured (lowest to highest) | seen | |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))
    if failed:
        print(f"\nnot measured, for they failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measure(benchmark: Benchmark, size: Size, profile: cProfile.Profile | None) -> Figure:
    with tempfile.TemporaryDirectory(prefix=f"benchmark-{benchmark.name}-") as folder:
        bench = Bench(size=size, folder=Path(folder), profile=profile, say=say)
        measured = benchmark.run(bench)
    if profile is not None:
        report(profile, Path(f"{benchmark.name}.prof"))
    return measured


def say(line: str) -> None:
    print("   ", line, flush=True)


def bound(benchmark: Benchmark) -> str:
    return f"{benchmark.promise.value} {benchmark.bound:g}{benchmark.unit}"


def row(benchmark: Benchmark, measured: Figure) -> str:
    value, unit = f"{measured.value:.3g}{benchmark.unit}", benchmark.unit
    spread = f"{measured.lowest:.3g}{unit} to {measured.highest:.3g}{unit}"
    verdict = "held" if benchmark.holds(measured) else "MISSED"
    return (
        f"| {benchmark.name} | {benchmark.measures} | {bound(benchmark)} "
        f"| {value} ({spread}) | {measured.seen} | {verdict} |"
    )


def machine() -> str:
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped before its end", file=sys.stderr)
        sys.exit(130)

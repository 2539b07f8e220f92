"""`python -m tests.proofs`: the longest checks, in the short form of CI or as long as one likes.

./prove.sh                              all of them, each in its short size
./prove.sh --list                       their names, promises and sizes
./prove.sh NAME... [--long | --size N]  these alone
./prove.sh NAME --seed N                again, by the seed that a run printed
"""

import argparse
import logging
import secrets
import sys
import tempfile
import time
import traceback
from pathlib import Path

import structlog

from . import (
    command_line,
    crash_loop,
    crash_points,
    fuzz,
    glance_races,
    mutations,
    nova,
    outbox_race,
    poison,
)
from .proof import Proof, Run

PROOFS: tuple[Proof, ...] = (
    outbox_race.PROOF,
    crash_points.PROOF,
    crash_loop.PROOF,
    glance_races.PROOF,
    nova.PROOF,
    poison.PROOF,
    fuzz.PROOF,
    command_line.PROOF,
    mutations.PROOF,
)


def main() -> int:
    proofs = {proof.name: proof for proof in PROOFS}
    parser = argparse.ArgumentParser(prog="./prove.sh", description="The longest checks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all when none is named")
    parser.add_argument("--list", action="store_true", help="say what there is")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--long", action="store_true", help="the long size of each")
    how_much.add_argument("--size", type=int, help="this size instead, in the proof's own unit")
    parser.add_argument("--seed", type=int, help="the seed of an earlier run")
    options = parser.parse_args()
    if unknown := set(options.names) - set(proofs):
        parser.error(f"no proof is called {', '.join(sorted(unknown))}: see --list")
    if options.list:
        for proof in PROOFS:
            print(f"{proof.name}: {proof.promise}")
            print(f"    {proof.short:,} {proof.unit} in CI, {proof.long:,} in the long form")
        return 0
    # What goes wrong is asked for here, and a proof says what it has seen.
    errors_alone = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_alone)
    chosen = [proofs[name] for name in options.names] or list(PROOFS)
    for proof in chosen:
        if options.size is not None and options.size < proof.least:
            parser.error(f"{proof.name} shows nothing below {proof.least:,} {proof.unit}")
    seed = secrets.randbits(32) if options.seed is None else options.seed
    sizes = [options.size or (proof.long if options.long else proof.short) for proof in chosen]
    failed = [
        proof.name
        for proof, size in zip(chosen, sizes, strict=True)
        if not passes(proof, size, seed)
    ]
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


def passes(proof: Proof, size: int, seed: int) -> bool:
    """Whether it held; says so with size, seed and seconds."""
    print(f"==> {proof.name}: {size:,} {proof.unit}, --seed {seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"proof-{proof.name}-") as folder:
        run = Run(
            size=size,
            seed=seed,
            folder=Path(folder),
            say=lambda line: print("   ", line, flush=True),
        )
        try:
            proof.check(run)
        except Exception:  # noqa: BLE001 # the next proof runs all the same
            traceback.print_exc()
            verdict = "FAILED"
        else:
            verdict = "held"
    print(f"==> {proof.name}: {verdict} after {time.monotonic() - started:.0f} s", flush=True)
    return verdict == "held"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped before its end", file=sys.stderr)
        sys.exit(130)

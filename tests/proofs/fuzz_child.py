"""A child of the proof `fuzz`: `python -m tests.proofs.fuzz_child ENGINE SEED INPUTS FOLDER`.

Tries so many inputs by one engine and prints one JSON object of what they came to. It ends at the
first broken promise, by its traceback or by dying; the input that was tried then stands in the box,
a file that outlives the process.
"""

import contextlib
import json
import mmap
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

with contextlib.ExitStack() as _stack:
    # Atheris is guided by the coverage of what it saw being imported.
    if "atheris" in sys.argv:
        import atheris

        _stack.enter_context(atheris.instrument_imports(include=["metaledger"]))
    from .fuzz_targets import TARGETS, Broken, Target, one_of, shared_out

from tests.contract.mutating import Material, mutated

from .fuzz_meter import MEMORY_BYTES_MAX, Meter, resident_bytes

BOX_BYTES = 8 << 20
_LENGTH_BYTES = 8
# How many inputs may pass before memory that is kept for later ones is given back and counted anew.
_TRIMMED_EVERY = 1000


class Trials:
    """Every input of an engine, tried one after another."""

    def __init__(self, box: Path) -> None:
        self.tried = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()
        with box.open("wb+") as file:
            file.truncate(BOX_BYTES)
            self._box = mmap.mmap(file.fileno(), BOX_BYTES)
        self._meter = Meter()
        self._cpu_s_max = 0.0

    def one(self, target: Target, value: bytes) -> None:
        self._box[:_LENGTH_BYTES] = len(value).to_bytes(_LENGTH_BYTES, "big")
        self._box[_LENGTH_BYTES : _LENGTH_BYTES + len(value)] = value
        self.outcomes[target.name, one_of(target, value, self._meter)] += 1
        self._cpu_s_max = max(self._cpu_s_max, self._meter.cpu_s)
        self.tried += 1
        if self.tried % _TRIMMED_EVERY == 0:
            self.reset()

    def reset(self) -> None:
        """Counts the memory of what comes from what is held now."""
        self._meter.reset()

    def report(self) -> None:
        told: dict[str, dict[str, int]] = {}
        for (target, outcome), count in sorted(self.outcomes.items()):
            told.setdefault(target, {})[outcome] = count
        print(json.dumps({"outcomes": told, "cpu_s_max": self._cpu_s_max}), flush=True)


def boxed(box: Path) -> bytes:
    """The input that was tried last."""
    held = box.read_bytes()
    return held[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(held[:_LENGTH_BYTES], "big")]


def by_mutation(trials: Trials, chance: int, inputs: int, _: Path) -> None:
    random = Random(chance)
    places = shared_out()
    before = resident_bytes()
    for target in TARGETS:
        for value in target.worst():
            # Each of them leaves holes in the address space that the next one cannot use.
            trials.reset()
            trials.one(target, value)
    while trials.tried < inputs:
        target = random.choice(places)
        trials.one(target, mutated(target.material, random))
    grown = resident_bytes() - before
    if grown > MEMORY_BYTES_MAX:
        raise Broken(f"{inputs} inputs left {grown >> 20} MB behind")


def by_hypothesis(trials: Trials, chance: int, inputs: int, _: Path) -> None:
    """Hypothesis makes every choice of the mutation, and a failing input smaller."""

    @seed(chance)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(shared_out()), st.randoms(use_true_random=False))
    def check(target: Target, random: Random) -> None:
        trials.one(target, mutated(target.material, random))

    check()


def by_atheris(trials: Trials, chance: int, inputs: int, folder: Path) -> None:
    """Mutates what reached new code. An input's first byte names its target."""

    def test(value: bytes) -> None:
        if value:
            trials.one(TARGETS[value[0] % len(TARGETS)], value[1:])
        if trials.tried == inputs:
            trials.report()
            # Fuzz() never returns.
            os._exit(0)

    def mutate(value: bytes, bytes_max: int, chance: int) -> bytes:
        random = Random(chance)
        if not value or random.random() < _BLIND_SHARE:
            return bytes(atheris.Mutate(value, bytes_max))
        words = TARGETS[value[0] % len(TARGETS)].material.words
        return (value[:1] + mutated(Material([value[1:]], words), random))[:bytes_max]

    corpus = folder / "corpus"
    corpus.mkdir()
    for index, target in enumerate(TARGETS):
        for count, example in enumerate(target.material.examples):
            (corpus / f"{index}-{count}").write_bytes(bytes([index]) + example)
    arguments = [f"-seed={chance}", "-rss_limit_mb=0", "-len_control=0", str(corpus)]
    atheris.Setup([sys.argv[0], *arguments], test, custom_mutator=mutate)
    atheris.Fuzz()


_BLIND_SHARE = 0.5


ENGINES: dict[str, Callable[[Trials, int, int, Path], None]] = {
    "mutation": by_mutation,
    "hypothesis": by_hypothesis,
    "atheris": by_atheris,
}


def main(engine: str, chance: str, inputs: str, folder: str) -> None:
    trials = Trials(Path(folder) / "box")
    ENGINES[engine](trials, int(chance), int(inputs), Path(folder))
    trials.report()


if __name__ == "__main__":
    main(*sys.argv[1:])

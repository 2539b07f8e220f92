"""How Python's interpreter is shared between our threads while a batch is in hand.

Both are about CPython with its global lock, both change the process and are put back, and both are
for a thread that works through batches: a projector, a relay, an import.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_INTERVAL_S = 0.001


@contextmanager
def uncollected() -> Iterator[None]:
    """In the block, or in the function that it decorates, nobody looks for garbage, in any thread.

    Python looks with every few hundred objects that are made, and all of a batch's live until it is
    written or sent: a fifth of the time went into finding nothing. A batch is bounded, and so is
    what waits.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def switching_often() -> Iterator[None]:
    """In the block, a thread that waits for the interpreter gets it within a millisecond.

    A thread that writes or sends needs it for moments, some hundred times a batch, and waits each
    time until the one that computes has had it for so long: with Python's 5 ms a projection into
    SQLite took a quarter longer.
    """
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(min(interval_s, _SWITCH_INTERVAL_S))
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)

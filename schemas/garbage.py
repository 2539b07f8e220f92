"""Python's search for garbage, put off while a batch is in hand.

It looks with every few hundred objects that are made, and all of a batch's live until it is written
or sent: a fifth of the time went into finding nothing. A batch is bounded, and so is what waits.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """In the block, or in the function that it decorates, nothing is looked for, in any thread."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

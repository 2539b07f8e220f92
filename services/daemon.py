"""How long-running commands end: SIGTERM and SIGINT ask, the loop looks, and ends cleanly.

The handler only sets a flag, so that no transaction is broken in its middle; a loop waits on the
flag instead of sleeping. A second signal ends the process as it would have without us.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signal() -> Iterator[Event]:
    """The flag that a signal sets, until the block ends."""
    stop = Event()
    before = {one: signal.getsignal(one) for one in _SIGNALS}

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)

    for one in _SIGNALS:
        signal.signal(one, ask)
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)

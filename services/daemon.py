"""How long-running commands end: SIGTERM and SIGINT ask, the loop looks, and ends cleanly.

The handler only has a flag set, so that no transaction is broken in its middle; a loop waits on the
flag instead of sleeping. What cannot end in time (a broker that hangs holds a send for up to 30 s)
is ended: every daemon of ours may be killed between any two steps, and loses nothing by it. A
second signal ends the process as it would have without us.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread, Timer
from types import FrameType

import structlog

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A supervisor may kill after 5 s; a second is left for what the interpreter does at its end.
_GRACE_S = 4.0

_log = structlog.get_logger()


@contextmanager
def stop_on_signal() -> Iterator[Event]:
    """The flag that a signal sets, until the block ends."""
    stop = Event()
    patience = Timer(_GRACE_S, _end)
    patience.daemon = True
    before = {one: signal.getsignal(one) for one in _SIGNALS}

    def ask(_number: int, _frame: FrameType | None) -> None:
        patience.start()
        # In a thread: the flag's lock may be held by what this signal interrupted, and its waiter.
        Thread(target=stop.set, daemon=True).start()
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)

    for one in _SIGNALS:
        signal.signal(one, ask)
    try:
        yield stop
    finally:
        patience.cancel()
        for one, handler in before.items():
            signal.signal(one, handler)


def _end() -> None:
    _log.warning("stopped in the middle", reason=f"it did not end within {_GRACE_S} s")
    os._exit(0)

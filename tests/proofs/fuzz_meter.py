"""What reading one input may take, and how that is measured."""

import ctypes
import gc
import resource
import time
from pathlib import Path
from types import TracebackType

CPU_S_MAX = 0.1
MEMORY_BYTES_MAX = 64 << 20
_PAGE_BYTES = resource.getpagesize()
_LIBC = ctypes.CDLL(None)


class Meter:
    """Measures what is done within it: `cpu_s` is the processor's time of the last one.

    What would take more than MEMORY_BYTES_MAX ends in MemoryError.
    """

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self._started = 0.0
        self.reset()

    def reset(self) -> None:
        """Gives back what was kept for later, and counts from what is held now."""
        _LIBC.malloc_trim(0)
        self._address_bytes_max = _held_pages()[0] * _PAGE_BYTES + MEMORY_BYTES_MAX

    def __enter__(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (self._address_bytes_max, resource.RLIM_INFINITY))
        # A collection looks through all that an engine remembers, which is not the reader's work.
        gc.disable()
        self._started = time.thread_time()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cpu_s = time.thread_time() - self._started
        gc.enable()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return _held_pages()[1] * _PAGE_BYTES


def _held_pages() -> tuple[int, int]:
    """Of the address space, and in memory."""
    total, resident, *_ = Path("/proc/self/statm").read_text().split()
    return int(total), int(resident)

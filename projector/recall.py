"""What the projector still knows of the batches before, so that it need not ask the database. Pure.

Beliefs, all of them: a batch is folded upon what the one before left, while that is still being
written. Whoever holds a Recall drops it when a write came out otherwise than believed; what another
process changes meanwhile (a release from quarantine, another projector) the checkpoint's
compare-and-set finds out. An aggregate in trouble, parked or with records in quarantine, is never
believed: what waits for it stands in the database alone.
"""

from collections.abc import Collection, Mapping

from metaledger.projector.intake import Known
from metaledger.projector.memory import Memory

# A state of ten properties has some 2 kB stored, and five times that as objects: 8 MB are 4,000
# images in 40 MB.
_BYTES_MAX = 8_000_000


class Recall:
    """The memories of sound aggregates, the latest of them; and what the last batch admitted."""

    def __init__(self, *, bytes_max: int = _BYTES_MAX) -> None:
        self.admitted: Mapping[str, Known] = {}
        self._bytes_max = bytes_max
        # In the order of their latest use, with the bytes that each had then.
        self._memories: dict[str, tuple[Memory, int]] = {}
        self._bytes = 0

    def of(self, names: Collection[str]) -> dict[str, Memory]:
        """What is remembered of those aggregates."""
        return {name: self._memories[name][0] for name in names if name in self._memories}

    def keep(self, memories: Mapping[str, Memory], admitted: Mapping[str, Known]) -> None:
        """A batch was handed over to be written. All of it is kept, whatever its size, until the
        next one is: it need not have been committed yet.
        """
        self.admitted = admitted
        kept = 0
        for name, memory in memories.items():
            _, size = self._memories.pop(name, (None, 0))
            self._bytes -= size
            if memory.is_changed:
                memory.is_stored, memory.is_changed = True, False
            if memory.is_sound and memory.is_stored:
                self._memories[name] = (memory, memory.stored_bytes)
                self._bytes += memory.stored_bytes
                kept += 1
        self._forget_oldest(kept)

    def _forget_oldest(self, kept: int) -> None:
        names = iter(list(self._memories)[: len(self._memories) - kept])
        while self._bytes > self._bytes_max:
            name = next(names, None)
            if name is None:
                return
            self._bytes -= self._memories.pop(name)[1]

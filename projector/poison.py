"""The limit on poison: a bad deployment must not put a whole ledger aside. Pure."""

from collections import deque

from metaledger.schemas.errors import TooMuchPoison


class PoisonLimit:
    """Watches the share of records that cannot be admitted among the latest `records_min` or more
    that had their turn.

    Fewer than that prove nothing: one bad record of two is one bad record.
    """

    def __init__(self, *, share_max: float, records_min: int) -> None:
        self._share_max = share_max
        self._records_min = records_min
        self._latest: deque[tuple[int, int]] = deque()

    def check(self, records: int, poison: int) -> None:
        """Raises TooMuchPoison where a batch, with those just before it, goes beyond the limit."""
        all_records = records + sum(counts[0] for counts in self._latest)
        all_poison = poison + sum(counts[1] for counts in self._latest)
        if poison and all_records >= self._records_min:
            share = all_poison / all_records
            if share > self._share_max:
                raise TooMuchPoison(
                    f"{all_poison} of the latest {all_records} records cannot be admitted: check "
                    "deployment_id, schema registry and version of this projector; if the records "
                    "are really bad, raise poison_share_max"
                )

    def note(self, records: int, poison: int) -> None:
        """The batch was committed."""
        if not records:
            return
        self._latest.append((records, poison))
        total = sum(counts[0] for counts in self._latest)
        while total - self._latest[0][0] >= self._records_min:
            total -= self._latest.popleft()[0]

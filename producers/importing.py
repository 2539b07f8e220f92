"""Cold start: what a service's database holds becomes IMPORTED events, through its own outbox.

An aggregate whose counter is not new is known: this import, another one, or a hook that met it was
there first, and its events tell all since. So an import needs no cursor: broken off at any point
and begun again it goes on, and done twice it adds nothing. What is in flight is tried again at the
end (`live` says how it keeps out of the service's way).

In memory are a page of keys, the aggregates of the transactions that are under way, and the names
of what is in flight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine

from metaledger.producers import counters
from metaledger.producers.counters import Counter
from metaledger.producers.database import answering, reading
from metaledger.producers.live import LiveWriter
from metaledger.producers.source import Kind, count_all, pages
from metaledger.schemas.events import Draft
from metaledger.schemas.identity import Clock, system_clock
from metaledger.schemas.meta import Context, Origin

# Forty transactions, several at once; then it says how far it is, each second or so. At the end of
# a page those that are done wait for the last one: a fifth of the time, of a page of ten.
_KEYS_MAX = 8_000
# Beyond that many they are counted, and left to the next run.
_ASIDE_MAX = 10_000
_TRIES_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the import of one kind is, of so many aggregates as there were when it began.

    `known`: the ledger was told of them before. `in_flight`: others hold them, and `untold`: no
    event can tell them; both lack in the ledger.
    """

    kind: str
    total: int
    imported: int = 0
    events: int = 0
    known: int = 0
    in_flight: int = 0
    untold: int = 0

    @property
    def done(self) -> int:
        """How many it has come to."""
        return self.imported + self.known + self.in_flight + self.untold

    @property
    def lacking(self) -> int:
        """How many the ledger still lacks."""
        return self.in_flight + self.untold


OnProgress = Callable[[Progress], None]


class Importer:
    """Imports from one database; used by one thread."""

    def __init__(
        self,
        engine: Engine,
        writer: LiveWriter,
        *,
        context: Context,
        on_progress: OnProgress = lambda _progress: None,
        clock: Clock = system_clock,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._context = context
        self._on_progress = on_progress
        self._clock = clock

    def run(self, kind: Kind[Any]) -> Progress:
        """Imports all of a kind that the ledger was not told of; returns what became of them.

        Raises OutboxFull where no relay makes room, Unreachable, UsageError.
        """
        so_far = Progress(kind=kind.name, total=count_all(self._engine, kind))
        aside: list[str] = []
        look = True
        for keys in pages(self._engine, kind, keys_max=_KEYS_MAX):
            known, names = so_far.known, [kind.aggregate(key) for key in keys]
            so_far, held = self._bring(kind, names, so_far, look=look)
            look = so_far.known > known
            aside += held[: _ASIDE_MAX - len(aside)]
        for _ in range(_TRIES_MAX):
            if not aside:
                break
            self._writer.pause()
            so_far = replace(so_far, in_flight=so_far.in_flight - len(aside))
            so_far, held = self._bring(kind, aside, so_far)
            aside = list(held)
        return so_far

    def _bring(
        self, kind: Kind[Any], names: Sequence[str], so_far: Progress, *, look: bool = True
    ) -> tuple[Progress, Sequence[str]]:
        """Imports those that are new; how far it is then, and which are in flight.

        Their counters say so once they are locked. A look before that spares the lock to those that
        are known, and is itself spared where hardly any is.
        """
        new = self._unknown(names) if look else names
        outcome = self._writer.tell(
            new, lambda connection, locked: self._drafts(connection, kind, locked)
        )
        lacking = len(outcome.in_flight) + len(outcome.untold)
        so_far = replace(
            so_far,
            imported=so_far.imported + outcome.told,
            events=so_far.events + outcome.events,
            # What was told by another or purged since its key was read lacks nothing either.
            known=so_far.known + len(names) - outcome.told - lacking,
            in_flight=so_far.in_flight + len(outcome.in_flight),
            untold=so_far.untold + len(outcome.untold),
        )
        self._on_progress(so_far)
        return so_far, outcome.in_flight

    def _unknown(self, names: Sequence[str]) -> list[str]:
        with answering(self._engine), reading(self._engine) as connection:
            found = counters.read(connection, names)
        return [name for name in names if name not in found or found[name].is_new]

    def _drafts(
        self, connection: Connection, kind: Kind[Any], locked: Mapping[str, Counter]
    ) -> list[Draft]:
        new = [name for name, counter in locked.items() if counter.is_new]
        states = kind.read(connection, [kind.key_of(name) for name in new])
        now = self._clock()
        return [
            Draft(data=data, aggregate=name, context=self._context, origin=Origin.IMPORTED)
            for name, state in states.items()
            for data in kind.imported(state, now)
        ]

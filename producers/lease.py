"""The lease of an outbox's relay: one row, in the database that the outbox is in.

It keeps two relays from doing the same work; order and completeness do not hang on it (`sending`),
so the machines' clocks may differ. It is renewed in the transaction that deletes what was sent:
a relay that lost it finds out there, and that transaction changes nothing.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, or_, update

from metaledger.producers.tables import relay
from metaledger.schemas.errors import MetaledgerError
from metaledger.schemas.identity import Clock


class LeaseLost(MetaledgerError):
    """Another relay has taken over this outbox."""

    retriable = True


class Lease:
    """This relay's claim. `owner` names it in the row, and no two relays have the same."""

    def __init__(self, owner: str, *, lease_s: float, clock: Clock) -> None:
        self.owner = owner
        self._length = timedelta(seconds=lease_s)
        self._clock = clock

    def take(self, connection: Connection) -> bool:
        """Takes the lease if it is free, over or ours; False where another relay holds it."""
        now = self._clock()
        free = or_(
            relay.c.lease_owner.is_(None),
            relay.c.lease_owner == self.owner,
            relay.c.lease_expires_at <= now,
        )
        taken = {"lease_owner": self.owner, "lease_expires_at": now + self._length}
        return connection.execute(update(relay).where(free).values(taken)).rowcount == 1

    def renew(self, connection: Connection, values: Mapping[str, Any] | None = None) -> None:
        """Renews it, as the transaction's first statement, and sets other columns of the row.

        Raises LeaseLost, and then the transaction must not commit.
        """
        renewed = {"lease_expires_at": self._clock() + self._length, **(values or {})}
        ours = relay.c.lease_owner == self.owner
        if connection.execute(update(relay).where(ours).values(renewed)).rowcount != 1:
            raise LeaseLost("another relay has taken over this outbox")

    def give_up(self, connection: Connection) -> None:
        """Lets the next relay begin at once."""
        ours = relay.c.lease_owner == self.owner
        free = {"lease_owner": None, "lease_expires_at": None}
        connection.execute(update(relay).where(ours).values(free))

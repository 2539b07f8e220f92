"""Glance, as the watching of its engines knows it: its tables, and what happened to its images.

`watching` reads and records, `tables` says how, `rows` (pure) what happened, `intents` how it was
meant. Nothing here imports Glance.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection

from metaledger.producers.glance import intents, rows
from metaledger.producers.glance.rows import ImageState, Intent
from metaledger.producers.glance.tables import (
    IMAGES,
    LOCATIONS,
    PROPERTIES,
    TAGS,
    read_images,
)
from metaledger.producers.watching.gathered import Transactions
from metaledger.producers.watching.service import Change, Reading, Service, Watched
from metaledger.schemas.image import ImageEvent

TABLES = {
    IMAGES.name: Watched(kind="image", key="id", registers=True),
    **dict.fromkeys(
        (PROPERTIES.name, TAGS.name, LOCATIONS.name), Watched(kind="image", key="image_id")
    ),
}
_TRANSACTIONS = Transactions()


def _read(connection: Connection, aggregates: Collection[str]) -> Reading[ImageState]:
    return read_images(connection, [it.removeprefix("image:") for it in aggregates])


def _happened(_connection: Connection, change: Change[ImageState]) -> Sequence[ImageEvent]:
    return rows.events(
        rows.Transition(
            before=change.before,
            after=change.after,
            intent=change.note if isinstance(change.note, Intent) else None,
            dropped=PROPERTIES.name in change.dropped,
            occurred_at=change.occurred_at,
        )
    )


def _imported(
    _connection: Connection, state: ImageState, _occurred_at: datetime
) -> Sequence[ImageEvent]:
    return rows.first_met(state)


def _reconciled(
    _connection: Connection, state: ImageState, occurred_at: datetime
) -> Sequence[ImageEvent]:
    return [rows.reconciled(state, occurred_at=occurred_at)]


def _note(connection: Connection, image_id: str, intent: Intent) -> None:
    _TRANSACTIONS.note(connection, f"image:{image_id}", intent)


def _install() -> None:
    intents.install(_note)


GLANCE: Service[ImageState] = Service(
    name="glance",
    tables=TABLES,
    read=_read,
    happened=_happened,
    imported=_imported,
    reconciled=_reconciled,
    request=intents.request_context,
    install=_install,
    transactions=_TRANSACTIONS,
)

"""The read model of a service under test: its outbox copied into an embedded log and projected.

The outbox stays as it is, for tests that look into it; `tests/whole_way` empties one by the relay.
"""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

from metaledger.projector import readmodel
from metaledger.projector.database import connect
from metaledger.projector.project import Settings, bring_up_to_end
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import StreamNumber
from metaledger.schemas.log import NewRecord, Position
from metaledger.schemas.log.embedded import create_embedded_log

WAITING = text(
    "SELECT aggregate, stream_id, epoch, stream_seq, event_id, occurred_at, value, sha256"
    " FROM metaledger_outbox"
)
LIVE = text(
    "SELECT key, value FROM image_attribute_history WHERE image_id = :id AND valid_to IS NULL"
)
LOST = text(
    "SELECT details FROM anomalies WHERE aggregate_id = :id AND kind = 'properties_lost_to_purge'"
)


class ReadModel:
    """What the ledger's SQL says of what one service did, in one database or several."""

    def __init__(self, folder: Path, *database_urls: str) -> None:
        self._outboxes = [create_engine(url, poolclass=NullPool) for url in database_urls]
        self._log = create_embedded_log(folder / "ledger.db")
        self._engine = connect(f"sqlite:///{folder}/read.db")
        readmodel.migrate(self._engine)
        self._store = Store(self._engine)
        self._copied: set[str] = set()

    def close(self) -> None:
        self._log.close()
        self._engine.dispose()

    def catch_up(self) -> None:
        """Projects whatever has come into the outbox."""
        rows: list[Any] = []
        for outbox in self._outboxes:
            with outbox.connect() as connection:
                rows += connection.execute(WAITING).all()
        rows.sort(key=lambda row: (row.aggregate, row.occurred_at, row.stream_seq))
        new = [
            NewRecord(
                key=row.aggregate,
                value=bytes(row.value),
                sha256=bytes(row.sha256),
                event_id=row.event_id,
                number=StreamNumber(
                    stream_id=row.stream_id, epoch=row.epoch, stream_seq=row.stream_seq
                ),
            )
            for row in rows
            if row.event_id not in self._copied
        ]
        outcomes = self._log.writer().append(new)
        assert all(isinstance(outcome, Position) for outcome in outcomes)
        self._copied.update(record.event_id for record in new)
        bring_up_to_end(self._log, self._store, Codec(), settings=Settings())

    def image(self, image_id: str) -> dict[str, Any]:
        """The row of `images`."""
        return self.rows(text("SELECT * FROM images WHERE image_id = :id"), id=image_id)[0]

    def properties(self, image_id: str) -> dict[str, str | None]:
        """The live properties."""
        query = text("SELECT key, value FROM image_properties WHERE image_id = :id")
        return {row["key"]: row["value"] for row in self.rows(query, id=image_id)}

    def attributes(self, image_id: str) -> dict[str, str | None]:
        """The live attributes, as text."""
        return {row["key"]: row["value"] for row in self.rows(LIVE, id=image_id)}

    def lost(self, image_id: str) -> dict[str, str | None]:
        """The properties, with their values, that anomalies call lost to a purge."""
        found: dict[str, str | None] = {}
        for row in self.rows(LOST, id=image_id):
            found.update(json.loads(row["details"])["properties"])
        return found

    def anomalies(self, image_id: str) -> list[str]:
        """The kinds of all its anomalies."""
        query = text("SELECT kind FROM anomalies WHERE aggregate_id = :id ORDER BY kind")
        return [row["kind"] for row in self.rows(query, id=image_id)]

    def rows(self, query: Any, **parameters: Any) -> list[dict[str, Any]]:
        """What any query finds."""
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query, parameters).mappings()]

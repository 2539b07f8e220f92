"""Checked events between the look at a file and its append: in memory first, then in a temporary
file, so that a file of any size is parsed once and never held as a whole.
"""

import tempfile
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import Self

import msgspec

from metaledger.schemas.events import Draft, StreamNumber, Written
from metaledger.schemas.meta import Context, Origin

# Beyond that they go to the disk: some ten thousand events.
_MEMORY_BYTES_MAX = 16_000_000
_LENGTH_BYTES = 4


class _Row(msgspec.Struct, array_like=True):
    """A draft of written data, and the line that it stands in."""

    line: int
    type: str
    told: str | None
    value: bytes
    aggregate: str
    context: Context
    origin: Origin
    missed: int
    event_id: str | None
    occurred_at: datetime | None
    number: StreamNumber | None


class Held:
    """Drafts in the order in which they were put; a context manager, gone at its end."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES_MAX)  # noqa: SIM115 (closed below)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, line: int, draft: Draft, data: Written) -> None:
        """Keeps the draft, with `data` for its data."""
        row = _ENCODER.encode(
            _Row(
                line=line,
                type=data.type,
                told=data.aggregate,
                value=data.value,
                aggregate=draft.aggregate,
                context=draft.context,
                origin=draft.origin,
                missed=draft.missed,
                event_id=draft.event_id,
                occurred_at=draft.occurred_at,
                number=draft.number,
            )
        )
        self._file.write(len(row).to_bytes(_LENGTH_BYTES))
        self._file.write(row)

    def __iter__(self) -> Iterator[tuple[int, Draft]]:
        self._file.seek(0)
        while head := self._file.read(_LENGTH_BYTES):
            row = _DECODER.decode(self._file.read(int.from_bytes(head)))
            yield (
                row.line,
                Draft(
                    data=Written(row.type, row.told, row.value),
                    aggregate=row.aggregate,
                    context=row.context,
                    origin=row.origin,
                    missed=row.missed,
                    event_id=row.event_id,
                    occurred_at=row.occurred_at,
                    number=row.number,
                ),
            )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Row)

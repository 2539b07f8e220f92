"""The aggregate of a source's reports, `stream:<stream_id>/<partition>`. Pure."""

import re

from msgspec import Struct

from metaledger.projector.folds.step import Fact, Projection, Put, Step
from metaledger.schemas.errors import Unfoldable
from metaledger.schemas.ledger import SourceProgressed

# One spelling a number: two aggregates would be one row.
_PARTITION = re.compile("0|[1-9][0-9]{0,8}")


class StreamState(Struct, frozen=True, array_like=True):
    """Nothing is needed but that it has reported before."""


def fold(state: StreamState | None, fact: Fact) -> Step[StreamState]:
    """The latest report of a stream for a partition is its row."""
    data = fact.event.data
    _, _, name = fact.event.meta.aggregate.partition(":")
    stream_id, _, partition = name.rpartition("/")
    if not stream_id or _PARTITION.fullmatch(partition) is None:
        raise Unfoldable("the aggregate of a SourceProgressed is stream:<stream_id>/<partition>")
    if not isinstance(data, SourceProgressed):
        raise Unfoldable(f"a stream has no {fact.event.type}")
    row = {
        "stream_id": stream_id,
        "log_partition": int(partition),
        "oldest_unsent_at": data.oldest_unsent_at,
        "rows_waiting": data.rows_waiting,
        "rows_max": data.rows_max,
        "unrecorded_aggregates": data.unrecorded_aggregates,
        "last_error": data.last_error,
        "reported_at": fact.at,
        "reported_by_event": fact.event.meta.event_id,
    }
    return Step(StreamState(), (Put("streams", row, is_new=state is None),))


STREAM_PROJECTION = Projection(aggregate_kind="stream", state_type=StreamState, fold=fold)

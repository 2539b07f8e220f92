"""Reads the log as a person does: from its beginning, to its end of now or on and on.

No checkpoint and no group: nothing is changed by looking.
"""

from collections.abc import Callable, Iterator

from metaledger.schemas.errors import Unreachable
from metaledger.schemas.log import Log, LogRecord

_CHUNK_RECORDS = 2_000
_POLL_S = 0.5
# The end was there when it was asked for: so long a silence before it is a broker that hangs.
_SILENT_POLLS_MAX = 20


def log_records(log: Log, stop: Callable[[], bool], *, follow: bool) -> Iterator[LogRecord]:
    """The log's records, in order within each partition, until `stop`. Raises Unreachable."""
    bounds = log.bounds()
    ends = {one: end for one, (first, end) in bounds.items() if first < end}
    reader = log.reader(lambda asked: {one: bounds[one][0] for one in asked})
    silent_polls = 0
    try:
        while (ends or follow) and not stop():
            records = reader.poll(records_max=_CHUNK_RECORDS, timeout_s=_POLL_S)
            silent_polls = 0 if records else silent_polls + 1
            if ends and silent_polls > _SILENT_POLLS_MAX:
                raise Unreachable("the log has gone silent before its end")
            for record in records:
                at = record.position
                if follow or at.offset < bounds[at.partition][1]:
                    yield record
                if at.offset + 1 >= ends.get(at.partition, at.offset + 2):
                    del ends[at.partition]
    finally:
        reader.close()

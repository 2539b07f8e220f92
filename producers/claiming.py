"""What has no counter yet is locked and numbered by one statement: of an import that is nearly all.

A counter is locked before its aggregate's rows are read, and gives out numbers after it. The number
that a new one gives first is known, so it is made with that, and no second statement has to write
it again: that one took a database a third of the time of an import. Whatever is not told after all
gives its number back in the same transaction, so there is no hole. On PostgreSQL alone.
"""

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, bindparam, text, update

from metaledger.producers.tables import FORMAT_VERSION, counters, stream
from metaledger.producers.unnested import ArrayText
from metaledger.schemas.events import StreamNumber


def claim(connection: Connection, aggregates: Collection[str]) -> Mapping[str, StreamNumber]:
    """Makes the counters that are not there, in sorted order, with their first number given out;
    gives those numbers. Where there is no stream there are none: `counters.take` says so.
    """
    if connection.dialect.name != "postgresql" or not aggregates:
        return {}
    made = connection.execute(_CLAIM, {"aggregates": sorted(aggregates)}).all()
    if not made:
        return {}
    _, epoch, stream_id = made[0]
    first = StreamNumber(stream_id=stream_id, epoch=epoch, stream_seq=1)
    return {aggregate: first for aggregate, *_ in made}


def give_back(connection: Connection, aggregates: Collection[str]) -> None:
    """Takes back the first numbers of these, which `claim` gave out in this transaction."""
    if aggregates:
        which = counters.c.aggregate.in_(sorted(aggregates))
        # As of a counter that was locked and gave out none.
        connection.execute(update(counters).where(which).values(epoch=0, seq=0))


_CLAIM = text(
    f"""
    INSERT INTO {counters.name} (aggregate, epoch, seq)
    SELECT given.aggregate, stream.epoch, 1
      FROM unnest(CAST(:aggregates AS VARCHAR[])) AS given (aggregate), {stream.name} AS stream
     WHERE stream.id = 1 AND stream.format_version = {FORMAT_VERSION}
    ON CONFLICT DO NOTHING
    RETURNING aggregate, epoch, (SELECT stream_id FROM {stream.name} WHERE id = 1)
    """
).bindparams(bindparam("aggregates", type_=ArrayText()))

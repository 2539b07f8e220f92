"""Many rows as one array a column, for PostgreSQL: it takes half of what a list of VALUES takes.

There SQLAlchemy names each value of each row anew, and the server parses and plans each of them.
The rows keep their order, so locks are taken in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, TableValuedAlias, bindparam, cast, column, func
from sqlalchemy.dialects.postgresql import ARRAY


def unnested(*columns: Column[Any]) -> TableValuedAlias:
    """A table with these columns; a statement on it takes `arrays`."""
    # The cast says a type where a driver sends none.
    arrays = (cast(bindparam(it.name, type_=ARRAY(it.type)), ARRAY(it.type)) for it in columns)
    given = func.unnest(*arrays).table_valued(*(column(it.name, it.type) for it in columns))
    return given.render_derived(name="given")


def arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of one or more rows by column."""
    return {name: [row[name] for row in rows] for name in rows[0]}

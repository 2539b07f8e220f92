"""What a database has to be able to do in bulk; one file a database (`bulk_postgres`, …)."""

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Table

from metaledger.projector.rows import Values

# The rows as the database's driver takes them.
Form = Any


class Bulk(Protocol):
    """Writes many rows with few statements, each of which leaves the interpreter to other threads:
    the next batch is folded meanwhile. Values stand in the order of the table's columns.
    """

    def among(
        self, column: ColumnElement[Any], values: Sequence[str] | Sequence[int]
    ) -> ColumnElement[bool]:
        """The condition that a column has one of the values: one parameter, however many."""
        ...

    def form(self, table: Table, rows: Sequence[Values]) -> Form:
        """What `copy` and `merge` take: all of the work that needs no database."""
        ...

    def copy(self, connection: Connection, table: Table, form: Form) -> None:
        """Adds rows whose keys the table does not have; fails where it has one."""
        ...

    def merge(self, connection: Connection, table: Table, form: Form) -> None:
        """Adds the rows, or puts them in place of those that have their keys."""
        ...

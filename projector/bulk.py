"""What a database has to be able to do in bulk; one file a database (`bulk_postgres`, …)."""

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Table

from metaledger.projector.rows import Values


class Bulk(Protocol):
    """Writes many rows with few statements. Values stand in the order of the table's columns."""

    def among(
        self, column: ColumnElement[Any], values: Sequence[str] | Sequence[int]
    ) -> ColumnElement[bool]:
        """The condition that a column has one of the values: one parameter, however many."""
        ...

    def copy(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """Adds rows whose keys the table does not have; fails where it has one."""
        ...

    def merge(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """Adds the rows, or puts them in place of those that have their keys."""
        ...

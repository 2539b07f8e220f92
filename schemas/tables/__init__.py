"""The read model at rest: every table and view that people query, and those that serve them.

READ_MODEL.md is normative for the names. An aggregate is added by its own module, which imports
`METADATA`, `UtcTime`, `JsonValue` and `View` from `tables.base` and ends in two explicit tuples,
`TABLES` and `VIEWS`; and by its line in the tuples below. Every table and column has a comment.
`TABLES` are those of a generation, `DERIVED` those of them that no fold writes; `SHARED_TABLES` are
kept once for all generations, and `PRIVATE` names those that have no public name.
"""

from sqlalchemy import Table

from metaledger.schemas.tables import disk, hypervisor, image, instance, ledger, lineage, placement
from metaledger.schemas.tables.base import METADATA, SHARED, JsonValue, UtcTime, View

SHARED_TABLES: tuple[Table, ...] = ledger.SHARED_TABLES
TABLES: tuple[Table, ...] = (
    *ledger.TABLES,
    *image.TABLES,
    *instance.TABLES,
    *disk.TABLES,
    *hypervisor.TABLES,
    *lineage.TABLES,
)
VIEWS: tuple[View, ...] = (
    *ledger.VIEWS,
    *image.VIEWS,
    *instance.VIEWS,
    *hypervisor.VIEWS,
    *lineage.VIEWS,
    *placement.VIEWS,
)
DERIVED: tuple[Table, ...] = (ledger.marks, *lineage.DERIVED)
PRIVATE: frozenset[str] = frozenset(
    {"aggregate_states", "marks", "snapshots_taken", "snapshot_uploads", "derived_lineage"}
)

__all__ = [
    "DERIVED",
    "METADATA",
    "PRIVATE",
    "SHARED",
    "SHARED_TABLES",
    "TABLES",
    "VIEWS",
    "JsonValue",
    "UtcTime",
    "View",
]

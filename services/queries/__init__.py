"""The SQL that reads the read model, all of it: named, with parameters, by its public names.

Rows are mappings; times are aware and JSON is data on both backends. As of a time means
`valid_from <= t AND (valid_to IS NULL OR t < valid_to)`, on every history (READ_MODEL.md). An
aggregate has a file of its own; `ledger` has what all share, `form` what questions are made of.
"""

from metaledger.services.queries import (
    guard,
    hypervisor,
    image,
    instance,
    ledger,
    lineage,
    standing,
)
from metaledger.services.queries.form import END_OF_TIME, Row

__all__ = [
    "END_OF_TIME",
    "Row",
    "guard",
    "hypervisor",
    "image",
    "instance",
    "ledger",
    "lineage",
    "standing",
]

"""Everything that is folded: the aggregates of services, and the ledger's own."""

from typing import Any

from metaledger.projector import folds
from metaledger.projector.folds import Projection
from metaledger.projector.streams import STREAM_PROJECTION

PROJECTIONS: tuple[Projection[Any], ...] = (*folds.PROJECTIONS, STREAM_PROJECTION)

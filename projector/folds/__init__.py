"""Pure folds: a state and an event in, the next state and its changes out. No I/O, no clock.

`step` is the form that all share, one module an aggregate its meaning. An aggregate is added by its
module and its name in `PROJECTIONS`.
"""

from typing import Any

from metaledger.projector.folds.hypervisor import HYPERVISOR_PROJECTION
from metaledger.projector.folds.image import IMAGE_PROJECTION
from metaledger.projector.folds.instance import INSTANCE_PROJECTION
from metaledger.projector.folds.step import Fact, Projection, Put, Step

PROJECTIONS: tuple[Projection[Any], ...] = (
    IMAGE_PROJECTION,
    INSTANCE_PROJECTION,
    HYPERVISOR_PROJECTION,
)

__all__ = ["PROJECTIONS", "Fact", "Projection", "Put", "Step"]

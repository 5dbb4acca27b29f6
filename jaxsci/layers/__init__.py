"""Equinox modules with a solve inside."""

from ._discretization import (
    AbstractDiscretization as AbstractDiscretization,
    Collocation as Collocation,
    Scheme as Scheme,
)
from ._experts import (
    AbstractPartition as AbstractPartition,
    Boxes as Boxes,
    MixtureOfExperts as MixtureOfExperts,
    Windows as Windows,
    interface_jump as interface_jump,
)
from ._fixed_point import FixedPointLayer as FixedPointLayer
from ._hard_constraint import (
    Constrained as Constrained,
    HardConstraint as HardConstraint,
    hold as hold,
    poison as poison,
)
from ._implicit import ArgminLayer as ArgminLayer, ImplicitLayer as ImplicitLayer
from ._qp import QPLayer as QPLayer
from ._rows import MeanSquare as MeanSquare, SpaceTimeInverse as SpaceTimeInverse

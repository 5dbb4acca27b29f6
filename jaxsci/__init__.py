"""jaxsci: physics as a residual, any solver, one implicit-function-theorem rule."""

from . import (
    layers as layers,
    linear as linear,
    nn as nn,
    pde as pde,
    residuals as residuals,
    solvers as solvers,
    train as train,
)
from ._adjoint import (
    AbstractAdjoint as AbstractAdjoint,
    ImplicitAdjoint as ImplicitAdjoint,
    attach as attach,
)
from ._residual import AbstractResidual as AbstractResidual
from ._solution import RESULTS as RESULTS, Solution as Solution, Stats as Stats
from ._solve import solve as solve
from .residuals import (
    KKT as KKT,
    FixedPoint as FixedPoint,
    LeastSquares as LeastSquares,
    Root as Root,
    Stationary as Stationary,
)

__version__ = "0.1.0"

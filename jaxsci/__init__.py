"""jaxsci: physics as a residual, any solver, one implicit-function-theorem rule."""

from . import (
    convex as convex,
    interop as interop,
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
from ._diagnosis import (
    AdjointInfo as AdjointInfo,
    Conditioning as Conditioning,
    adjoint_info as adjoint_info,
    check as check,
)
from ._estimators import (
    EquilibriumPropagation as EquilibriumPropagation,
    NeumannAdjoint as NeumannAdjoint,
    OneStepAdjoint as OneStepAdjoint,
    UnrolledAdjoint as UnrolledAdjoint,
)
from ._estimators_contour import (
    equilibrium_propagation as equilibrium_propagation,
    jacobian_asymmetry as jacobian_asymmetry,
    symmetric_share as symmetric_share,
)
from ._residual import AbstractResidual as AbstractResidual
from ._solution import RESULTS as RESULTS, Solution as Solution, Stats as Stats
from ._solve import solve as solve
from .interop import custom_fixed_point as custom_fixed_point, custom_root as custom_root
from .residuals import (
    KKT as KKT,
    BlockProximal as BlockProximal,
    Complementarity as Complementarity,
    ConicProgram as ConicProgram,
    FixedPoint as FixedPoint,
    ImplicitStep as ImplicitStep,
    LeastSquares as LeastSquares,
    MinNorm as MinNorm,
    MirrorDescent as MirrorDescent,
    NewtonFixedPoint as NewtonFixedPoint,
    PreActivation as PreActivation,
    ProjectedGradient as ProjectedGradient,
    ProximalGradient as ProximalGradient,
    Root as Root,
    Stationary as Stationary,
    TimeStep as TimeStep,
)

__version__ = "0.1.0"

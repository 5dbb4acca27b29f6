"""Every way to write a problem as F(y, θ) = 0."""

from ._cones import (
    AbstractCone as AbstractCone,
    NonnegativeCone as NonnegativeCone,
    SecondOrderCone as SecondOrderCone,
    SemidefiniteCone as SemidefiniteCone,
    ZeroCone as ZeroCone,
)
from ._conic import ConicProgram as ConicProgram
from ._eliminated import MinNorm as MinNorm, NewtonFixedPoint as NewtonFixedPoint
from ._implicit_step import (
    BDF2 as BDF2,
    AbstractScheme as AbstractScheme,
    ImplicitStep as ImplicitStep,
    OneStage as OneStage,
    Theta as Theta,
    TimeStep as TimeStep,
)
from ._kkt import KKT as KKT
from ._least_squares import LeastSquares as LeastSquares
from ._mixed import Complementarity as Complementarity
from ._optimum import Stationary as Stationary
from ._pre_activation import PreActivation as PreActivation
from ._quadratic_program import QuadraticProgram as QuadraticProgram
from ._root import FixedPoint as FixedPoint, Root as Root
from ._splitting import (
    AbstractSplitting as AbstractSplitting,
    BlockProximal as BlockProximal,
    MirrorDescent as MirrorDescent,
    ProjectedGradient as ProjectedGradient,
    ProximalGradient as ProximalGradient,
)
from ._structured import Block as Block, StructuredLeastSquares as StructuredLeastSquares

"""Linear solvers that are free of scale, checked, and run inside `jax.shard_map`."""

from ._auto import StructureReport as StructureReport, auto as auto
from ._choice import default_solver as default_solver
from ._dense import LU as LU, Cholesky as Cholesky, PseudoInverse as PseudoInverse
from ._gmres import FGMRES as FGMRES, GMRES as GMRES
from ._incomplete import IncompleteLU as IncompleteLU
from ._krylov import CG as CG, BiCGStab as BiCGStab
from ._learned import (
    AbstractLearner as AbstractLearner,
    ChebCB as ChebCB,
    Choice as Choice,
    ContextualTsallisINF as ContextualTsallisINF,
    TsallisINF as TsallisINF,
)
from ._lsmr import LSMR as LSMR, LeastSquaresSolution as LeastSquaresSolution, lsmr as lsmr
from ._minres import MINRES as MINRES
from ._multigrid import AdditiveSchwarz as AdditiveSchwarz, Multigrid as Multigrid
from ._neumann import Neumann as Neumann
from ._operator import Operator as Operator
from ._orders import (
    AbstractOrder as AbstractOrder,
    BandedOrder as BandedOrder,
    NaturalOrder as NaturalOrder,
    RedBlack as RedBlack,
    Wavefront as Wavefront,
)
from ._pattern import Pattern as Pattern, detect_pattern as detect_pattern
from ._preconditioner import (
    AbstractPreconditioner as AbstractPreconditioner,
    BlockJacobi as BlockJacobi,
    Chebyshev as Chebyshev,
    Jacobi as Jacobi,
    eigenvalue_bounds as eigenvalue_bounds,
)
from ._recycling import DeflatedCG as DeflatedCG
from ._relaxation import (
    SOR as SOR,
    SSOR as SSOR,
    SSORCG as SSORCG,
    optimal_omega as optimal_omega,
    sor_spectral_radius as sor_spectral_radius,
)
from ._reuse import Reuse as Reuse
from ._sketched import (
    Kaczmarz as Kaczmarz,
    Nystrom as Nystrom,
    SketchAndProject as SketchAndProject,
    sketched_least_squares as sketched_least_squares,
)
from ._solver import AbstractLinearSolver as AbstractLinearSolver
from ._sparse import Sparse as Sparse

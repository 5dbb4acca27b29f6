"""Linear solvers that are free of scale, checked, and run inside `jax.shard_map`."""

from ._auto import StructureReport as StructureReport, auto as auto
from ._banded import Banded as Banded
from ._block import BlockDiagonal as BlockDiagonal, BlockTridiagonal as BlockTridiagonal
from ._bordered import Bordered as Bordered
from ._choice import default_solver as default_solver
from ._dense import LU as LU, Cholesky as Cholesky, PseudoInverse as PseudoInverse
from ._gmres import FGMRES as FGMRES, GMRES as GMRES
from ._incomplete import IncompleteLU as IncompleteLU
from ._klu import KLU as KLU
from ._kronecker import Kronecker as Kronecker
from ._krylov import CG as CG, BiCGStab as BiCGStab
from ._learned import (
    AbstractLearner as AbstractLearner,
    ChebCB as ChebCB,
    Choice as Choice,
    ContextualTsallisINF as ContextualTsallisINF,
    TsallisINF as TsallisINF,
)
from ._lineax import as_lineax as as_lineax
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
from ._recycled_gmres import RecycledGMRES as RecycledGMRES
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
from ._spectral import (
    AbstractTransform as AbstractTransform,
    Cosine as Cosine,
    Fourier as Fourier,
    Sine as Sine,
    Spectral as Spectral,
    laplacian_symbol as laplacian_symbol,
)
from ._verify import verify as verify

"""Linear solvers that are free of scale, checked, and run inside `jax.shard_map`."""

from ._choice import default_solver as default_solver
from ._dense import LU as LU, Cholesky as Cholesky, PseudoInverse as PseudoInverse
from ._krylov import CG as CG, GMRES as GMRES, BiCGStab as BiCGStab
from ._neumann import Neumann as Neumann
from ._operator import Operator as Operator
from ._reuse import Reuse as Reuse
from ._solver import AbstractLinearSolver as AbstractLinearSolver

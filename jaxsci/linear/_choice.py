"""Which solver, when the user names none."""

from ._dense import LU, Cholesky
from ._gmres import GMRES
from ._krylov import CG
from ._operator import Operator
from ._solver import AbstractLinearSolver

DENSE_LIMIT = 1024


def default_solver(operator: Operator, *, refinements: int = 1) -> AbstractLinearSolver:
    """Direct up to n = 1024 (or when the array is at hand), matrix-free above.

    Cholesky and CG only where the operator was *promised* positive definite; LU and GMRES otherwise.
    `refinements` is of the direct ones. A symmetric operator without that promise is treated as general.
    """
    direct = operator.size <= DENSE_LIMIT or operator.dense is not None
    if direct:
        return (Cholesky if operator.positive else LU)(refinements=refinements)
    return CG() if operator.positive else GMRES()

"""Direct solvers on the n×n array."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array

from .. import _tree
from ._operator import Operator
from ._solver import AbstractLinearSolver

_PRECISE = jax.lax.Precision.HIGHEST


def _refined(matrix: Array, b: Array, back: Callable) -> Array:
    """x = A⁻¹b by the factors, then one step of iterative refinement: x ← x + A⁻¹(b − A x)."""
    x = back(b)
    return x + back(b - jnp.matmul(matrix, x, precision=_PRECISE))


def _product(operator: Operator, matrix: Array, transpose: bool) -> Callable:
    """Of the array, if it was made of products with unit vectors; if somebody has given it, it is no
    witness for itself: of the operator."""
    if operator.dense is not None:
        return (operator.transpose() if transpose else operator).mv
    a = matrix.T if transpose else matrix
    return lambda x: _tree.unravel(jnp.matmul(a, _tree.ravel(x), precision=_PRECISE), x)


class LU(AbstractLinearSolver):
    """A = P L U with partial pivoting, one step of iterative refinement. O(n³) once, O(n²) a solve.

    **Arguments:**

    - `check`: largest accepted relative residual ‖b − A x‖/‖b‖ (dimensionless); above it the
      solution is NaN. None: the square root of the precision.
    """

    check: float | None = None

    def prepare(self, operator: Operator):
        matrix = operator.matrix()
        lu, _, order = jax.lax.linalg.lu(matrix)
        return matrix, lu, order

    def product(self, operator, prepared, transpose):
        return _product(operator, prepared[0], transpose)

    def apply(self, operator, prepared, b, transpose):
        matrix, lu, order = prepared

        def back(r):
            if transpose:
                # A = Pᵀ L U, so Aᵀ x = r is Uᵀ Lᵀ (P x) = r.
                z = _triangular(lu, _triangular(lu, r, lower=False, trans=True), lower=True, trans=True)
                return jnp.zeros_like(z).at[order].set(z)
            return _triangular(lu, _triangular(lu, r[order], lower=True), lower=False)

        x = _refined(matrix.T if transpose else matrix, _tree.ravel(b), back)
        return _tree.unravel(x, b), jnp.array(0)


def _triangular(factors: Array, b: Array, *, lower: bool, trans: bool = False) -> Array:
    x = jax.lax.linalg.triangular_solve(
        factors, b[:, None], left_side=True, lower=lower, transpose_a=trans, unit_diagonal=lower
    )
    return x[:, 0]


class Cholesky(AbstractLinearSolver):
    """A = L Lᵀ for a symmetric positive definite A, one step of iterative refinement.

    NaN where A is not positive definite. O(n³/3) once, O(n²) a solve.

    **Arguments:**

    - `check`: see `LU`.
    """

    check: float | None = None

    def prepare(self, operator: Operator):
        matrix = operator.matrix()
        return matrix, jnp.linalg.cholesky(matrix)

    def product(self, operator, prepared, transpose):
        return _product(operator, prepared[0], transpose)

    def apply(self, operator, prepared, b, transpose):
        matrix, factor = prepared
        v = _tree.ravel(b)
        v = v.conj() if transpose else v  # Aᵀ x = b is A x̄ = b̄ for a Hermitian A
        x = _refined(matrix, v, lambda r: jsl.cho_solve((factor, True), r))
        x = x.conj() if transpose else x
        return _tree.unravel(x, b), jnp.array(0)

"""Direct solvers on the n×n array."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array

from .. import _tree
from ._operator import Operator
from ._small import diagonal, largest, lu_factor, lu_solve, product
from ._solver import AbstractLinearSolver
from ._verify import symmetry_faults

_PRECISE = jax.lax.Precision.HIGHEST


def _refined(matrix: Array, b: Array, back: Callable, steps: int) -> Array:
    """x = A⁻¹b by the factors, then steps of iterative refinement: x ← x + A⁻¹(b − A x)."""
    x = back(b)
    for _ in range(steps):
        x = x + back(b - product(matrix, x))
    return x


def _product(operator: Operator, matrix: Array, transpose: bool) -> Callable:
    """Of the array, if it was made of products with unit vectors; if somebody has given it, it is no
    witness for itself: of the operator."""
    if operator.dense is not None:
        return (operator.transpose() if transpose else operator).mv
    a = matrix.T if transpose else matrix
    return lambda x: _tree.unravel(product(a, _tree.ravel(x)), x)


def _reciprocal(size: Array) -> Array:
    """1/size; 1 where it is 0 or not finite."""
    usable = (size > 0) & jnp.isfinite(size)
    return jnp.where(usable, 1 / jnp.where(usable, size, 1), 1)


def _singular(pivots: Array) -> Array:
    """Whether a matrix with rows and columns of size one has a pivot that is nothing but rounding.

    Elimination in n steps leaves an error of n times the precision in a pivot, and entries that were made
    by subtraction (those of 1 − ∂T/∂y) have one of a few times the precision from the start. A smaller
    pivot may be a zero, and a solution would be a multiple of noise. NaN counts as singular.
    """
    noise = (16 + pivots.size) * jnp.finfo(pivots.dtype).eps
    return ~(jnp.min(pivots, initial=jnp.inf) > noise * jnp.max(pivots, initial=0))


class LU(AbstractLinearSolver):
    """A = P L U with partial pivoting on equilibrated rows and columns. O(n³) once, O(n²) a solve.

    NaN where A is singular to working precision (its condition number after equilibration is about
    1/(n · precision) or more), though a system with such an A often has a small residual.

    **Arguments:**

    - `check`: largest accepted relative residual ‖b − A x‖/‖b‖ (dimensionless); above it the
      solution is NaN. None: the square root of the precision.
    - `refinements`: steps of iterative refinement; more of them help an ill-conditioned A in float32.
    """

    check: float | None = None
    refinements: int = 1

    def prepare(self, operator: Operator):
        matrix = operator.matrix()
        size = jnp.abs(matrix)
        rows = _reciprocal(largest(size, 1))
        columns = _reciprocal(largest(size * rows[:, None], 0))
        lu, order = lu_factor(rows[:, None] * matrix * columns)
        singular = _singular(jnp.abs(diagonal(lu)))
        return matrix, lu, order, rows, jnp.where(singular, jnp.nan, columns)

    def product(self, operator, prepared, transpose):
        return _product(operator, prepared[0], transpose)

    def apply(self, operator, prepared, b, transpose):
        matrix, lu, order, rows, columns = prepared

        # (R A C) C⁻¹x = R b, and (R A C)ᵀ R⁻¹x = C b.
        left, right = (columns, rows) if transpose else (rows, columns)
        back = lambda r: right * lu_solve(lu, order, left * r, transpose)
        x = _refined(matrix.T if transpose else matrix, _tree.ravel(b), back, self.refinements)
        return _tree.unravel(x, b), jnp.array(0)


class Cholesky(AbstractLinearSolver):
    """A = L Lᵀ for a symmetric positive definite A, scaled to a unit diagonal.

    NaN where A is not positive definite to working precision. O(n³/3) once, O(n²) a solve.

    **Arguments:**

    - `check`, `refinements`: see `LU`.
    """

    check: float | None = None
    refinements: int = 1

    def prepare(self, operator: Operator):
        matrix = operator.matrix()
        scale = _reciprocal(jnp.sqrt(jnp.abs(diagonal(matrix))))
        factor = jnp.linalg.cholesky(scale[:, None] * matrix * scale)
        singular = _singular(diagonal(factor).real ** 2)
        return matrix, factor, jnp.where(singular, jnp.nan, scale)

    def product(self, operator, prepared, transpose):
        return _product(operator, prepared[0], transpose)

    def apply(self, operator, prepared, b, transpose):
        matrix, factor, scale = prepared
        v = _tree.ravel(b)
        v = v.conj() if transpose else v  # Aᵀ x = b is A x̄ = b̄ for a Hermitian A
        back = lambda r: scale * jsl.cho_solve((factor, True), scale * r)
        x = _refined(matrix, v, back, self.refinements)
        x = x.conj() if transpose else x
        return _tree.unravel(x, b), jnp.array(0)

    def faults(self, operator, seed):
        return symmetry_faults(operator, seed, True)


class PseudoInverse(AbstractLinearSolver):
    """x = A⁺ b for any square A, by singular values: the shortest of the least-squares solutions.

    Singular values below `rtol` times the largest one, in the given scaling of rows and columns, count
    as zero. What is checked is that the normal equations Aᵀ(b − A x) = 0 hold: a b outside of the range
    of A has its part in the range solved for. O(n³) once (some 20 times LU), O(n²) a solve.

    **Arguments:**

    - `rtol`: relative size below which a singular value is zero (dimensionless). None: 10 n times the
      precision.
    - `check`: largest accepted ‖Aᵀ(b − A x)‖ / (‖A‖ ‖b‖) (dimensionless); see `LU`.

    **Limits:** x depends on the units of the unknowns and equations. Near a change of rank it is not
    continuous.
    """

    rtol: float | None = None
    check: float | None = None

    @property
    def exact(self):
        return False

    def prepare(self, operator: Operator):
        matrix = operator.matrix()
        u, s, vh = jnp.linalg.svd(matrix, full_matrices=False)
        precision = float(jnp.finfo(matrix.dtype).eps)
        rtol = 10 * operator.size * precision if self.rtol is None else self.rtol
        kept = s > rtol * jnp.max(s, initial=0)
        return u, jnp.where(kept, 1 / jnp.where(kept, s, 1), 0).astype(s.dtype), vh, matrix

    def product(self, operator, prepared, transpose):
        return _product(operator, prepared[3], transpose)

    def defect(self, operator, prepared, error, transpose):
        _, _, _, matrix = prepared
        largest = jnp.sqrt(jnp.sum(jnp.abs(matrix) ** 2))
        unit = _tree.ravel(error) / jnp.where(largest == 0, 1, largest)
        a = matrix.conj() if transpose else matrix.conj().T
        return _tree.unravel(jnp.matmul(a, unit, precision=_PRECISE), error)

    def apply(self, operator, prepared, b, transpose):
        u, inverse, vh, _ = prepared
        v = _tree.ravel(b)
        multiply = lambda a, x: jnp.matmul(a, x, precision=_PRECISE)
        if transpose:  # A⁺ᵀ = (V S⁺ Uᴴ)ᵀ = Ū S⁺ Vᵀ
            x = multiply(u.conj(), inverse * multiply(vh.conj(), v))
        else:
            x = multiply(vh.conj().T, inverse * multiply(u.conj().T, v))
        return _tree.unravel(x, b), jnp.array(0)

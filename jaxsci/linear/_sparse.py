"""A direct solver for a sparse matrix: few products, a narrow band, block elimination with pivots."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _tree
from ._dense import _reciprocal, _singular
from ._operator import Operator
from ._pattern import Pattern
from ._solver import AbstractLinearSolver

_SMALLEST = 16
_PRECISE = jax.lax.Precision.HIGHEST


class Sparse(AbstractLinearSolver):
    """P A Q = L U for a sparse A of a known pattern, in plain JAX: on every device, without callbacks.

    The entries come from one product for each color of the pattern. The unknowns are ordered by reverse
    Cuthill–McKee, which gives a band of half-width w, and the band is eliminated in blocks of w rows,
    with partial pivoting (of rows, as LAPACK's `gbtrf`) on equilibrated rows and columns. What can be
    computed from the pattern is computed once, at construction.

    **Arguments:**

    - `pattern`: a `jaxsci.linear.Pattern`, or what it is made of (a SciPy sparse matrix, a `BCOO`, a boolean
      array, a pair of index arrays).
    - `check`, `refinements`: see `jaxsci.linear.LU`.

    **Raises:** `ValueError` if the pattern is not `exact` (found at one point only) or of another size.

    **Limits:** O(n w²) operations and O(n w) memory once, O(n w) a solve: right for problems on lines, strips
    and networks, and for n ≈ 10⁴ on a square, where w ≈ √n; not for three dimensions. An entry outside of
    the pattern makes the solution wrong, which the check with the true operator finds: NaN.

    **Reference:** Golub & Van Loan, Matrix Computations, 4th ed., §4.3.5; Cuthill & McKee 1969.
    """

    pattern: Pattern = eqx.field(static=True)
    check: float | None
    refinements: int

    def __init__(self, pattern: Any, *, check: float | None = None, refinements: int = 1):
        self.pattern = pattern if isinstance(pattern, Pattern) else Pattern(pattern)
        self.pattern.require_exact()
        self.check = check
        self.refinements = refinements

    @property
    def width(self) -> int:
        """w, the rows of a block."""
        place = np.argsort(self.pattern.order)
        reach = np.abs(place[self.pattern.rows] - place[self.pattern.columns]).max(initial=0)
        return max(int(reach), min(_SMALLEST, self.pattern.size))

    def prepare(self, operator: Operator):
        pattern, n, w = self.pattern, self.pattern.size, self.width
        values = pattern.values(operator)
        size = jnp.abs(values)
        rows = _reciprocal(jnp.zeros(n, size.dtype).at[pattern.rows].max(size))
        columns = _reciprocal(jnp.zeros(n, size.dtype).at[pattern.columns].max(size * rows[pattern.rows]))
        scaled = rows[pattern.rows] * values * columns[pattern.columns]

        # Block row I holds the columns of the blocks I − 1, I, I + 1; the identity fills the last block.
        count = -(-n // w)
        place = np.argsort(pattern.order)
        i, j = place[pattern.rows], place[pattern.columns]
        spot = i * 3 * w + j - (i // w - 1) * w
        rest = np.arange(n, count * w)
        filled = jnp.zeros(count * w * 3 * w, values.dtype).at[rest * 3 * w + w + rest % w].set(1)
        band = _tree.vary_like(filled, scaled).at[spot].set(scaled)
        factors, pivots = _factorised(band.reshape(count, w, 3 * w))
        singular = _singular(jnp.abs(pivots))
        return values, factors, rows, jnp.where(singular, jnp.nan, columns)

    def apply(self, operator, prepared, b, transpose):
        values, factors, rows, columns = prepared
        pattern, order = self.pattern, self.pattern.order
        left, right = (columns, rows) if transpose else (rows, columns)
        out, into = (pattern.columns, pattern.rows) if transpose else (pattern.rows, pattern.columns)
        v = _tree.ravel(b)
        back = lambda r: right * _back(factors, left * r, order, transpose)
        x = back(v)
        for _ in range(self.refinements):
            x = x + back(v - jnp.zeros_like(v).at[out].add(values * x[into]))
        return _tree.unravel(x, b), jnp.array(0)


def _factorised(band: Array) -> tuple[tuple[Array, ...], Array]:
    """Elimination of block columns of a block tridiagonal matrix, rows (A, B, C) of `band`.

    The rows that may hold a pivot of block column k are the w that are left of before and the w of
    block k + 1: P (D; A) = (L₁; L₂) U. What stands to the right becomes P (E 0; B C), and of that
    L₁⁻¹ times the upper half joins U, while the lower half minus L₂ times it is left for the next step.

    **Returns:** (order of P, L₁, L₂, U, what stands right of U), each for all k, and the diagonal of U.
    """
    count, w, _ = band.shape
    below = jnp.concatenate([band[1:], jnp.zeros_like(band[:1])])
    # There is no block row after the last: zero rows, that are never a pivot of a regular matrix.

    def eliminate(left, below):
        panel = jnp.concatenate([left[:, :w], below[:, :w]])
        lu, _, order = jax.lax.linalg.lu(panel)
        lower, lowest, upper = jnp.tril(lu[:w], -1), lu[w:], jnp.triu(lu[:w])
        lower = lower + jnp.eye(w, dtype=lu.dtype)
        rest = jnp.concatenate([left[:, w:], jnp.zeros_like(left[:, w:])], axis=1)
        rest = jnp.concatenate([rest, below[:, w:]])[order]
        beside = _triangular(lower, rest[:w], True, True)
        left = rest[w:] - jnp.matmul(lowest, beside, precision=_PRECISE)
        return left, (order, lower, lowest, upper, beside)

    _, factors = jax.lax.scan(eliminate, band[0, :, w:], below)
    diagonal = factors[3].reshape(count, w * w)[:, :: w + 1]
    return factors, diagonal.ravel()


def _back(factors: tuple[Array, ...], b: Array, order: np.ndarray, transpose: bool) -> Array:
    """x with A x = b or Aᵀ x = b, A in the order of the unknowns that is given."""
    count, w, _ = factors[1].shape
    n = order.size
    solve = lambda blocks: _substituted(factors, blocks)
    blocks = jnp.zeros(count * w, b.dtype).at[:n].set(b[order]).reshape(count, w)
    blocks = _tree.vary_like(blocks, factors, b)
    x = jax.vjp(solve, jnp.zeros_like(blocks))[1](blocks)[0] if transpose else solve(blocks)
    return jnp.zeros_like(b).at[order].set(x.ravel()[:n])


def _substituted(factors: tuple[Array, ...], blocks: Array) -> Array:
    """Forward and back substitution; linear in the blocks of b, and transposed as such."""
    order, lower, lowest, upper, beside = factors
    w = blocks.shape[1]
    product = lambda a, v: jnp.matmul(a, v, precision=_PRECISE)

    def forward(left, step):
        order, lower, lowest, below = step
        both = jnp.concatenate([left, below])[order]
        z = _triangular(lower, both[:w, None], True, True)[:, 0]
        return both[w:] - product(lowest, z), z

    below = jnp.concatenate([blocks[1:], jnp.zeros_like(blocks[:1])])
    _, z = jax.lax.scan(forward, blocks[0], (order, lower, lowest, below))

    def backward(after, step):
        upper, beside, z = step
        x = _triangular(upper, (z - product(beside, after))[:, None], False, False)[:, 0]
        return jnp.concatenate([x, after[:w]]), x

    none = jnp.concatenate([jnp.zeros_like(blocks[0]), jnp.zeros_like(blocks[0])])
    _, x = jax.lax.scan(backward, none, (upper, beside, z), reverse=True)
    return x


def _triangular(a: Array, b: Array, lower: bool, unit: bool) -> Array:
    return jax.lax.linalg.triangular_solve(a, b, left_side=True, lower=lower, unit_diagonal=unit)

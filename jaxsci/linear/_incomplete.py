"""Incomplete factors on the pattern of the matrix, by sweeps that run in parallel."""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _tree
from ._dense import _reciprocal
from ._operator import Operator
from ._pattern import Pattern
from ._preconditioner import AbstractPreconditioner


class IncompleteLU(AbstractPreconditioner):
    """M ≈ (L U)⁻¹ with L U = A on the pattern of A: ILU(0); of a positive definite A, IC(0).

    Factors are a fixed point of

        uᵢⱼ = aᵢⱼ − Σ_{k<i} lᵢₖ uₖⱼ (i ≤ j),    lᵢⱼ = (aᵢⱼ − Σ_{k<j} lᵢₖ uₖⱼ) / uⱼⱼ (i > j),

    found by `sweeps` over all entries at once, from A with a unit diagonal. L and U are inverted by
    `solves` Jacobi sweeps each. No step waits for the row before, so that it suits accelerators. Where
    A was promised positive definite, M = p(Û) D⁻¹ p(Û)ᴴ with U = D Û, p(Û) ≈ Û⁻¹: symmetric for CG.

    **Arguments:**

    - `pattern`: that of A; see `jaxsci.linear.Sparse`.
    - `sweeps`: over the entries of the factors, at least 0.
    - `solves`: Jacobi sweeps for each triangular system, at least 0; 0 leaves the diagonal.

    **Limits:** the iterations of a Krylov solver grow with the size of the grid, as with any ILU(0): less
    than without, more than with multigrid. Factors of an indefinite A may be
    useless, and the check of the solver tells.

    **Reference:** Chow & Patel, Fine-grained parallel incomplete LU factorization, SIAM J. Sci. Comput. 37,
    2015.
    """

    pattern: Pattern = eqx.field(static=True)
    sweeps: int = eqx.field(static=True)
    solves: int = eqx.field(static=True)

    def __init__(self, pattern: Any, *, sweeps: int = 5, solves: int = 5):
        for name, value in (("sweeps", sweeps), ("solves", solves)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"`{name}` is {value!r}; expected an int ≥ 0, such as 5.")
        pattern = pattern if isinstance(pattern, Pattern) else Pattern(pattern)
        self.pattern = _with_diagonal(pattern)
        self.sweeps = sweeps
        self.solves = solves

    def prepare(self, operator: Operator):
        pattern = self.pattern
        rows, columns = pattern.rows, pattern.columns
        first, second, target = _products(pattern)
        lower, diagonal = rows > columns, rows == columns
        values = pattern.values(operator)
        found = values[np.nonzero(diagonal)[0]]
        # Â = S A S with |âᵢᵢ| = 1.
        scale = jnp.sqrt(_reciprocal(jnp.abs(found)))
        values = scale[rows] * values * scale[columns]
        values = jnp.where(diagonal & (values == 0), 1, values)
        at_diagonal = np.nonzero(diagonal)[0]
        factors = values
        for _ in range(self.sweeps):
            sums = jnp.zeros_like(values).at[target].add(factors[first] * factors[second])
            pivots = factors[at_diagonal]
            new = values - sums
            factors = jnp.where(lower, new / jnp.where(pivots == 0, 1, pivots)[columns], new)
        pivots = factors[at_diagonal]
        above = jnp.where(rows < columns, factors / jnp.where(pivots == 0, 1, pivots)[rows], 0)
        return scale, jnp.where(lower, factors, 0), pivots, above

    def apply(self, operator: Operator, prepared: Any, r: PyTree[Array]) -> PyTree[Array]:
        scale, below, pivots, above = prepared
        rows, columns = self.pattern.rows, self.pattern.columns

        def inverted(entries, rows, columns, b):
            """(1 + N)⁻¹b ≈ b − N b + N²b − …, N strictly triangular."""
            x = b
            for _ in range(self.solves):
                x = b - jnp.zeros_like(b).at[rows].add(entries * x[columns])
            return x

        v = scale * _tree.ravel(r)
        if operator.positive:
            v = inverted(above.conj(), columns, rows, v)
        else:
            v = inverted(below, rows, columns, v)
        v = inverted(above, rows, columns, v / jnp.where(pivots == 0, 1, pivots))
        return _tree.unravel(scale * v, r)


def _with_diagonal(pattern: Pattern) -> Pattern:
    every = np.arange(pattern.size)
    rows, columns = np.concatenate([pattern.rows, every]), np.concatenate([pattern.columns, every])
    return Pattern((rows, columns), pattern.size, exact=pattern.exact)


@functools.lru_cache(maxsize=32)
def _products(pattern: Pattern) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of the entries (i, k), (k, j), (i, j), for all k < min(i, j) with three entries."""
    rows, columns, n = pattern.rows, pattern.columns, pattern.size
    lower = np.nonzero(rows > columns)[0]
    starts = np.searchsorted(rows, np.arange(n + 1))
    # The entries right of the diagonal of row k are the last of it.
    upper = starts[:-1] + np.bincount(rows[rows >= columns], minlength=n)
    counts = starts[columns[lower] + 1] - upper[columns[lower]]
    first = np.repeat(lower, counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    second = np.repeat(upper[columns[lower]], counts) + within
    keys = rows * n + columns
    wanted = rows[first] * n + columns[second]
    spot = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    kept = keys[spot] == wanted
    return first[kept], second[kept], spot[kept]

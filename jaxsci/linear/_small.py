"""P A = L U; written out for very small matrices.

A library call for each of many 3×3 matrices costs ten times its arithmetic. Written out, elimination is
elementwise, and `vmap` makes vector instructions of it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

LIMIT = 4
"""The largest matrix that is written out."""


def _small(n: int) -> bool:
    return 0 < n <= LIMIT


def diagonal(matrix: Num[Array, "n n"]) -> Num[Array, " n"]:
    """aᵢᵢ, as a slice: `jnp.diagonal` holds two programs, of which the platform takes one."""
    n = len(matrix)
    return jnp.reshape(matrix, n * n)[:: n + 1]


def lu_factor(matrix: Num[Array, "n n"]) -> tuple[Num[Array, "n n"], Num[Array, "n n"] | Int[Array, " n"]]:
    """Partial pivoting. Of a very small matrix: U (below its diagonal is rubbish), and L⁻¹P. Else L below
    the diagonal and U above in one array, and the order of the rows."""
    n = len(matrix)
    if not _small(n):
        lu, _, order = jax.lax.linalg.lu(matrix)
        return lu, order
    # Elimination of [A, 1] gives [U, L⁻¹P].
    rows = list(jnp.concatenate([matrix, jnp.eye(n, dtype=matrix.dtype)], axis=1))
    for k in range(n):
        for i in range(k + 1, n):
            # Exchanged wherever it is larger, the largest entry ends on top. NaN stays, and spreads.
            larger = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
            rows[k], rows[i] = jnp.where(larger, rows[i], rows[k]), jnp.where(larger, rows[k], rows[i])
        for i in range(k + 1, n):
            rows[i] = rows[i] - rows[i][k] / rows[k][k] * rows[k]
    both = jnp.stack(rows)
    return both[:, :n], both[:, n:]


def lu_solve(
    lu: Float[Array, "n n"], rest: Array, b: Float[Array, " n"], transpose: bool
) -> Float[Array, " n"]:
    """x with A x = b or Aᵀ x = b, by what `lu_factor` has returned."""
    n = len(lu)
    if not _small(n):
        if transpose:
            z = _triangular(lu, _triangular(lu, b, False, True), True, True)
            return jnp.zeros_like(z).at[rest].set(z)
        return _triangular(lu, _triangular(lu, b[rest], True, False), False, False)
    product = lambda a, v, axis: jnp.sum(a * jnp.expand_dims(v, 1 - axis), axis)
    b = b if transpose else product(rest, b, 1)
    x: dict[int, Array] = {}
    for i in range(n) if transpose else reversed(range(n)):
        right = b[i]
        for j in x:
            right = right - (lu[j, i] if transpose else lu[i, j]) * x[j]
        x[i] = right / lu[i, i]
    solved = jnp.stack([x[i] for i in range(n)])
    return product(rest, solved, 0) if transpose else solved


def _triangular(factors: Array, b: Array, lower: bool, transpose: bool) -> Array:
    x = jax.lax.linalg.triangular_solve(
        factors, b[:, None], left_side=True, lower=lower, transpose_a=transpose, unit_diagonal=lower
    )
    return x[:, 0]

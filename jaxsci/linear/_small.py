"""Factors of very small matrices, written out.

A library call for each of many 3×3 matrices costs ten times its arithmetic. Written out, elimination is
elementwise, and `vmap` makes vector instructions of it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LIMIT = 4
"""The largest matrix that is written out."""


def lu_factor(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Int[Array, " n"]]:
    """P A = L U with partial pivoting: L below the diagonal and U above, in one array, and the order of
    the rows."""
    n = len(matrix)
    if n > LIMIT or n == 0:
        lu, _, order = jax.lax.linalg.lu(matrix)
        return lu, order
    rows, order = list(matrix), list(jnp.arange(n, dtype=jnp.int32))
    for k in range(n):
        for i in range(k + 1, n):
            # Exchanged wherever it is larger, the largest entry ends on top. NaN stays, and spreads.
            larger = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
            rows[k], rows[i] = (jnp.where(larger, *pair) for pair in ((rows[i], rows[k]), (rows[k], rows[i])))
            order[k], order[i] = (
                jnp.where(larger, *pair) for pair in ((order[i], order[k]), (order[k], order[i]))
            )
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            below = rows[i] - factor * rows[k]
            rows[i] = jnp.concatenate([rows[i][:k], factor[None], below[k + 1 :]])
    return jnp.stack(rows), jnp.stack(order)


def triangular_solve(
    factors: Float[Array, "n n"], b: Float[Array, " n"], *, lower: bool, transpose: bool = False
) -> Float[Array, " n"]:
    """x with L x = b (ones on the diagonal) or U x = b, or with the transpose of either."""
    n = len(factors)
    if n > LIMIT or n == 0:
        x = jax.lax.linalg.triangular_solve(
            factors, b[:, None], left_side=True, lower=lower, transpose_a=transpose, unit_diagonal=lower
        )
        return x[:, 0]
    at = (lambda i, j: factors[j, i]) if transpose else (lambda i, j: factors[i, j])
    forward = lower != transpose
    x: dict[int, Array] = {}
    for i in range(n) if forward else reversed(range(n)):
        rest = b[i] - sum((at(i, j) * x[j] for j in x), start=jnp.zeros((), b.dtype))
        x[i] = rest if lower else rest / at(i, i)
    return jnp.stack([x[i] for i in range(n)])

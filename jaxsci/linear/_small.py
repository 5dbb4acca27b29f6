"""P A = L U, products and extrema; written out for very small matrices.

A library call for each of many 3×3 matrices costs ten times its arithmetic. Written out in scalars,
elimination is elementwise, and `vmap` makes a few loops of vector instructions of it.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

LIMIT = 4
"""The largest matrix that is written out."""

_PRECISE = jax.lax.Precision.HIGHEST


def _small(n: int) -> bool:
    return 0 < n <= LIMIT


def diagonal(matrix: Num[Array, "n n"]) -> Num[Array, " n"]:
    """aᵢᵢ, as a slice: `jnp.diagonal` holds two programs, of which the platform takes one."""
    n = len(matrix)
    return jnp.reshape(matrix, n * n)[:: n + 1]


def largest(size: Float[Array, "n n"], axis: int) -> Float[Array, " n"]:
    """The largest entry along an axis of a matrix without negative entries."""
    n = len(size)
    if not _small(n):
        return jnp.max(size, axis=axis, initial=0)
    return functools.reduce(jnp.maximum, [size[i] if axis == 0 else size[:, i] for i in range(n)])


def product(matrix: Num[Array, "n n"], x: Num[Array, " n"]) -> Num[Array, " n"]:
    """A x."""
    n = len(matrix)
    if not _small(n):
        return jnp.matmul(matrix, x, precision=_PRECISE)
    return sum((matrix[:, j] * x[j] for j in range(1, n)), matrix[:, 0] * x[0])


def lu_factor(matrix: Num[Array, "n n"]) -> tuple[Num[Array, "n n"], Num[Array, "n n"] | Int[Array, " n"]]:
    """Partial pivoting. L below the diagonal and U on and above it in one array, and the order of the rows.

    Of a very small matrix, the second array holds in row k, column i > k, whether row i was exchanged with
    row k when column k was eliminated, and L is of the rows as they were then.
    """
    n = len(matrix)
    if not _small(n):
        lu, _, order = jax.lax.linalg.lu(matrix)
        return lu, order
    a = [[matrix[i, j] for j in range(n)] for i in range(n)]
    l: dict[tuple[int, int], Array] = {}
    exchanged = [[jnp.zeros_like(a[0][0])] * n for _ in range(n)]
    for k in range(n):
        for i in range(k + 1, n):
            # Exchanged wherever it is larger, the largest entry ends on top. NaN stays, and spreads.
            larger = jnp.abs(a[i][k]) > jnp.abs(a[k][k])
            exchanged[k][i] = larger.astype(matrix.dtype)
            for j in range(k, n):
                upper, lower = a[k][j], a[i][j]
                a[k][j], a[i][j] = jnp.where(larger, lower, upper), jnp.where(larger, upper, lower)
        for i in range(k + 1, n):
            l[i, k] = a[i][k] / a[k][k]
            for j in range(k + 1, n):
                a[i][j] = a[i][j] - l[i, k] * a[k][j]
    both = [[l[i, j] if j < i else a[i][j] for j in range(n)] for i in range(n)]
    return _stacked(both), _stacked(exchanged)


def _stacked(rows: list[list[Array]]) -> Array:
    return jnp.stack([jnp.stack(row) for row in rows])


def lu_solve(lu: Num[Array, "n n"], order: Array, b: Num[Array, " n"], transpose: bool) -> Num[Array, " n"]:
    """x with A x = b or Aᵀ x = b, by what `lu_factor` has returned."""
    n = len(lu)
    if not _small(n):
        if transpose:
            z = _triangular(lu, _triangular(lu, b, False, True), True, True)
            return jnp.zeros_like(z).at[order].set(z)
        return _triangular(lu, _triangular(lu, b[order], True, False), False, False)
    x = [b[i] for i in range(n)]

    def exchange(k, i):
        done = order[k, i].real > 0
        x[k], x[i] = jnp.where(done, x[i], x[k]), jnp.where(done, x[k], x[i])

    if transpose:  # Uᵀ, then the steps of the elimination, transposed, from the last to the first
        for i in range(n):
            x[i] = sum((-lu[j, i] * x[j] for j in range(i)), x[i]) / lu[i, i]
        for k in reversed(range(n)):
            x[k] = sum((-lu[i, k] * x[i] for i in range(k + 1, n)), x[k])
            for i in reversed(range(k + 1, n)):
                exchange(k, i)
        return jnp.stack(x)
    for k in range(n):
        for i in range(k + 1, n):
            exchange(k, i)
        for i in range(k + 1, n):
            x[i] = x[i] - lu[i, k] * x[k]
    for i in reversed(range(n)):
        x[i] = sum((-lu[i, j] * x[j] for j in range(i + 1, n)), x[i]) / lu[i, i]
    return jnp.stack(x)


def _triangular(factors: Array, b: Array, lower: bool, transpose: bool) -> Array:
    x = jax.lax.linalg.triangular_solve(
        factors, b[:, None], left_side=True, lower=lower, transpose_a=transpose, unit_diagonal=lower
    )
    return x[:, 0]

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
    lines = jax.lax.split(size, (1,) * n, axis=axis)
    return jnp.reshape(functools.reduce(jax.lax.max, lines), n)


def product(matrix: Num[Array, "n n"], x: Num[Array, " n"]) -> Num[Array, " n"]:
    """A x."""
    n = len(matrix)
    if not _small(n):
        return jnp.matmul(matrix, x, precision=_PRECISE)
    columns = jax.lax.split(matrix, (1,) * n, axis=1)
    return jnp.reshape(sum(c * e for c, e in zip(columns, _entries(x), strict=True)), n)


def lu_factor(matrix: Num[Array, "n n"]) -> tuple[Num[Array, "n n"], Num[Array, "n n"] | Int[Array, " n"]]:
    """Partial pivoting. L below the diagonal and U on and above it in one array, and the order of the rows.

    Of a very small matrix, the second array holds in row k, column i > k, whether row i was exchanged with
    row k when column k was eliminated, and L is of the rows as they were then.
    """
    n = len(matrix)
    if not _small(n):
        lu, _, order = jax.lax.linalg.lu(matrix)
        return lu, order
    a = _rows(matrix)
    exchanged = [[jnp.zeros_like(a[0][0])] * n for _ in range(n)]
    for k in range(n):
        for i in range(k + 1, n):
            # Exchanged wherever it is larger, the largest entry ends on top. NaN stays, and spreads. Entries
            # of L are left behind: they are of the rows as they were.
            larger = jax.lax.abs(a[i][k]) > jax.lax.abs(a[k][k])
            exchanged[k][i] = larger.astype(matrix.dtype)
            for j in range(k, n):
                a[k][j], a[i][j] = _exchanged(larger, a[k][j], a[i][j])
        for i in range(k + 1, n):
            a[i][k] = jax.lax.div(a[i][k], a[k][k])
            for j in range(k + 1, n):
                a[i][j] = _less(a[i][j], a[i][k], a[k][j])
    return _matrix(a), _matrix(exchanged)


def lu_solve(lu: Num[Array, "n n"], order: Array, b: Num[Array, " n"], transpose: bool) -> Num[Array, " n"]:
    """x with A x = b or Aᵀ x = b, by what `lu_factor` has returned."""
    n = len(lu)
    if not _small(n):
        if transpose:
            z = _triangular(lu, _triangular(lu, b, False, True), True, True)
            return jnp.zeros_like(z).at[order].set(z)
        return _triangular(lu, _triangular(lu, b[order], True, False), False, False)
    a, x = _rows(lu), _entries(b)
    done = _rows((order.real if jnp.iscomplexobj(order) else order) > 0)
    if transpose:  # Uᵀ, then the steps of the elimination, transposed, from the last to the first
        for i in range(n):
            for j in range(i):
                x[i] = _less(x[i], a[j][i], x[j])
            x[i] = jax.lax.div(x[i], a[i][i])
        for k in reversed(range(n)):
            for i in range(k + 1, n):
                x[k] = _less(x[k], a[i][k], x[i])
            for i in reversed(range(k + 1, n)):
                x[k], x[i] = _exchanged(done[k][i], x[k], x[i])
        return jax.lax.concatenate(x, 0)
    for k in range(n):
        for i in range(k + 1, n):
            x[k], x[i] = _exchanged(done[k][i], x[k], x[i])
        for i in range(k + 1, n):
            x[i] = _less(x[i], a[i][k], x[k])
    for i in reversed(range(n)):
        for j in range(i + 1, n):
            x[i] = _less(x[i], a[i][j], x[j])
        x[i] = jax.lax.div(x[i], a[i][i])
    return jax.lax.concatenate(x, 0)


# Entries are arrays of one element: all of them are split off by one operation, and joined by one.


def _entries(x: Num[Array, " n"]) -> list[Array]:
    return list(jax.lax.split(x, (1,) * len(x)))


def _rows(matrix: Num[Array, "n n"]) -> list[list[Array]]:
    n = len(matrix)
    entries = _entries(jnp.reshape(matrix, n * n))
    return [entries[i * n : (i + 1) * n] for i in range(n)]


def _matrix(rows: list[list[Array]]) -> Num[Array, "n n"]:
    return jnp.reshape(jax.lax.concatenate([x for row in rows for x in row], 0), (len(rows), len(rows)))


def _less(x: Array, factor: Array, y: Array) -> Array:
    """x − factor · y."""
    return jax.lax.sub(x, jax.lax.mul(factor, y))


def _exchanged(condition: Array, a: Array, b: Array) -> tuple[Array, Array]:
    return jax.lax.select(condition, b, a), jax.lax.select(condition, a, b)


def _triangular(factors: Array, b: Array, lower: bool, transpose: bool) -> Array:
    x = jax.lax.linalg.triangular_solve(
        factors, b[:, None], left_side=True, lower=lower, transpose_a=transpose, unit_diagonal=lower
    )
    return x[:, 0]

"""Matrices with given row and column sums, in the Euclidean and in the entropic geometry.

Both problems have X(β) with the right row sums in closed form, for any potentials β of the columns, and
a convex function of β whose gradient is the excess of the column sums. It is minimised by Newton's
method with a line search; it does not matter that β is fixed only up to a constant.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import _tree
from .._adjoint import attach
from ..residuals import Root
from ._base import AbstractSet, check_size, held, known, matrix, only
from ._simple import simplex

_STEPS = 200


class Transport(AbstractSet):
    """{X ≥ 0 : X 1 = row_sums, Xᵀ 1 = col_sums}, the transport polytope: P(V) = max(V + α1ᵀ + 1βᵀ, 0).

    The potentials α, β are found by Newton's method on the dual, from a small multiple of V to V itself,
    in O(n³ + m n log n) a step. The entries that are positive then determine X linearly: it is computed
    once more from them, checked against the first, and differentiated in V and in the sums. NaN if the
    set is empty (the totals differ), or if the check fails; in float32 that is when V is some 10⁶ times
    as large as the sums.

    **Arguments:**

    - `row_sums`: shape (m,), ≥ 0 (unit of V).
    - `col_sums`: shape (n,), ≥ 0, of the same total.

    **Limits:** only changes of the sums that keep their totals equal have a derivative; others are
    treated by least squares. A kink where an entry of V + α1ᵀ + 1βᵀ is exactly 0; where the positive
    entries fall into groups without a common row or column (the permutations of `Birkhoff`), X has kinks
    in the sums, but not in V.

    **Reference:** Blondel, Seguy, Rolet, Smooth and Sparse Optimal Transport, AISTATS 2018.
    """

    row_sums: Any
    col_sums: Any

    def __check_init__(self):
        _check_sums(self.row_sums, self.col_sums, "Transport")

    def __call__(self, v: Float[Array, "m n"], args: Any = None) -> Float[Array, "m n"]:
        v = matrix(v)
        return _euclidean(v, *_sums(self.row_sums, self.col_sums, v))


class Birkhoff(AbstractSet):
    """The doubly stochastic n×n matrices: `Transport` with all sums 1. Their corners are the permutations.

    **Limits:** see `Transport`.
    """

    def __call__(self, v: Float[Array, "n n"], args: Any = None) -> Float[Array, "n n"]:
        v = matrix(v)
        if v.shape[0] != v.shape[1]:
            raise ValueError(f"`v` has shape {v.shape}; expected a square matrix.")
        ones = jnp.ones_like(v[0])
        return _euclidean(v, ones, ones)


class KLTransport(AbstractSet):
    """{X ≥ 0 : X 1 = row_sums, Xᵀ 1 = col_sums} in the geometry of the entropy: X = exp(V/ε + α1ᵀ + 1βᵀ).

    X = argmax of ⟨V, X⟩ − ε Σ Xᵢⱼ (log Xᵢⱼ − 1) over the transport polytope: entropic optimal transport
    for the cost −V, and for ε = 1 the Bregman projection of exp(V) of mirror descent. Found by
    Newton's method on the dual, from large ε to the given one; differentiated by the implicit function
    theorem. Not the Euclidean projection: P(P(V)) ≠ P(V).

    **Arguments:**

    - `row_sums`, `col_sums`: as in `Transport`.
    - `epsilon`: ε > 0 (unit of V).

    **Limits:** rounding of V/ε limits the precision: an error of about precision · max|V|/ε. Only
    changes of the sums that keep their totals equal have a derivative. NaN if the totals differ or
    Newton's method does not converge.

    **Reference:** Cuturi, Sinkhorn Distances, NeurIPS 2013.
    """

    row_sums: Any
    col_sums: Any
    epsilon: Any = 1.0

    def __check_init__(self):
        _check_sums(self.row_sums, self.col_sums, "KLTransport")
        epsilon = known(self.epsilon)
        if epsilon is not None and not (epsilon > 0).all():
            raise ValueError(f"`epsilon` of KLTransport is {self.epsilon}; expected a number > 0.")

    def __call__(self, v: Float[Array, "m n"], args: Any = None) -> Float[Array, "m n"]:
        v = matrix(v)
        epsilon = jnp.asarray(self.epsilon, v.dtype)
        v = v / jnp.where(epsilon > 0, epsilon, jnp.nan)
        return _entropic(v, *_sums(self.row_sums, self.col_sums, v))

    def contains(self, v: Float[Array, "m n"], tol: Any = None) -> Bool[Array, ""]:
        return Transport(self.row_sums, self.col_sums).contains(v, tol)


def _check_sums(rows: Any, cols: Any, owner: str) -> None:
    check_size(rows, "row_sums", owner)
    check_size(cols, "col_sums", owner)
    rows, cols = known(rows), known(cols)
    if rows is not None and cols is not None and rows.ndim == 1 and cols.ndim == 1:
        total = max(float(rows.sum()), float(cols.sum()))
        if abs(float(rows.sum()) - float(cols.sum())) > 1e-3 * total:
            raise ValueError(
                f"`row_sums` of {owner} have the total {rows.sum()} and `col_sums` {cols.sum()}; expected "
                "the same, or no matrix has both. Divide each by its total."
            )


def _sums(rows: Any, cols: Any, v: Array) -> tuple[Array, Array]:
    if jnp.shape(rows) != v.shape[:1] or jnp.shape(cols) != v.shape[1:]:
        raise ValueError(
            f"`row_sums` has shape {jnp.shape(rows)} and `col_sums` {jnp.shape(cols)}, and `v` {v.shape}; "
            f"expected shapes {v.shape[:1]} and {v.shape[1:]}."
        )
    if v.size == 0:
        raise ValueError(f"`v` has shape {v.shape}; expected one row and one column at least.")
    return jnp.asarray(rows, v.dtype), jnp.asarray(cols, v.dtype)


def _minimize(plan: Callable, curvature: Callable, cols: Array, first: Array, tol: Array) -> Array:
    """β with |columns of plan(β, 1) − cols| ≤ tol, as far as rounding and the number of steps allow.

    plan(β, t) is X for t V. A small t makes all entries positive, and Newton's method converges at once;
    then t grows from `first` to 1, fourfold, whenever the columns fit roughly.
    """
    ridge = jnp.finfo(cols.dtype).eps ** 0.5
    rough = 1e-2 * jnp.max(cols)

    def unfinished(carry):
        k, _, t, size, _, stalls, _ = carry
        return (k < _STEPS) & ((t < 1) | ((size > tol) & (stalls < 15))) & ~jnp.isnan(size)

    def step(carry):
        k, beta, t, _, best, stalls, spent = carry
        x = plan(beta, t)
        g = jnp.sum(x, axis=0) - cols
        # The Hessian is D − S, where S can be as large as D: then the step is a long one.
        diagonal, subtracted = curvature(x)
        diagonal = diagonal + ridge * jnp.max(diagonal)
        direction = -jnp.linalg.solve(jnp.diag(diagonal) - subtracted, g)
        start = jnp.vdot(g, direction)

        def searching(carry):
            count, _, _, _, slope, _ = carry
            return ~(jnp.abs(slope) <= 0.1 * jnp.abs(start)) & (count < 60)

        def search(carry):
            count, low, high, length, slope, _ = carry
            low, high = jnp.where(slope < 0, length, low), jnp.where(slope < 0, high, length)
            longer = jnp.where(length > 0, 8 * length, 1)
            length = jnp.where(jnp.isfinite(high), 0.5 * (low + high), longer)
            g = jnp.sum(plan(beta + length * direction, t), axis=0) - cols
            return count + 1, low, high, length, jnp.vdot(g, direction), jnp.max(jnp.abs(g))

        zero = jnp.zeros_like(start)
        found = (jnp.array(0), zero, zero + jnp.inf, zero, zero - jnp.inf, zero)
        _, _, _, length, _, size = _tree.while_loop(searching, search, found)
        beta = beta + length * direction
        beta = beta - jnp.mean(beta)
        grows = (t < 1) & ((size <= rough) | (spent >= 20))
        after = jnp.where(grows, jnp.minimum(4 * t, 1), t)
        stalls = jnp.where(grows | (size < 0.9 * best), 0, stalls + 1)
        best = jnp.where(grows, jnp.inf, jnp.minimum(best, size))
        size = jnp.where(grows, jnp.inf, size)
        return k + 1, beta * (after / t), after, size, best, stalls, jnp.where(grows, 0, spent + 1)

    far = jnp.full_like(first, jnp.inf)
    begin = (jnp.array(0), jnp.zeros_like(cols), first, far, far, jnp.array(0), jnp.array(0))
    return _tree.while_loop(unfinished, step, begin)[1]


def _same_total(rows: Array, cols: Array) -> tuple[Bool[Array, ""], Array]:
    """Whether sums are ≥ 0 and of the same total, and the largest of them."""
    precision = jnp.finfo(rows.dtype).eps
    total = jnp.sum(rows)
    near = jnp.abs(total - jnp.sum(cols)) <= 16 * (rows.size + cols.size) * precision * total
    return near & jnp.all(rows >= 0) & jnp.all(cols >= 0), jnp.maximum(jnp.max(rows), jnp.max(cols))


def _euclidean(v: Array, rows: Array, cols: Array) -> Array:
    fixed, p, q = held((v, rows, cols))
    fixed = fixed - jnp.max(fixed, axis=1, keepdims=True)
    each_row = jax.vmap(simplex)
    plan = lambda beta, t: each_row(t * fixed + beta, p)

    def curvature(x):
        support = (x > 0).astype(v.dtype)
        count = jnp.maximum(jnp.sum(support, axis=1), 1)
        return jnp.sum(support, axis=0), support.T @ (support / count[:, None])

    ok, size = _same_total(p, q)
    precision = jnp.finfo(v.dtype).eps
    largest = jnp.max(jnp.abs(fixed))
    first = _first(size / v.shape[1], largest)
    beta = _minimize(plan, curvature, q, first, 4 * precision * (v.shape[0] * size + largest))
    rough = plan(beta, 1)
    support = rough > 0
    # X = V + α1ᵀ + 1βᵀ on the support: (α, β) = M⁺(sums of X − sums of V), with M of zeros and ones.
    s = support.astype(v.dtype)
    m = jnp.block([[jnp.diag(jnp.sum(s, 1)), s], [s.T, jnp.diag(jnp.sum(s, 0))]])
    values, vectors = jnp.linalg.eigh(m)
    large = values > 10 * m.shape[0] * precision * jnp.max(values)
    inverse = jnp.where(large, 1 / jnp.where(large, values, 1), 0)
    # V may be large against X: what is solved for is the change from V + β less its row mean.
    near = jnp.where(support, v + held(beta), 0)
    shift = jnp.sum(near, axis=1) / jnp.maximum(jnp.sum(s, 1), 1)
    near = jnp.where(support, near - held(shift)[:, None], 0)
    need = jnp.concatenate([rows - jnp.sum(near, 1), cols - jnp.sum(near, 0)])
    potentials = vectors @ (inverse * (vectors.T @ need))
    x = jnp.where(support, near + potentials[: rows.size, None] + potentials[rows.size :], 0)
    x = jnp.where(x > 0, x, 0)
    same = jnp.max(jnp.abs(held(x) - rough)) <= precision**0.5 * size
    return only(ok & same & _fits(held(x), p, q, 100 * x.size * precision * size), x)


def _first(size: Array, largest: Array) -> Array:
    """The first multiple t ≤ 1 of V, whose entries are up to `largest`: t V is of the given size."""
    return jnp.where(largest > size, size / jnp.where(largest > size, largest, 1), 1)


def _fits(x: Array, rows: Array, cols: Array, tol: Array) -> Bool[Array, ""]:
    off = jnp.concatenate([jnp.sum(x, axis=1) - rows, jnp.sum(x, axis=0) - cols])
    return jnp.max(jnp.abs(off)) <= tol


def _entropic(v: Array, rows: Array, cols: Array) -> Array:
    p, q = held((rows, cols))
    # A column with sum 0 has X = 0, and its potential is left at 0.
    wanted = q > 0
    v = v - held(jnp.max(v, axis=1, keepdims=True))

    def plan_of(beta, theta, t=1):
        v, rows, _ = theta
        return rows[:, None] * jax.nn.softmax(jnp.where(wanted, t * v + beta, -jnp.inf), axis=1)

    def balance(beta, theta):
        # Sums over columns of the first part are 0, so the mean of β is fixed by the second.
        _, _, cols = theta
        off = jnp.sum(plan_of(beta, theta), axis=0) - cols + jnp.mean(cols) * jnp.mean(beta)
        return jnp.where(wanted, off, beta)

    theta = (v, rows, cols)
    fixed = held(theta)
    plan = lambda beta, t: plan_of(beta, fixed, t)

    def curvature(x):
        share = x / jnp.where(p > 0, p, 1)[:, None]
        return jnp.sum(x, axis=0), x.T @ share

    ok, size = _same_total(p, q)
    precision = jnp.finfo(v.dtype).eps
    largest = jnp.max(jnp.where(wanted, -held(v), 0))
    tol = precision * size * (20 + largest)
    beta = _minimize(plan, curvature, q, _first(jnp.ones_like(size), largest), tol)
    beta = jnp.where(wanted, beta - jnp.mean(beta), 0)
    # A gauge of balance: with the mean of β zero, `balance` vanishes as soon as the columns fit.
    beta = beta - jnp.mean(beta)
    found = attach(Root(balance), beta, theta)
    x = plan_of(found, theta)
    limit = jnp.minimum(20 * v.shape[0] * tol, precision**0.5 * size)
    return only(ok & _fits(held(x), p, q, limit), x)

"""The point of {A x = b, G x ≤ h} next to v: which inequalities hold it.

Dual active-set method of Goldfarb and Idnani (1983) for the Hessian 1. The working set W of rows is
kept linearly independent and its multipliers non-negative; the most violated row is added along

    z = −(1 − B⁺B) g,   r = B⁺ᵀ g,   B = rows of A and of W,

until it holds, or until the multiplier of a row of W becomes zero, which then leaves. If z = 0 and none
can leave, the set is empty. Ends after finitely many steps with the exact set.
"""

import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Bool, Float, Int

from .. import _tree


def factors(rows: Float[Array, "p n"], used: Bool[Array, " p"]) -> tuple[Array, Array]:
    """Q (n×p) and R (p×p) with Bᵀ = Q R for the rows in use.

    Each other row is replaced by a unit vector in a dimension of its own, so the matrix has full column
    rank and the QR decomposition a derivative.
    """
    own = jnp.diag((~used).astype(rows.dtype))
    q, r = jnp.linalg.qr(jnp.concatenate([jnp.where(used[:, None], rows, 0).T, own]))
    return q[: rows.shape[1]], r


def onto(v: Array, rows: Array, values: Array, used: Array) -> tuple[Array, Array, Array]:
    """The projection on {B x = c}, its multipliers μ (v − x = Bᵀμ), and whether B has full rank.

    Rows are of length one. Differentiable in all of v, rows and values.
    """
    q, r = factors(rows, used)
    values = jnp.where(used, values, 0)
    gap = q.T @ v - jsl.solve_triangular(r, values, trans=1, lower=False)
    pivots = jnp.abs(jnp.diagonal(r))
    regular = jnp.all(pivots > 10 * rows.shape[0] * jnp.finfo(v.dtype).eps)
    return v - q @ gap, jsl.solve_triangular(r, gap, lower=False), regular


def unit_rows(rows: Array, values: Array) -> tuple[Array, Array]:
    """The same constraints with rows of length one; a row of zeros is left as it is."""
    size = jnp.max(jnp.abs(rows), axis=1, keepdims=True, initial=0)
    size = jnp.where(size > 0, size, 1)
    length = jnp.sqrt(jnp.sum((rows / size) ** 2, axis=1, keepdims=True))
    scale = size * jnp.where(length > 0, length, 1)
    return rows / scale, values / scale[:, 0]


def working_set(
    v: Float[Array, " n"],
    a: Float[Array, "m n"],
    b: Float[Array, " m"],
    g: Float[Array, "q n"],
    h: Float[Array, " q"],
    tol: Array,
) -> tuple[Int[Array, " k"], Bool[Array, " k"], Bool[Array, ""]]:
    """(row numbers, whether each place is taken, whether it has ended well); rows are of length one."""
    m, n = a.shape
    q = g.shape[0]
    places = max(1, min(n - m, q))
    precision = float(jnp.finfo(v.dtype).eps)
    dependent = precision ** (2 / 3)
    always = jnp.ones(m, bool)
    # Status: 0 looks for a violated row, 1 is adding row j, 2 has ended, 3 found the set to be empty.
    looking, adding, ended, empty = range(4)

    def step(carry):
        k, x, numbers, taken, weights, j, weight, status = carry
        excess = g @ x - h
        new = status == looking
        j = jnp.where(new, jnp.argmax(excess), j)
        weight = jnp.where(new, 0, weight)
        holds = new & (excess[j] <= tol)
        row = g[j]
        basis, r = factors(jnp.concatenate([a, g[numbers]]), jnp.concatenate([always, taken]))
        along = basis.T @ row
        z = basis @ along - row
        z = z - basis @ (basis.T @ z)
        change = jsl.solve_triangular(r, along, lower=False)[m:]
        size = jnp.sum(z * z)
        independent = size > dependent**2
        leaving = taken & (change > 100 * precision)
        ratios = jnp.where(leaving, weights / jnp.where(leaving, change, 1), jnp.inf)
        i = jnp.argmin(ratios)
        full = jnp.where(independent, excess[j] / jnp.where(independent, size, 1), jnp.inf)
        full = jnp.maximum(full, 0)
        t = jnp.minimum(ratios[i], full)
        moves = ~holds & jnp.isfinite(t)
        t = jnp.where(moves, t, 0)
        x = x + jnp.where(independent, t, 0) * z
        weights = jnp.where(taken, jnp.maximum(weights - t * change, 0), 0)
        weight = weight + t
        enters = moves & (full <= ratios[i])
        place = jnp.where(enters, jnp.argmin(taken), i)
        here = jnp.arange(places) == place
        numbers = jnp.where(here & enters, j, numbers)
        weights = jnp.where(here & moves, jnp.where(enters, weight, 0), weights)
        taken = jnp.where(here & moves, enters, taken)
        status = jnp.where(holds, ended, jnp.where(~moves, empty, jnp.where(enters, looking, adding)))
        return k + 1, x, numbers, taken, weights, j, weight, status

    limit = 10 * (n + q) + 20
    x, _, regular = onto(v, a, b, always)
    zero = jnp.zeros((), v.dtype)
    first = (
        jnp.array(0), x, jnp.zeros(places, int), jnp.zeros(places, bool), jnp.zeros(places, v.dtype),
        jnp.array(0), zero, jnp.where(regular, looking, empty),
    )  # fmt: skip
    found = _tree.while_loop(lambda carry: (carry[-1] < ended) & (carry[0] < limit), step, first)
    return found[2], found[3], found[-1] == ended

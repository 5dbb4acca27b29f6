"""Sets of linear equations and inequalities."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _tree
from ._active_set import onto, unit_rows, working_set
from ._base import AbstractSet, floating, held, only, scalar, spread


class Hyperplane(AbstractSet):
    """{x : ⟨a, x⟩ = b}: P(v) = v − a (⟨a, v⟩ − b)/‖a‖².

    **Arguments:**

    - `a`: the normal: a pytree like v, or an array or number that broadcasts to it; NaN if it is 0.
    - `b`: a scalar (unit of a · v).
    """

    a: PyTree[Any]
    b: Any = 0.0

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x, a, b, size = _normal(self.a, self.b, v)
        excess = jnp.sum(a * x) - b
        return _tree.unravel(only(size > 0, x - a * (excess / _square(a))), v)


class Halfspace(AbstractSet):
    """{x : ⟨a, x⟩ ≤ b}: P(v) = v − a max(⟨a, v⟩ − b, 0)/‖a‖².

    **Arguments:**

    - `a`: the outer normal, as in `Hyperplane`; if it is 0, all points for b ≥ 0, and NaN for b < 0.
    - `b`: a scalar (unit of a · v).
    """

    a: PyTree[Any]
    b: Any = 0.0

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x, a, b, size = _normal(self.a, self.b, v)
        excess = jnp.sum(a * x) - b
        out = excess > 0
        moved = x - a * (jnp.where(out, excess, 0) / _square(a))
        return _tree.unravel(only((size > 0) | (~out & (size == 0)), jnp.where(excess <= 0, x, moved)), v)


def _normal(a, b, v) -> tuple[Array, Array, Array, Array]:
    """v, and a and b divided by the largest entry of a (a constant, so the set is the same)."""
    x = _tree.ravel(v)
    a = _tree.ravel(spread(a, "a", v))
    b = scalar(b, "b", x.dtype)
    size = held(jnp.max(jnp.abs(a), initial=0))
    unit = jnp.where(size > 0, size, 1)
    return x, a / unit, b / unit, size


def _square(a: Array) -> Array:
    square = jnp.sum(a * a)
    return jnp.where(held(square) > 0, square, 1)


class Affine(AbstractSet):
    """{x : A x = b}: P(v) = v − A⁺(A v − b), by a QR decomposition of Aᵀ. O(m² n).

    **Arguments:**

    - `A`: shape (m, n), of full row rank m ≤ n, where n counts all scalars of v in the order of its
      leaves. NaN if rows are linearly dependent to working precision.
    - `b`: shape (m,).
    """

    A: Any
    b: Any

    def __check_init__(self):
        _check_rows(self.A, self.b, "A", "b")

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _tree.ravel(v)
        rows, values = unit_rows(*_system(self.A, self.b, "A", "b", x))
        _check_rank(rows, "A")
        x, _, regular = onto(x, rows, values, jnp.ones(values.shape, bool))
        return _tree.unravel(only(regular, x), v)


class Polyhedron(AbstractSet):
    """{x : A x = b, G x ≤ h}: P(v) solves min ½‖x − v‖² over it, exactly, by a dual active-set method.

    The method names the rows of G that hold P(v), linearly independent ones with multipliers λ ≥ 0; on
    these P is affine in v, and is differentiated in closed form, in v, A, b, G and h. The result is
    checked (feasible, λ ≥ 0); NaN if the set is empty, if rows of A are linearly dependent, or if the
    method has not ended after 10 (n + q) + 20 steps. One step costs O(n (m + min(n, q))² + n q), and
    there is about one for each row that holds P(v).

    **Arguments:**

    - `A`, `b`: shapes (m, n) and (m,), where n counts all scalars of v in the order of its leaves; None:
      no equation.
    - `G`, `h`: shapes (q, n) and (q,); entries ∞ of h are allowed; None: no inequality.

    **Limits:** a kink where a row that holds P(v) has λ = 0 (P changes its piece), or where more rows
    than are needed meet in P(v) and h moves them apart; the derivative is that of the piece found.

    **Reference:** Goldfarb, Idnani, A numerically stable dual method for solving strictly convex
    quadratic programs, Mathematical Programming 27, 1983.
    """

    A: Any = None
    b: Any = None
    G: Any = None
    h: Any = None

    def __check_init__(self):
        _check_rows(self.A, self.b, "A", "b")
        _check_rows(self.G, self.h, "G", "h")

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _tree.ravel(v)
        a, b = unit_rows(*_system(self.A, self.b, "A", "b", x))
        g, h = unit_rows(*_system(self.G, self.h, "G", "h", x))
        _check_rank(a, "A")
        return _tree.unravel(x if x.size == 0 else polyhedron(x, a, b, g, h), v)


def polyhedron(v: Array, a: Array, b: Array, g: Array, h: Array) -> Array:
    """The projection on {a x = b, g x ≤ h}, with rows of length one or zero."""
    point, limits = held((v, jnp.where(jnp.isfinite(h), h, 0)))
    sizes = [jnp.max(jnp.abs(u), initial=0) for u in (point, held(b), limits)]
    tol = 100 * v.size**0.5 * jnp.finfo(v.dtype).eps * sum(sizes)
    ok = jnp.array(True)
    rows, values, used = a, b, jnp.ones(b.shape, bool)
    if g.shape[0] > 0:
        numbers, taken, ok = working_set(point, *held((a, b, g, h)), tol)
        rows = jnp.concatenate([rows, g[numbers]])
        values = jnp.concatenate([values, h[numbers]])
        used = jnp.concatenate([used, taken])
    x, multipliers, regular = onto(v, rows, values, used)
    # Multipliers grow like the inverse of the angle between rows.
    noise = 10 * tol * (1 + jnp.max(jnp.abs(multipliers), initial=0) / jnp.where(tol > 0, sum(sizes), 1))
    ok &= regular & jnp.all(g @ x <= h + 10 * tol) & jnp.all(multipliers[b.size :] >= -noise)
    return only(held(ok), x)


def _system(rows: Any, values: Any, name: str, value_name: str, x: Array) -> tuple[Array, Array]:
    """Both in the precision of x, none as zero rows."""
    if rows is None:
        return jnp.zeros((0, x.size), x.dtype), jnp.zeros(0, x.dtype)
    if jnp.ndim(rows) != 2 or jnp.shape(rows)[1] != x.size or jnp.shape(values) != jnp.shape(rows)[:1]:
        raise ValueError(
            f"`{name}` has shape {jnp.shape(rows)} and `{value_name}` {jnp.shape(values)}, and `v` has "
            f"{x.size} scalars; expected shapes (rows, {x.size}) and (rows,)."
        )
    return jnp.asarray(rows, x.dtype), jnp.asarray(values, x.dtype)


def _check_rows(rows: Any, values: Any, name: str, value_name: str) -> None:
    if (rows is None) != (values is None):
        raise ValueError(
            f"`{name}` is {'None' if rows is None else 'given'} and `{value_name}` is "
            f"{'None' if values is None else 'given'}; expected both or none."
        )


def _check_rank(rows: Array, name: str) -> None:
    if rows.shape[0] > rows.shape[1]:
        raise ValueError(
            f"`{name}` has {rows.shape[0]} rows for {rows.shape[1]} unknowns, so they are linearly "
            "dependent; expected independent rows. Remove the redundant ones."
        )

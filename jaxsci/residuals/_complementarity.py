"""Complementarity a ≥ 0, b ≥ 0, a b = 0, entry by entry: for root finders, and for the derivative."""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree

from .. import _tree


def fischer_burmeister(a: Array, b: Array) -> Array:
    """φ(a, b) = a + b − √(a² + b²), which vanishes just where a ≥ 0, b ≥ 0 and a b = 0.

    Semismooth: Newton's method converges quadratically if every element of the generalized Jacobian is
    regular. At the origin the element (1, 1) is taken.
    """
    square = a * a + b * b
    away = square > 0
    length = jnp.where(away, jnp.sqrt(jnp.where(away, square, 1)), 0)
    # For a + b > 0 the difference cancels: there φ = 2 a b / (a + b + √(a² + b²)).
    large = a + b > 0
    quotient = 2 * a * b / jnp.where(large, a + b + length, 1)
    return jnp.where(large, quotient, a + b - length)


def tolerance(tol: float | None, like: PyTree[Array]) -> float:
    """`tol`, or the square root of the precision."""
    if tol is not None:
        return tol
    return float(jnp.finfo(jnp.result_type(*jtu.tree_leaves(like))).eps) ** 0.5


def check_tolerance(tol: float | None) -> None:
    """Raise `ValueError` unless `biactive_tol` is None or a number ≥ 0."""
    if tol is not None and not (isinstance(tol, float | int) and 0 <= tol < float("inf")):
        raise ValueError(f"`biactive_tol` is {tol!r}; expected a finite number ≥ 0, such as 1e-6, or None.")


def smaller(a: Array, b: Array, biactive: Bool[Array, "..."], one_sided: bool) -> Array:
    """min(a, b), with the derivative of the smaller of both.

    At a point where one is zero and the other positive, the smaller stays the smaller in a
    neighborhood: min(a, b) = 0 has there the solution and the derivatives of a b = 0, and rows of size
    one. Where both vanish there are two one-sided derivatives. There the derivative is NaN, or that of
    a if `one_sided`.
    """
    second = jax.lax.stop_gradient(a > b) & ~biactive
    row = jnp.where(second, b, a)
    return row if one_sided else without_derivative(row, biactive)


def both_small(a: Array, b: Array, limit: Array | float) -> Bool[Array, "..."]:
    """Where |a| and |b| are at most `limit`; not differentiated."""
    return jax.lax.stop_gradient((jnp.abs(a) <= limit) & (jnp.abs(b) <= limit))


def limit(tol: float | None, like: PyTree[Array], equations: PyTree[Array]) -> Array:
    """What counts as zero at a point: `tol`, or what its own residual leaves undecided."""
    return jnp.maximum(tolerance(tol, like), 10 * jax.lax.stop_gradient(_tree.max_abs(equations)))


def without_derivative(x: Array, where: Bool[Array, "..."]) -> Array:
    """x, with derivatives (of every order, in every argument) that are NaN at the given places.

    z = x − x₀ = 0 with dz = dx; d√(z²) = 2 z dz / 2√(z²) is 0/0. Elsewhere the root is of a constant.
    """
    z = jnp.where(where, x - jax.lax.stop_gradient(x), 1)
    return x + jnp.where(where, jnp.sqrt(z * z), 0)

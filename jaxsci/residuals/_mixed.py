"""Complementarity problems."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._residual import AbstractResidual
from ._complementarity import both_small, check_tolerance, fischer_burmeister, limit, smaller


class Complementarity(AbstractResidual):
    """0 ≤ y ⟂ F(y, θ) ≥ 0, entry by entry; or, with other bounds l ≤ y ≤ u, for each entry

        y = l and F ≥ 0,   or   l < y < u and F = 0,   or   y = u and F ≤ 0.

    Contact, obstacle and free-boundary problems, equilibria of prices, variational inequalities over
    boxes; with F = ∇f the minimum of f within bounds.

    Solvers see √(a² + b²) − a − b = 0 of the complementary pairs (Fischer and Burmeister; Billups for
    two bounds), on which Newton's method converges; fixed-point solvers iterate y ← clip(y − F, l, u).
    The implicit function theorem linearises the equation that holds: y = l, F = 0 or y = u.

    **Arguments:**

    - `fn`: (y, args) ↦ F, of the structure and shapes of y.
    - `lower`, `upper`: l and u, with l < u: a number, an array that broadcasts against every leaf of y,
      or a pytree of such of the structure of y; None or ∓∞ for no bound (unit of y). Arrays are
      parameters, and are differentiated.
    - `biactive_tol`: an entry at a bound with F = 0 too, both up to this (units of y and of F) or up to
      ten times the residual at the given point, has no derivative that could be known. None: the square
      root of the precision.
    - `one_sided`: where that happens, the derivative of the whole solution is NaN; if True, it is the
      one-sided derivative with the entry held at its bound.

    **Raises:** `ValueError` if F has other shapes than y.

    **Limits:** the derivative exists where ∂F/∂y, restricted to the entries between the bounds, is
    regular and no entry is biactive.

    **Reference:** Fischer, Optimization 24, 1992; Billups, PhD thesis, Wisconsin–Madison, 1995; Facchinei
    & Pang, Finite-Dimensional Variational Inequalities and Complementarity Problems, 2003.
    """

    fn: Callable
    lower: PyTree
    upper: PyTree
    biactive_tol: float | None = eqx.field(static=True)
    one_sided: bool = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable,
        *,
        lower: PyTree = 0.0,
        upper: PyTree = None,
        biactive_tol: float | None = None,
        one_sided: bool = False,
    ):
        check_tolerance(biactive_tol)
        self.fn = fn
        self.lower = lower
        self.upper = upper
        self.biactive_tol = biactive_tol
        self.one_sided = one_sided

    def _parts(self, y, args):
        """The leaves of y, F, y − l and u − y."""
        f = self.fn(y, args)
        ys, structure = jtu.tree_flatten(y)
        shapes = [jnp.shape(x) for x in ys]
        if [jnp.shape(x) for x in jtu.tree_leaves(f)] != shapes:
            raise ValueError(
                f"`fn` of Complementarity returned arrays of shapes {jtu.tree_map(jnp.shape, f)}; expected "
                f"{jtu.tree_map(jnp.shape, y)}, the shapes of y: each entry of F belongs to one of y."
            )
        lower = [y - b for y, b in zip(ys, _bounds(self.lower, y, -jnp.inf), strict=True)]
        upper = [b - y for y, b in zip(ys, _bounds(self.upper, y, jnp.inf), strict=True)]
        return structure, jtu.tree_leaves(f), lower, upper

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        structure, *parts = self._parts(y, args)
        rows = [-_pair(above, -_pair(below, f)) for f, below, above in zip(*parts, strict=True)]
        return jtu.tree_unflatten(structure, rows)

    def root(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self(y, args)

    def optimality(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        structure, *parts = self._parts(y, args)
        residual = [
            jnp.maximum(jnp.minimum(below, f), -above) for f, below, above in zip(*parts, strict=True)
        ]
        zero = limit(self.biactive_tol, y, residual)
        rows = []
        for f, below, above in zip(*parts, strict=True):
            inner = smaller(below, f, both_small(below, f, zero), self.one_sided)
            rows.append(-smaller(above, -inner, both_small(above, inner, zero), self.one_sided))
        return jtu.tree_unflatten(structure, rows)

    def fixed_point(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        structure, f, below, above = self._parts(y, args)
        steps = [jnp.clip(-f, -b, a) for f, b, a in zip(f, below, above, strict=True)]
        return jtu.tree_map(jnp.add, y, jtu.tree_unflatten(structure, steps))


def _pair(a: Array, b: Array) -> Array:
    """φ(a, b), which is b where a is infinite (no bound)."""
    bounded = jnp.isfinite(a)
    return jnp.where(bounded, fischer_burmeister(jnp.where(bounded, a, 1), b), b)


def _bounds(bound: PyTree, y: PyTree[Array], nothing: float) -> list:
    """One bound for every leaf of y."""
    count = len(jtu.tree_leaves(y))
    if bound is None:
        return [nothing] * count
    if jtu.tree_structure(bound) == jtu.tree_structure(y):
        return jtu.tree_leaves(bound)
    return [bound] * count

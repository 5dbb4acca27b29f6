"""Roots and fixed points."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._residual import AbstractResidual


class Root(AbstractResidual):
    """F(y, θ) = 0 for a given function.

    **Arguments:**

    - `fn`: (y, args) ↦ F, a pytree of arrays with as many scalars as y.
    - `tags`: lineax tags that ∂F/∂y is promised to have (`lineax.symmetric_tag`,
      `lineax.positive_semidefinite_tag`); they select cheaper linear solves and are not checked.

    **Limits:** the derivative exists where ∂F/∂y is regular.
    """

    fn: Callable
    promised: frozenset = eqx.field(static=True)

    def __init__(self, fn: Callable, *, tags: frozenset = frozenset()):
        self.fn = fn
        self.promised = frozenset(tags)

    @property
    def tags(self):
        return self.promised

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.fn(y, args)


class FixedPoint(AbstractResidual):
    """y = T(y, θ), as F(y, θ) = y − T(y, θ).

    **Arguments:**

    - `fn`: T, (y, args) ↦ a pytree of the structure of y.

    **Limits:** the derivative exists where 1 is no eigenvalue of ∂T/∂y; T need not be a contraction.
    """

    fn: Callable

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return jtu.tree_map(jnp.subtract, y, self.fn(y, args))

    def fixed_point(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.fn(y, args)

"""Recurrent networks at their equilibrium."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from .._residual import AbstractResidual


def _identity(u: PyTree[Array]) -> PyTree[Array]:
    return u


class PreActivation(AbstractResidual):
    """a = σ(F(a, θ)), as a − σ(F(a, θ)) = 0: a fixed point that tells its activation apart.

    As good as `FixedPoint(lambda a, θ: σ(F(a, θ)))` for every solver and for the implicit rule, and the
    form that `EquilibriumPropagation` and `jacobian_asymmetry` need: what matters to them is ∂F/∂a.

    **Arguments:**

    - `fn`: F, (a, args) ↦ pre-activations, of the structure of a.
    - `activation`: σ, a map of pre-activations to the structure of a; elementwise, or the gradient of a
      scalar (softmax). The identity by default.

    **Limits:** the derivative exists where I − σ′ ∂F/∂a is regular. That σ′ is symmetric, as it is for
    the functions above, is not checked; `EquilibriumPropagation` relies on it.
    """

    fn: Callable
    activation: Callable = _identity

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return jtu.tree_map(jnp.subtract, y, self.fixed_point(y, args))

    def fixed_point(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.activation(_tree.shaped_like(y, self.fn(y, args)))
